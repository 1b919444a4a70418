"""What is wanted of a file of rows: which names, in which type, shape and range.

A signature with states has rows that are sequences: an axis of steps stands after the batch in
each input that is no state, and a state may be left out.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

import numpy as np

from wherry.signature import Signature, Tensor
from wherry_controller.builder.data.rows import NUMPY, Array, Tensors
from wherry_controller.builder.faults import refuse
from wherry_controller.core.card import Card, MetricName
from wherry_controller.core.fault import BuildReason

STEPS = "steps"
BOXES, CLASSES = "boxes", "classes"


class Purpose(Enum):
    """What rows are read for; to calibrate, no label is looked at."""

    CALIBRATE = "calibrate"
    JUDGE = "judge"


@dataclass(frozen=True, slots=True)
class Where:
    """A stretch of rows in a file, for sentences; rows are counted from 0."""

    file: str
    first: int = 0

    def row(self, index: int) -> str:
        return f"row {self.first + index} of {self.file}"


def states_of(signature: Signature) -> frozenset[str]:
    """Return the names of the inputs that are states."""
    return frozenset(pair.input for pair in signature.states)


def labels_wanted(card: Card) -> tuple[str, ...]:
    """Return the names without which the card's metric cannot judge."""
    match card.task.metric:
        case MetricName.MAP:
            return BOXES, CLASSES
        case MetricName.FUNCTION:
            return ()
        case _:
            return (card.data.label,)


def names_wanted(
    card: Card, purpose: Purpose, file: str, found: Collection[str]
) -> tuple[str, ...]:
    """Return which of the names found are read; refuses where one is missing.

    A metric that is the version's own function gets whatever the file holds beside the inputs.
    """
    inputs = [tensor.name for tensor in card.signature.inputs]
    labels = labels_wanted(card) if purpose is Purpose.JUDGE else ()
    for name in (*inputs, *labels):
        if name not in found and name not in states_of(card.signature):
            refuse(BuildReason.MALFORMED_DATA, f"{file} has nothing named {name!r}")
    if purpose is Purpose.JUDGE and card.task.metric is MetricName.FUNCTION:
        return tuple(found)
    return tuple(name for name in found if name in inputs or name in labels)


def axes_of(signature: Signature, tensor: Tensor) -> tuple[int | str, ...]:
    """Return the axes of one row of an input: lengths, and names of those that vary."""
    if not signature.states or tensor.name in states_of(signature):
        return tensor.shape[1:]
    return (STEPS, *tensor.shape[1:])


def checked_inputs(signature: Signature, where: Where, part: Tensors) -> dict[str, Array]:
    """Return the inputs among a part's arrays, each as the signature says; refuses any other."""
    present = (tensor for tensor in signature.inputs if tensor.name in part)
    return {
        tensor.name: _checked(signature, where, tensor, part[tensor.name]) for tensor in present
    }


def refuse_not_finite(where: Where, name: str, array: Array) -> None:
    if array.dtype.kind != "f":
        return
    finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
    if not finite.all():
        row = where.row(int(np.argmin(finite)))
        refuse(BuildReason.MALFORMED_DATA, f"{name!r} has NaN or infinity in {row}")


def _checked(signature: Signature, where: Where, tensor: Tensor, array: Array) -> Array:
    if array.dtype != NUMPY[tensor.datatype]:
        problem = f"{tensor.name!r} in {where.file} is {array.dtype}, not {tensor.datatype.value}"
        refuse(BuildReason.MALFORMED_DATA, problem)
    axes = axes_of(signature, tensor)
    if not fits(axes, array.shape[1:]):
        want = ", ".join(str(axis) for axis in (tensor.shape[0], *axes))
        problem = f"{tensor.name!r} in {where.file} has the shape {list(array.shape)}, not [{want}]"
        refuse(BuildReason.MALFORMED_DATA, problem)
    refuse_not_finite(where, tensor.name, array)
    return array


def fits(axes: tuple[int | str, ...], shape: tuple[int, ...]) -> bool:
    """Say whether a shape has those axes; one that varies has at least the length 1."""
    return len(axes) == len(shape) and all(
        length >= 1 if isinstance(axis, str) else length == axis
        for axis, length in zip(axes, shape, strict=True)
    )
