"""Rows from `.npz` and `.npy`: each array is read piece by piece, and never as a pickle.

An `.npz` is a zip of `.npy` members; all that are wanted are read side by side.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from wherry_controller.builder.data.rows import Array, Tensors, rows_a_part
from wherry_controller.builder.data.wanted import Purpose, names_wanted
from wherry_controller.builder.faults import refuse, refusing
from wherry_controller.core.card import Card
from wherry_controller.core.fault import BuildReason

LARGEST_ROW_BYTES = 256 * 1024 * 1024
SUFFIX = ".npy"


def npz_parts(file: Path, card: Card, purpose: Purpose) -> Iterator[Tensors]:
    with zipfile.ZipFile(file) as archive, ExitStack() as streams:
        members = _members(file, archive)
        names = names_wanted(card, purpose, file.name, members)
        arrays = {
            name: _opened(streams.enter_context(archive.open(members[name])), name, file.name)
            for name in names
        }
        yield from _parts(file.name, arrays)


def npy_parts(file: Path, card: Card, purpose: Purpose) -> Iterator[Tensors]:
    """Read the only input of a signature; there is no place for labels."""
    if purpose is Purpose.JUDGE:
        problem = f"{file.name} has no place for labels, so it can only calibrate; save an .npz"
        refuse(BuildReason.MALFORMED_DATA, problem)
    if len(card.signature.inputs) - len(card.signature.states) != 1:
        problem = f"{file.name} is one array and the signature has several inputs; save an .npz"
        refuse(BuildReason.MALFORMED_DATA, problem)
    states = {pair.input for pair in card.signature.states}
    name = next(tensor.name for tensor in card.signature.inputs if tensor.name not in states)
    with file.open("rb") as stream:
        yield from _parts(file.name, {name: _opened(stream, name, file.name)})


@dataclass(frozen=True, slots=True)
class _Stored:
    """An array whose header is read and whose rows follow in `stream`."""

    what: str
    stream: IO[bytes]
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape[1:])

    def read(self, rows: int) -> Array:
        size = rows * self.row_bytes
        data = self.stream.read(size)
        if len(data) != size:
            refuse(
                BuildReason.MALFORMED_DATA, f"{self.what} ends before its last row; save it again"
            )
        return np.frombuffer(data, self.dtype).reshape(rows, *self.shape[1:])

    def finish(self) -> None:
        # Only a stream that was read to its end has had its checksum compared.
        if self.stream.read(1):
            refuse(
                BuildReason.MALFORMED_DATA, f"{self.what} goes on after its last row; save it again"
            )


def _members(file: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(SUFFIX)
        if name in members:
            refuse(BuildReason.MALFORMED_DATA, f"{file.name} holds {name!r} twice")
        members[name] = member
    return members


def _opened(stream: IO[bytes], name: str, file: str) -> _Stored:
    what = f"{name!r} of {file}"
    with refusing(BuildReason.MALFORMED_DATA, f"{what} is no numpy array"):
        shape, by_columns, dtype = _header(stream)
    stored = _Stored(what, stream, dtype, shape)
    if dtype.hasobject:
        problem = f"{what} holds Python objects, which are code; save numbers"
        refuse(BuildReason.MALFORMED_DATA, problem)
    if by_columns:
        problem = f"{what} is stored by columns; save it after numpy.ascontiguousarray"
        refuse(BuildReason.MALFORMED_DATA, problem)
    if not shape or min(shape) < 1:
        refuse(BuildReason.MALFORMED_DATA, f"{what} has the shape {list(shape)}, so it has no rows")
    if stored.row_bytes > LARGEST_ROW_BYTES:
        refuse(
            BuildReason.MALFORMED_DATA, f"a row of {what} has more than {LARGEST_ROW_BYTES} bytes"
        )
    return stored


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"its version is {version[0]}.{version[1]}")


def _parts(file: str, arrays: dict[str, _Stored]) -> Iterator[Tensors]:
    rows = _same_rows(file, arrays)
    step = rows_a_part(sum(stored.row_bytes for stored in arrays.values()))
    for start in range(0, rows, step):
        count = min(step, rows - start)
        yield {name: stored.read(count) for name, stored in arrays.items()}
    for stored in arrays.values():
        stored.finish()


def _same_rows(file: str, arrays: dict[str, _Stored]) -> int:
    counts = {name: stored.shape[0] for name, stored in arrays.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} of {name!r}" for name, count in counts.items())
        refuse(BuildReason.MALFORMED_DATA, f"the arrays of {file} differ in rows ({listed})")
    return next(iter(counts.values()))
