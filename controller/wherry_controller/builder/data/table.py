"""Columns of a table as inputs: which ones an input takes, and how cells become its shape."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from wherry.signature import Datatype, Tensor
from wherry_controller.builder.data.rows import NUMPY, Array
from wherry_controller.builder.data.wanted import (
    Purpose,
    axes_of,
    labels_wanted,
    states_of,
)
from wherry_controller.builder.faults import refuse
from wherry_controller.core.card import Card, MetricName
from wherry_controller.core.fault import BuildReason


def columns_of(card: Card, file: str, header: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return the columns of each input; without a word of the card, the one of the same name."""
    found: dict[str, tuple[str, ...]] = {}
    for tensor in card.signature.inputs:
        columns = card.data.columns.get(tensor.name, (tensor.name,))
        missing = [column for column in columns if column not in header]
        if not missing:
            found[tensor.name] = columns
        elif tensor.name not in states_of(card.signature):
            problem = (
                f"{file} has no column {missing[0]!r} for the input {tensor.name!r}; name the "
                "columns of an input under [data.columns] in model.toml"
            )
            refuse(BuildReason.MALFORMED_DATA, problem)
    return found


def label_columns_of(
    card: Card, purpose: Purpose, file: str, header: Collection[str]
) -> tuple[str, ...]:
    """Return the columns of labels; the version's own function does without if there is none."""
    if purpose is Purpose.CALIBRATE:
        return ()
    if card.task.metric is MetricName.FUNCTION:
        return tuple(name for name in (card.data.label,) if name in header)
    for name in labels_wanted(card):
        if name not in header:
            refuse(BuildReason.MALFORMED_DATA, f"{file} has no column {name!r} of labels")
    return labels_wanted(card)


def converted(spot: str, datatype: Datatype, cells: Array) -> Array:
    """Return numbers in an input's type; refuses a kind or a value that would change on the way.

    Tables know fewer types than signatures: any number may fill a floating input, where it is
    rounded, and whole numbers any input of whole numbers that they fit.
    """
    dtype = NUMPY[datatype]
    allowed = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}[dtype.kind]
    if cells.dtype.kind not in allowed:
        refuse(BuildReason.MALFORMED_DATA, f"{spot} holds {cells.dtype}, not {datatype.value}")
    with np.errstate(over="ignore"):
        values = cells.astype(dtype)
    if dtype.kind in "iu" and (values != cells).any():
        refuse(BuildReason.MALFORMED_DATA, f"{spot} holds a number outside of {datatype.value}")
    if dtype.kind == "f" and not np.isfinite(values).all():
        problem = f"{spot} holds NaN, infinity or a number too large for {datatype.value}"
        refuse(BuildReason.MALFORMED_DATA, problem)
    return values


def shaped(card: Card, file: str, tensor: Tensor, cells: Array) -> Array:
    """Return [rows, cells] as the rows of an input; one axis of a free length is found out."""
    axes = axes_of(card.signature, tensor)
    free = [axis for axis in axes if isinstance(axis, str)]
    known = math.prod(axis for axis in axes if isinstance(axis, int))
    width = cells.shape[1]
    if len(free) > 1:
        problem = f"{file} cannot tell the lengths of {free} of {tensor.name!r} apart; give an .npz"
        refuse(BuildReason.MALFORMED_DATA, problem)
    if width % known or width < known or (not free and width != known):
        problem = f"{file} has {width} values a row for {tensor.name!r}, which is {list(axes)}"
        refuse(BuildReason.MALFORMED_DATA, problem)
    lengths = (axis if isinstance(axis, int) else width // known for axis in axes)
    return cells.reshape(len(cells), *lengths)
