"""Cards and files of rows for these tests, valid by default."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.builders import a_signature
from wherry.names import parse_model_name, parse_version_name
from wherry.signature import BATCH, Datatype, Signature, Tensor
from wherry_controller.builder.data.read import Datasets, read_datasets
from wherry_controller.core.card import Card, Data, Source, SourceKind, Task
from wherry_controller.core.fault import BuildReason, BuildRefused, Fault

Array = npt.NDArray[np.generic]

ROWS = 120
PAIRS = np.random.default_rng(1).random((ROWS, 2)).astype(np.float32)
LABELS = np.arange(ROWS) % 3


def a_card(
    data: Data | None = None,
    *,
    signature: Signature | None = None,
    task: Task | None = None,
    labels: tuple[str, ...] = (),
) -> Card:
    """Return the card of a classifier of three classes by two numbers, judged by `rows.npz`."""
    return Card(
        model=parse_model_name("pairs"),
        version=parse_version_name("v1"),
        source=Source(kind=SourceKind.ONNX, file="net.onnx"),
        signature=signature or a_signature(),
        task=task or Task(output="scores"),
        data=data or Data(evaluation="rows.npz"),
        labels=labels,
    )


def an_image(*shape: int | str, datatype: Datatype = Datatype.FP32, layout: str = "") -> Tensor:
    return Tensor("image", datatype, (BATCH, *shape), layout)


def save(folder: Path, name: str = "rows.npz", **arrays: Array) -> Path:
    np.savez(folder / name, **arrays)  # type: ignore[arg-type]
    return folder / name


def read(card: Card, folder: Path) -> Datasets:
    """Read what the card names in `folder` into a folder in it."""
    return read_datasets(card, folder, folder / "data")


def everything(datasets: Datasets, name: str = "image") -> Array:
    """Return an input's rows of search and final, in a sorted order that a test can compare."""
    both = np.concatenate([datasets.search.inputs[name], datasets.final.inputs[name]])
    return both[np.lexsort(both.reshape(len(both), -1).T)]


def in_order(array: Array) -> Array:
    """Return rows in the order of `everything`."""
    return array[np.lexsort(array.reshape(len(array), -1).T)]


def the_fault(act: Callable[[], object]) -> Fault:
    with pytest.raises(BuildRefused) as refusal:
        act()
    return refusal.value.fault


def refused(card: Card, folder: Path, reason: BuildReason, *words: str) -> None:
    """Check that reading is refused by that name, in a sentence with those words."""
    fault = the_fault(lambda: read(card, folder))
    assert fault.reason is reason, fault.sentence
    assert all(word in fault.sentence for word in words), fault.sentence
