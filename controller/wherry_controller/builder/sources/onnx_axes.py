"""How the tensors of an ONNX file stand for those of a signature: by name, type and axes.

    file [2, batch, 128]  <-- moved: 1 -->  signature [batch, 2, 128]

The batch of a file is any of its axes; which one follows from the signature's lengths. An axis
that varies in the file is preferred, then the foremost; a state's output has its input's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir

from wherry.signature import Datatype, Signature, Tensor
from wherry_controller.builder.data.rows import NUMPY
from wherry_controller.builder.faults import refuse
from wherry_controller.core.card import Card
from wherry_controller.core.fault import BuildReason

Shape: TypeAlias = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor's name in the file, the axis of the batch there, and its fixed length or None."""

    tensor: Tensor
    name: str
    batch_axis: int
    static_batch: int | None


@dataclass(frozen=True, slots=True)
class Places:
    inputs: tuple[Place, ...]
    outputs: tuple[Place, ...]

    @property
    def static_batch(self) -> int | None:
        fixed = [place.static_batch for place in self.inputs if place.static_batch is not None]
        return fixed[0] if fixed else None


def places_of(card: Card, graph: onnx_ir.Graph) -> Places:
    """Return where each tensor of the signature stands in the file; refuse what fits nowhere."""
    inputs = {str(value.name): value for value in free_inputs(graph)}
    outputs = {str(value.name): value for value in graph.outputs}
    found = tuple(_place(card, tensor, inputs, None) for tensor in card.signature.inputs)
    _refuse_unfed(card, inputs, found)
    axes = _state_axes(card.signature, found)
    return Places(
        found,
        tuple(
            _place(card, tensor, outputs, axes.get(tensor.name))
            for tensor in card.signature.outputs
        ),
    )


def free_inputs(graph: onnx_ir.Graph) -> list[onnx_ir.Value]:
    """Return the inputs that have no value of their own (older files list weights among them)."""
    return [value for value in graph.inputs if value.name not in graph.initializers]


def shape_of(value: onnx_ir.Value) -> Shape | None:
    """Return lengths, and names of axes that vary; an unnamed one and a length of 0 are `?`."""
    if value.shape is None:
        return None
    axes = [axis if isinstance(axis, int) else axis.value for axis in value.shape]
    return tuple(axis or "?" for axis in axes)


def datatype_in(value: onnx_ir.Value) -> Datatype | None:
    """Return the type of a value's elements where a signature has a word for it."""
    if value.dtype is None:
        return None
    kinds = {onnx_ir.DataType.from_numpy(dtype): kind for kind, dtype in NUMPY.items()}
    return kinds.get(value.dtype)


def _place(
    card: Card, tensor: Tensor, values: Mapping[str, onnx_ir.Value], known_axis: int | None
) -> Place:
    name = card.source.names.get(tensor.name, tensor.name)
    value = values.get(name)
    if value is None:
        have = ", ".join(sorted(values))
        problem = f"{card.source.file} has nothing called {name!r} but {have}"
        refuse(BuildReason.SIGNATURE_MISFIT, problem)
    given = datatype_in(value)
    if given is not tensor.datatype:
        word = given.value if given else value.dtype
        problem = f"{tensor.name!r} is {word} in {card.source.file} and not {tensor.datatype.value}"
        refuse(BuildReason.SIGNATURE_MISFIT, problem)
    shape = shape_of(value)
    axis = known_axis if known_axis is not None else _batch_axis(tensor, shape)
    if axis is None:
        problem = f"{tensor.name!r} is {_written(shape)} in the file and {_written(tensor.shape)}"
        refuse(BuildReason.SIGNATURE_MISFIT, f"{problem} in the signature")
    length = shape[axis] if shape else None
    return Place(tensor, name, axis, length if isinstance(length, int) else None)


def _batch_axis(tensor: Tensor, shape: Shape | None) -> int | None:
    if shape is None:
        return 0
    fitting = [axis for axis in range(len(shape)) if _fits(tensor, shape, axis)]
    return min(fitting, key=lambda axis: (isinstance(shape[axis], int), axis), default=None)


def _fits(tensor: Tensor, shape: Shape, batch_axis: int) -> bool:
    others = (*shape[:batch_axis], *shape[batch_axis + 1 :])
    length = shape[batch_axis]
    if batch_axis and isinstance(length, int) and length > 1:
        return False  # Files for a fixed batch of many have it in front.
    return len(shape) == len(tensor.shape) and all(
        isinstance(given, str) or isinstance(wanted, str) or given == wanted
        for given, wanted in zip(others, tensor.shape[1:], strict=True)
    )


def _state_axes(signature: Signature, inputs: Sequence[Place]) -> dict[str, int]:
    axes = {place.tensor.name: place.batch_axis for place in inputs}
    return {pair.output: axes[pair.input] for pair in signature.states}


def _refuse_unfed(card: Card, inputs: Mapping[str, onnx_ir.Value], found: Sequence[Place]) -> None:
    unfed = set(inputs) - {place.name for place in found} - set(card.source.constants)
    if unfed:
        problem = f"nothing feeds the input {min(unfed)!r} of {card.source.file}"
        refuse(BuildReason.SIGNATURE_MISFIT, problem)
    strange = set(card.source.constants) - set(inputs)
    if strange:
        problem = f"{card.source.file} has no input {min(strange)!r} to fix"
        refuse(BuildReason.SIGNATURE_MISFIT, problem)


def _written(shape: Shape | None) -> str:
    return "unknown" if shape is None else f"[{', '.join(str(axis) for axis in shape)}]"
