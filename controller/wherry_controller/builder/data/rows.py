"""Rows on disk: one `.npy` a tensor, written part by part and read by memory map.

Nothing here keeps more than a part in memory. A row's digest is over the bytes of all its inputs,
by their names in order, so that one row is found again in any file. The files are scratch of one
build, so they are neither synced nor renamed into place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt

from wherry.signature import Datatype

Array = npt.NDArray[np.generic]
Tensors = Mapping[str, Array]
Indices = npt.NDArray[np.int64]

PART_BYTES = 4 * 1024 * 1024
PART_ROWS = 8192  # However small they are: each has a digest, which Python keeps as an object.
LISTING = "rows.json"
NUMPY: dict[Datatype, np.dtype[np.generic]] = {
    Datatype.BOOL: np.dtype(np.bool_),
    Datatype.UINT8: np.dtype(np.uint8),
    Datatype.INT8: np.dtype(np.int8),
    Datatype.INT32: np.dtype(np.int32),
    Datatype.INT64: np.dtype(np.int64),
    Datatype.FP16: np.dtype(np.float16),
    Datatype.FP32: np.dtype(np.float32),
    Datatype.FP64: np.dtype(np.float64),
}


def datatype_of(dtype: np.dtype[np.generic]) -> Datatype | None:
    return next((kind for kind, known in NUMPY.items() if known == dtype), None)


@dataclass(frozen=True, slots=True)
class Rows:
    """As many rows in each file, by the input's name; `labels` is empty for calibration.

    Each look at `inputs` maps the files anew, so that what was read leaves memory with the last
    array that shows it.
    """

    files: Mapping[str, Path]
    labels: Tensors

    @property
    def inputs(self) -> Tensors:
        return {name: _mapped(file) for name, file in self.files.items()}

    def __len__(self) -> int:
        return len(_mapped(next(iter(self.files.values()))))

    def part(self, rows: slice | Indices) -> Tensors:
        """Return those rows of all inputs, as copies in memory."""
        return {name: np.array(array[rows]) for name, array in self.inputs.items()}

    def parts(self) -> Iterator[Tensors]:
        """Return all rows in order, a few megabytes at a time."""
        sizes = (array[:1].nbytes for array in self.inputs.values())
        step = rows_a_part(sum(sizes))
        return (self.part(slice(start, start + step)) for start in range(0, len(self), step))


class _Listing(msgspec.Struct, frozen=True):
    """The tensors' names in the order of their files."""

    inputs: tuple[str, ...]
    labels: tuple[str, ...]


class Writer:
    """Rows that grow part by part; every part has the same tensors, alike but for their rows."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._inputs: dict[str, _Growing] = {}
        self._labels: dict[str, _Growing] = {}

    def append(self, inputs: Tensors, labels: Tensors) -> None:
        if not self._inputs:
            self._inputs = _growing(self._folder, "input", inputs)
            self._labels = _growing(self._folder, "label", labels)
        for name, array in inputs.items():
            self._inputs[name].append(array)
        for name, array in labels.items():
            self._labels[name].append(array)

    def close(self) -> None:
        """Close the files; what was written so far is readable."""
        for growing in (*self._inputs.values(), *self._labels.values()):
            growing.close()

    def finish(self) -> Rows:
        """Close the files and return their rows, of which there must be one at least."""
        self.close()
        listing = _Listing(tuple(self._inputs), tuple(self._labels))
        (self._folder / LISTING).write_bytes(msgspec.json.encode(listing))
        return open_rows(self._folder)


def write_rows(folder: Path, inputs: Tensors, labels: Tensors) -> Rows:
    """Write the rows of arrays that are in memory."""
    writer = Writer(folder)
    writer.append(inputs, labels)
    return writer.finish()


def open_rows(folder: Path) -> Rows:
    """Return the rows that were written into `folder`, by this process or another."""
    listing = msgspec.json.decode((folder / LISTING).read_bytes(), type=_Listing)
    files = {name: _file(folder, "input", at) for at, name in enumerate(listing.inputs)}
    labels = {name: _file(folder, "label", at) for at, name in enumerate(listing.labels)}
    return Rows(files, {name: _mapped(file) for name, file in labels.items()})


def rows_a_part(row_bytes: int) -> int:
    """Return how many rows of that size are read or written at a time."""
    return min(PART_ROWS, max(1, PART_BYTES // max(1, row_bytes)))


def digests_of(inputs: Tensors) -> list[bytes]:
    """Return a digest a row, in order."""
    arrays = [np.ascontiguousarray(inputs[name]) for name in sorted(inputs)]
    return [_digest(row) for row in zip(*arrays, strict=True)]


def _digest(row: tuple[Array, ...]) -> bytes:
    digest = hashlib.sha256()
    for values in row:
        digest.update(values.tobytes())
    return digest.digest()


class _Growing:
    """One `.npy` to which rows are appended; its header is written again with their number."""

    def __init__(self, file: Path, like: Array) -> None:
        self._file: BinaryIO = file.open("wb")
        self._dtype, self._shape = like.dtype, like.shape[1:]
        self._rows = 0
        self._write_header()

    def append(self, array: Array) -> None:
        if (array.dtype, array.shape[1:]) != (self._dtype, self._shape):
            raise ValueError(f"{array.dtype} {array.shape} follows {self._dtype} {self._shape}")
        self._file.write(np.ascontiguousarray(array).data)
        self._rows += len(array)

    def close(self) -> None:
        if self._file.closed:
            return
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        # numpy pads the header so that the first axis may grow without moving the data.
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._rows, *self._shape),
        }
        np.lib.format.write_array_header_1_0(self._file, header)


def _growing(folder: Path, kind: str, arrays: Tensors) -> dict[str, _Growing]:
    named = enumerate(arrays.items())
    return {name: _Growing(_file(folder, kind, at), array) for at, (name, array) in named}


def _file(folder: Path, kind: str, at: int) -> Path:
    # A tensor's name may hold any character, so it names no file.
    return folder / f"{kind}_{at}.npy"


def _mapped(file: Path) -> Array:
    array: Array = np.load(file, mmap_mode="r", allow_pickle=False)
    return array
