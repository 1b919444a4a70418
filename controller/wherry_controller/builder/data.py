"""Rows of real data from `.npz` files: read strictly, bounded by the signature, told apart.

`Rows.inputs` holds one array an input of the signature, all with the same number of rows;
`labels` are indices of classes, empty where the file is for calibration. A row's digest is over
the bytes of all its inputs, so that one row is found again in any file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wherry.signature import BadSignature, Datatype, Signature, Tensor, batch_of
from wherry_controller.builder.faults import refuse, refusing
from wherry_controller.core.recipe import FEWEST_CALIBRATION_ROWS, BuildReason

Array = npt.NDArray[np.generic]
Tensors = Mapping[str, Array]

LABELS = "labels"
NUMPY = {
    Datatype.BOOL: np.dtype(np.bool_),
    Datatype.UINT8: np.dtype(np.uint8),
    Datatype.INT8: np.dtype(np.int8),
    Datatype.INT32: np.dtype(np.int32),
    Datatype.INT64: np.dtype(np.int64),
    Datatype.FP16: np.dtype(np.float16),
    Datatype.FP32: np.dtype(np.float32),
    Datatype.FP64: np.dtype(np.float64),
}


@dataclass(frozen=True, slots=True)
class Rows:
    inputs: Tensors
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def part(self, rows: slice | npt.NDArray[np.int64]) -> Tensors:
        return {name: array[rows] for name, array in self.inputs.items()}


def datatype_of(dtype: np.dtype[np.generic]) -> Datatype | None:
    return next((kind for kind, known in NUMPY.items() if known == dtype), None)


def read_evaluation(path: Path, signature: Signature, classes: int) -> Rows:
    """Return the rows and labels in `path`; `classes` is how many labels have a name, 0 if none."""
    arrays = _read(path)
    inputs = _inputs(path, arrays, signature)
    rows = Rows(inputs, _labels(path, arrays))
    if len(rows) != len(rows.labels):
        refuse(
            BuildReason.MALFORMED_DATA,
            f"{path.name} has {len(rows)} rows and {len(rows.labels)} labels",
        )
    if classes and rows.labels.max() >= classes:
        refuse(
            BuildReason.MALFORMED_DATA,
            f"{path.name} has the label {rows.labels.max()} and model.toml names {classes} classes",
        )
    return rows


def read_calibration(path: Path | None, signature: Signature) -> Rows:
    if path is None or not path.is_file():
        refuse(BuildReason.CALIBRATION_MISSING, "an int8 variant needs calibration data")
    rows = Rows(_inputs(path, _read(path), signature), np.empty(0, np.int64))
    if len(rows) < FEWEST_CALIBRATION_ROWS:
        refuse(BuildReason.CALIBRATION_SHORT, f"{path.name} has only {len(rows)} rows")
    return rows


def refuse_overlap(calibration: Rows, evaluation: Rows) -> None:
    """Refuse data of which a row serves to calibrate and to evaluate: no figure would show it."""
    shared = row_digests(calibration) & row_digests(evaluation)
    if shared:
        problem = f"{len(shared)} of the evaluation rows stand in the calibration file too"
        refuse(BuildReason.DATA_OVERLAP, problem)


def row_digests(rows: Rows) -> frozenset[bytes]:
    return frozenset(_row_digest(rows, index) for index in range(len(rows)))


def _row_digest(rows: Rows, index: int) -> bytes:
    digest = hashlib.sha256()
    for name in sorted(rows.inputs):
        digest.update(np.ascontiguousarray(rows.inputs[name][index]).tobytes())
    return digest.digest()


def _read(path: Path) -> dict[str, Array]:
    with (
        refusing(BuildReason.MALFORMED_DATA, f"{path.name} cannot be read"),
        np.load(path, allow_pickle=False) as file,
    ):
        return {name: file[name] for name in file.files}


def _inputs(path: Path, arrays: dict[str, Array], signature: Signature) -> Tensors:
    inputs = {tensor.name: _input(path, arrays, tensor) for tensor in signature.inputs}
    if len({len(array) for array in inputs.values()}) != 1:
        refuse(BuildReason.MALFORMED_DATA, f"the arrays of {path.name} differ in rows")
    return inputs


def _input(path: Path, arrays: dict[str, Array], tensor: Tensor) -> Array:
    array = arrays.get(tensor.name)
    if array is None:
        refuse(BuildReason.MALFORMED_DATA, f"{path.name} has no array {tensor.name!r}")
    if array.dtype != NUMPY[tensor.datatype]:
        problem = f"{tensor.name!r} in {path.name} is {array.dtype}, not {tensor.datatype.value}"
        refuse(BuildReason.MALFORMED_DATA, problem)
    try:
        batch_of(tensor, array.shape)
    except BadSignature as error:
        refuse(BuildReason.MALFORMED_DATA, f"in {path.name} {error.problem}")
    if array.dtype.kind == "f" and not np.isfinite(array.astype(np.float64)).all():
        refuse(BuildReason.MALFORMED_DATA, f"{tensor.name!r} in {path.name} has NaN or infinity")
    return array


def _labels(path: Path, arrays: dict[str, Array]) -> npt.NDArray[np.int64]:
    labels = arrays.get(LABELS)
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        refuse(BuildReason.MALFORMED_DATA, f"{path.name} has no row of whole numbers {LABELS!r}")
    if labels.min() < 0:
        refuse(BuildReason.MALFORMED_DATA, f"{path.name} has a label below 0")
    return labels.astype(np.int64)
