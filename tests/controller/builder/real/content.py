"""A version of magika: its ONNX file, and real files of this Python told apart by their names.

The features are those of the model's own package: the first and the last 1,024 bytes of a file
without the white space around them, filled up with 256.
"""

from __future__ import annotations

import json
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.controller.builder.sources.cards import CONTENT, magika
from wherry.names import parse_model_name, parse_version_name
from wherry_controller.core.card import Card, Data, Goal, Source, SourceKind, Task

KINDS = {".py": "python", ".so": "elf", ".pyc": "pythonbytecode", ".h": "c", ".rst": "rst"}
KINDS |= {".json": "json", ".txt": "txt", ".npz": "npz", ".npy": "npy", ".csv": "csv"}
KINDS |= {".png": "png", ".js": "javascript", ".css": "css", ".svg": "svg", ".gz": "gzip"}
FILES_A_KIND, CALIBRATION = 14, 25
HALF, READ, FILLING = 1024, 4096, 256
LARGEST_BYTES = 1 << 20


def kinds_known() -> tuple[str, ...]:
    """Return the model's labels in their order."""
    settings = json.loads((magika().parent / "config.min.json").read_bytes())
    return tuple(settings["target_labels_space"])


def a_content_card() -> Card:
    return Card(
        model=parse_model_name("content"),
        version=parse_version_name("v1"),
        source=Source(kind=SourceKind.ONNX, file="model.onnx"),
        signature=CONTENT,
        task=Task(output="target_label"),
        data=Data(evaluation="evaluation.npz", calibration="calibration.npz"),
        goal=Goal(floor=0.5, largest_drop=0.2),
        labels=kinds_known(),
    )


def write_content_version(folder: Path) -> None:
    shutil.copy(magika(), folder / "model.onnx")
    known = kinds_known()
    rows = {features(file).tobytes(): known.index(kind) for file, kind in _files()}
    numbers = np.stack([np.frombuffer(row, np.int32) for row in rows])
    labels = np.array(list(rows.values()), np.int64)
    order = np.random.default_rng(3).permutation(len(labels))
    numbers, labels = numbers[order], labels[order]
    judged = slice(CALIBRATION, None)
    np.savez(folder / "calibration.npz", bytes=numbers[:CALIBRATION])
    np.savez(folder / "evaluation.npz", bytes=numbers[judged], labels=labels[judged])


def features(file: Path) -> npt.NDArray[np.int32]:
    data = file.read_bytes()
    first, last = data[:READ].lstrip()[:HALF], data[-READ:].rstrip()[-HALF:]
    numbers = np.full(2 * HALF, FILLING, np.int32)
    numbers[: len(first)] = np.frombuffer(first, np.uint8)
    numbers[2 * HALF - len(last) :] = np.frombuffer(last, np.uint8)
    return numbers


def _files() -> Iterator[tuple[Path, str]]:
    """Yield some files of each kind, from wheels whose versions are pinned."""
    packages = Path(sysconfig.get_paths()["purelib"])
    for suffix, kind in KINDS.items():
        found = (
            file
            for name in ("sklearn", "numpy", "scipy", "mlxtend", "onnx", "torch/include")
            for file in sorted((packages / name).rglob(f"*{suffix}"))
        )
        fitting = (file for file in found if 2 * HALF < file.stat().st_size < LARGEST_BYTES)
        yield from ((file, kind) for file, _ in zip(fitting, range(FILES_A_KIND), strict=False))
