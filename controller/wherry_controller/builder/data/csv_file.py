"""Rows from `.csv`: a header, then a line a row, each cell read strictly.

UTF-8 with commas. A cell of an input is a number as programs write it (no spaces, no `nan`, no
thousands); a label of a class may be its name.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from wherry.signature import Datatype, Tensor
from wherry_controller.builder.data.labels import class_number
from wherry_controller.builder.data.rows import NUMPY, Array, Tensors, rows_a_part
from wherry_controller.builder.data.table import (
    columns_of,
    converted,
    label_columns_of,
    shaped,
)
from wherry_controller.builder.data.wanted import Purpose
from wherry_controller.builder.faults import refuse
from wherry_controller.core.card import Card, MetricName
from wherry_controller.core.fault import BuildReason

LONGEST_LINE = 16 * 1024 * 1024
BOOLEANS = {"0": False, "1": True, "false": False, "true": True}
NUMBERS = re.compile(r"[-+.eE0-9\n]*")
WHOLE_NUMBER = re.compile(r"[-+]?[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where in a line the cells of each input stand, and those of the labels."""

    width: int
    inputs: dict[str, tuple[int, ...]]
    labels: dict[str, int]


def csv_parts(file: Path, card: Card, purpose: Purpose) -> Iterator[Tensors]:
    with file.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(_lines(text, file.name), strict=True)
        columns = _columns(card, purpose, file.name, next(reader, []))
        rows: list[Tensors] = []
        for cells in reader:
            if cells:
                rows.append(_row(card, columns, f"line {reader.line_num} of {file.name}", cells))
            if rows and len(rows) == rows_a_part(_size(rows[0])):
                yield _stacked(card, file.name, rows)
                rows = []
        if rows:
            yield _stacked(card, file.name, rows)


def _lines(text: TextIO, file: str) -> Iterator[str]:
    number = 0
    while line := text.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE:
            problem = f"line {number} of {file} has more than {LONGEST_LINE} characters"
            refuse(BuildReason.MALFORMED_DATA, problem)
        yield line


def _columns(card: Card, purpose: Purpose, file: str, header: Sequence[str]) -> _Columns:
    inputs = columns_of(card, file, header)
    labels = label_columns_of(card, purpose, file, header)
    for name in (*(name for names in inputs.values() for name in names), *labels):
        if header.count(name) > 1:
            refuse(BuildReason.MALFORMED_DATA, f"{file} has the column {name!r} twice")
    return _Columns(
        len(header),
        {name: tuple(header.index(column) for column in inputs[name]) for name in inputs},
        {name: header.index(name) for name in labels},
    )


def _row(card: Card, columns: _Columns, spot: str, cells: Sequence[str]) -> Tensors:
    if len(cells) != columns.width:
        problem = f"{spot} has {len(cells)} cells and the header has {columns.width}"
        refuse(BuildReason.MALFORMED_DATA, problem)
    row: dict[str, Array] = {}
    for tensor in card.signature.inputs:
        if tensor.name in columns.inputs:
            texts = [cells[at] for at in columns.inputs[tensor.name]]
            row[tensor.name] = converted(spot, tensor.datatype, _values(spot, tensor, texts))
    for name, at in columns.labels.items():
        row[name] = _label(card, spot, cells[at])
    return row


def _values(spot: str, tensor: Tensor, texts: Sequence[str]) -> Array:
    kind = NUMPY[tensor.datatype].kind
    if tensor.datatype is Datatype.BOOL:
        return np.array([_boolean(spot, text) for text in texts], np.bool_)
    if kind != "f":
        return np.array([_whole(spot, text) for text in texts], np.int64)
    if not NUMBERS.fullmatch("\n".join(texts)):
        texts = [_refuse_unless_number(spot, text) for text in texts]
    return np.array([_number(spot, text) for text in texts], np.float64)


def _label(card: Card, spot: str, text: str) -> Array:
    if card.task.class_output is not None or card.task.metric is MetricName.AUC:
        return np.array(class_number(card, spot, text))
    return np.array(_number(spot, _refuse_unless_number(spot, text)))


def _boolean(spot: str, text: str) -> bool:
    value = BOOLEANS.get(text.lower())
    if value is None:
        refuse(BuildReason.MALFORMED_DATA, f"{spot} has {text[:100]!r}, not true or false")
    return value


def _whole(spot: str, text: str) -> int:
    if not WHOLE_NUMBER.fullmatch(text):
        refuse(BuildReason.MALFORMED_DATA, f"{spot} has {text[:100]!r}, which is no whole number")
    return int(text)


def _number(spot: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        refuse(BuildReason.MALFORMED_DATA, f"{spot} has {text[:100]!r}, which is no number")


def _refuse_unless_number(spot: str, text: str) -> str:
    """Return the text; `float` alone would take `nan`, `1_000` and spaces as well."""
    if not NUMBERS.fullmatch(text):
        refuse(BuildReason.MALFORMED_DATA, f"{spot} has {text[:100]!r}, which is no number")
    return text


def _size(row: Tensors) -> int:
    return sum(array.nbytes for array in row.values())


def _stacked(card: Card, file: str, rows: Sequence[Tensors]) -> Tensors:
    tensors = {tensor.name: tensor for tensor in card.signature.inputs}
    stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return {
        name: shaped(card, file, tensors[name], array) if name in tensors else array
        for name, array in stacked.items()
    }
