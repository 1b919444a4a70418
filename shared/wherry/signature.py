"""What a version takes and gives: the same for applications on every device.

Datatype names are those of the Open Inference Protocol v2. A shape's axis is a length or the
name of an axis whose length varies; the first axis of every tensor is the batch.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from wherry.errors import Malformed

BATCH = "batch"


class Datatype(str, Enum):
    BOOL = "BOOL"
    UINT8 = "UINT8"
    INT8 = "INT8"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"


SIZE_BYTES = {
    Datatype.BOOL: 1,
    Datatype.UINT8: 1,
    Datatype.INT8: 1,
    Datatype.INT32: 4,
    Datatype.INT64: 8,
    Datatype.FP16: 2,
    Datatype.FP32: 4,
    Datatype.FP64: 8,
}


class BadSignature(Malformed):
    """A signature that no request could satisfy, or a tensor that does not satisfy it."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem, self.remedy = problem, remedy

    def __str__(self) -> str:
        return f"{self.problem}: {self.remedy}."


class Tensor(msgspec.Struct, frozen=True):
    """One input or output: `shape` is of lengths and axis names, `layout` like `NCHW`."""

    name: str
    datatype: Datatype
    shape: tuple[int | str, ...]
    layout: str = ""

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > 255:
            raise BadSignature("a tensor has no name of 1 to 255 characters", "name it")
        if self.shape[:1] != (BATCH,):
            raise BadSignature(
                f"the first axis of {self.name!r} is not {BATCH!r}", f"give it [{BATCH!r}, …]"
            )
        if any(isinstance(axis, int) and axis < 1 for axis in self.shape):
            raise BadSignature(f"an axis of {self.name!r} is below 1", "give its length or a name")
        if self.layout and len(self.layout) != len(self.shape):
            raise BadSignature(
                f"the layout of {self.name!r} has not one letter an axis", "write it like NCHW"
            )


class StatePair(msgspec.Struct, frozen=True):
    """An output that the caller gives back as an input of the next request."""

    output: str
    input: str


class Signature(msgspec.Struct, frozen=True):
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    max_batch: int = 64
    states: tuple[StatePair, ...] = ()

    def __post_init__(self) -> None:
        for side in (self.inputs, self.outputs):
            names = [tensor.name for tensor in side]
            if not names or len(set(names)) != len(names):
                raise BadSignature(
                    "inputs or outputs are missing, or a name stands twice", "name each one once"
                )
        if self.max_batch < 1:
            raise BadSignature("the largest batch is below 1", "set max_batch to 1 or more")


def states_of(signature: Signature) -> frozenset[tuple[Tensor | None, Tensor | None]]:
    """Return the state signature: each input that carries state, with the output that it comes of.

    A bundle is neither shadowed nor split beside another one whose state signature differs.
    """
    inputs = {tensor.name: tensor for tensor in signature.inputs}
    outputs = {tensor.name: tensor for tensor in signature.outputs}
    return frozenset(
        (inputs.get(pair.input), outputs.get(pair.output)) for pair in signature.states
    )


def batch_of(tensor: Tensor, shape: tuple[int, ...]) -> int:
    """Return the batch length of `shape`; raise `BadSignature` where `tensor` forbids it."""
    fits = len(shape) == len(tensor.shape) and (
        shape[1:] == tensor.shape[1:]
        or all(
            isinstance(axis, str) or axis == length
            for axis, length in zip(tensor.shape, shape, strict=True)
        )
    )
    if not fits or shape[0] < 1:
        want = ", ".join(str(axis) for axis in tensor.shape)
        raise BadSignature(
            f"{tensor.name!r} came with the shape {list(shape)}", f"send it as [{want}]"
        )
    return shape[0]
