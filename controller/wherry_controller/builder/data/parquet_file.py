"""Rows from `.parquet`: batches of a file's row groups, columns of numbers or of lists of them.

The only module that knows pyarrow.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow.compute
import pyarrow.parquet
import pyarrow.types

from wherry.signature import Tensor
from wherry_controller.builder.data.rows import Array, Tensors, rows_a_part
from wherry_controller.builder.data.table import (
    columns_of,
    converted,
    label_columns_of,
    shaped,
)
from wherry_controller.builder.data.wanted import Purpose
from wherry_controller.builder.faults import refuse
from wherry_controller.core.card import Card
from wherry_controller.core.fault import BuildReason

BUFFER_BYTES = 256 * 1024
BATCH_ROWS = 256  # Equal values take next to no bytes in the file, and do in memory.


class _Column(Protocol):
    """A column of one batch, as pyarrow gives it."""

    @property
    def null_count(self) -> int: ...
    @property
    def type(self) -> object: ...
    def __len__(self) -> int: ...
    def dictionary_decode(self) -> _Column: ...
    def flatten(self) -> _Column: ...
    def to_numpy(self, *, zero_copy_only: bool) -> Array: ...
    def to_pylist(self) -> list[object]: ...


class _Group(Protocol):
    @property
    def total_byte_size(self) -> int: ...


class _Metadata(Protocol):
    """What a file says of itself, as pyarrow gives it."""

    @property
    def num_rows(self) -> int: ...
    @property
    def num_row_groups(self) -> int: ...
    def row_group(self, at: int) -> _Group: ...


def parquet_parts(file: Path, card: Card, purpose: Purpose) -> Iterator[Tensors]:
    # Reading ahead, or without a buffer, would keep whole row groups in memory.
    with pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER_BYTES) as table:
        header = table.schema_arrow.names
        inputs = columns_of(card, file.name, header)
        labels = label_columns_of(card, purpose, file.name, header)
        columns = [*(column for columns in inputs.values() for column in columns), *labels]
        wanted = list(dict.fromkeys(columns))
        for batch in table.iter_batches(
            _batch_rows(table.metadata), columns=wanted, use_threads=False
        ):
            if batch.num_rows:
                cells = {name: _cells(file.name, name, batch.column(name)) for name in wanted}
                yield _part(card, file.name, inputs, labels, cells)


def _batch_rows(metadata: _Metadata) -> int:
    """Return how many rows make up a part, by what the file says of its own size."""
    groups = (metadata.row_group(at) for at in range(metadata.num_row_groups))
    size_bytes = sum(group.total_byte_size for group in groups)
    return min(BATCH_ROWS, rows_a_part(size_bytes // max(1, metadata.num_rows)))


def _part(
    card: Card,
    file: str,
    inputs: dict[str, tuple[str, ...]],
    labels: tuple[str, ...],
    cells: Tensors,
) -> Tensors:
    part = {name: cells[name] for name in labels}
    for tensor in card.signature.inputs:
        if tensor.name in inputs:
            columns = (cells[column] for column in inputs[tensor.name])
            part[tensor.name] = _input(card, file, tensor, tuple(columns))
    return part


def _input(card: Card, file: str, tensor: Tensor, columns: tuple[Array, ...]) -> Array:
    spot = f"a column of {tensor.name!r} in {file}"
    flat = [converted(spot, tensor.datatype, column).reshape(len(column), -1) for column in columns]
    return shaped(card, file, tensor, np.concatenate(flat, axis=1))


def _cells(file: str, name: str, column: _Column) -> Array:
    """Return [rows] of numbers or texts, or [rows, length, …] of lists that are equally long."""
    if column.null_count:
        refuse(BuildReason.MALFORMED_DATA, f"the column {name!r} of {file} has empty cells")
    kind = column.type
    if pyarrow.types.is_dictionary(kind):
        return _cells(file, name, column.dictionary_decode())
    if _is_list(kind):
        return _lists(file, name, column)
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        return np.array(column.to_pylist(), np.str_)
    if not _is_number(kind):
        problem = f"the column {name!r} of {file} holds {kind}, which are no numbers"
        refuse(BuildReason.MALFORMED_DATA, problem)
    return column.to_numpy(zero_copy_only=False)


def _lists(file: str, name: str, column: _Column) -> Array:
    """Return lists as one more axis; all values follow one another, so only lengths can differ."""
    lengths = set(pyarrow.compute.list_value_length(column).to_pylist())
    if len(lengths) != 1:
        problem = f"the lists in the column {name!r} of {file} differ in length"
        refuse(BuildReason.MALFORMED_DATA, problem)
    inner = _cells(file, name, column.flatten())
    return inner.reshape(len(column), lengths.pop(), *inner.shape[1:])


def _is_number(kind: object) -> bool:
    known = (pyarrow.types.is_integer, pyarrow.types.is_floating, pyarrow.types.is_boolean)
    return any(check(kind) for check in known)


def _is_list(kind: object) -> bool:
    types = pyarrow.types
    return any(
        check(kind) for check in (types.is_list, types.is_large_list, types.is_fixed_size_list)
    )
