"""Rows from the version's own code: a function that yields them one by one, as mappings.

A row maps each input's name to its array without the batch axis, and the label's name to the label.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from wherry_controller.builder.code import load_function
from wherry_controller.builder.data.rows import Array, Tensors, rows_a_part
from wherry_controller.builder.data.wanted import Purpose, Where, names_wanted
from wherry_controller.builder.faults import refuse, refusing
from wherry_controller.core.card import Card
from wherry_controller.core.fault import BuildReason

END = object()


def code_parts(folder: Path, function: str, card: Card, purpose: Purpose) -> Iterator[Tensors]:
    rows: list[dict[str, Array]] = []
    for at, row in enumerate(_rows(load_function(folder, function)(), function)):
        taken = _arrays(card, purpose, Where(function, at).row(0), row)
        rows.append(taken)
        if len(rows) == rows_a_part(sum(array.nbytes for array in rows[0].values())):
            yield _stacked(function, rows)
            rows = []
    if rows:
        yield _stacked(function, rows)


def _rows(given: object, function: str) -> Iterator[object]:
    if not isinstance(given, Iterable):
        problem = f"{function} returns {type(given).__name__}; make it yield a mapping a row"
        refuse(BuildReason.MALFORMED_DATA, problem)
    iterator = iter(given)
    for at in itertools.count():
        with refusing(BuildReason.MALFORMED_DATA, f"{function} fails at row {at}"):
            row = next(iterator, END)
        if row is END:
            return
        yield row


def _arrays(card: Card, purpose: Purpose, spot: str, row: object) -> dict[str, Array]:
    if not isinstance(row, Mapping):
        problem = f"{spot} is {type(row).__name__}, not a mapping from names to arrays"
        refuse(BuildReason.MALFORMED_DATA, problem)
    names = names_wanted(card, purpose, spot, row.keys())
    return {name: _array(f"{name!r} in {spot}", row[name]) for name in names}


def _array(what: str, value: object) -> Array:
    with refusing(BuildReason.MALFORMED_DATA, f"{what} is no array"):
        array: Array = np.asarray(value)
    if array.dtype.hasobject:
        refuse(BuildReason.MALFORMED_DATA, f"{what} holds Python objects, not numbers")
    return array


def _stacked(function: str, rows: Sequence[dict[str, Array]]) -> Tensors:
    for name, like in rows[0].items():
        strange = [row for row in rows if name not in row or not _alike(like, row[name])]
        if strange:
            problem = (
                f"the rows of {function} differ in the type or shape of {name!r}; make them alike"
            )
            refuse(BuildReason.MALFORMED_DATA, problem)
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _alike(one: Array, other: Array) -> bool:
    # Texts of other lengths are of other types, and mean the same.
    return one.shape == other.shape and one.dtype.kind == other.dtype.kind
