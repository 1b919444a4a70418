"""Tensors' values between JSON, little-endian bytes and Python's numbers, without numpy."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import chain
from types import GenericAlias
from typing import TypeAlias

import msgspec

from wherry.errors import Malformed
from wherry.signature import SIZE_BYTES, Datatype
from wherry_agent.frames import Tensor

_CODES = {
    Datatype.BOOL: "?",
    Datatype.UINT8: "B",
    Datatype.INT8: "b",
    Datatype.INT32: "i",
    Datatype.INT64: "q",
    Datatype.FP16: "e",
    Datatype.FP32: "f",
    Datatype.FP64: "d",
}
_FLOATS = (Datatype.FP16, Datatype.FP32, Datatype.FP64)

Numbers: TypeAlias = list[float] | list[int] | list[bool]

_decoders: dict[type, msgspec.json.Decoder[Numbers]] = {
    kind: msgspec.json.Decoder(GenericAlias(list, kind)) for kind in (float, int, bool)
}
_encode = msgspec.json.Encoder().encode


class NotNested(Malformed):
    """Lists that do not stand in one another as their shape says."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.shape = shape

    def __str__(self) -> str:
        return f"the lists are not nested as {list(self.shape)}; send them flat."


def kind_of(datatype: Datatype) -> type[float | bool]:
    """Return which of Python's numbers hold the values of a type."""
    if datatype in _FLOATS:
        return float
    return bool if datatype is Datatype.BOOL else int


def numbers_of(tensor: Tensor) -> Numbers:
    """Return the values of a tensor in row-major order."""
    count = len(tensor.data) // SIZE_BYTES[tensor.datatype]
    return list(struct.unpack(f"<{count}{_CODES[tensor.datatype]}", tensor.data))


def classes_of(tensor: Tensor, numbers: Sequence[float]) -> tuple[int, ...]:
    """Return the index of the largest value along the last axis, for each row of the rest."""
    width = tensor.shape[-1]
    rows = (numbers[start : start + width] for start in range(0, len(numbers), width))
    return tuple(row.index(max(row)) for row in rows)


def decode_numbers(data: bytes, datatype: Datatype, shape: tuple[int, ...]) -> Numbers:
    """Return the values of a JSON list, flat, or nested as `shape` says."""
    if data[:1] == b"[" and data[1:].lstrip()[:1] == b"[":
        data = _encode(_flattened(msgspec.json.decode(data), shape))
    return _decoders[kind_of(datatype)].decode(data)


def pack(numbers: Numbers, datatype: Datatype) -> bytes:
    """Return the values as little-endian bytes; OverflowError where the type is too small."""
    try:
        return struct.pack(f"<{len(numbers)}{_CODES[datatype]}", *numbers)
    except struct.error as error:
        raise OverflowError(str(error)) from error


def _flattened(nested: object, shape: tuple[int, ...]) -> list[object]:
    """Return the values of lists that are nested as `shape` says."""
    level: list[object] = [nested]
    for length in shape:
        rows = [row for row in level if isinstance(row, list) and len(row) == length]
        if len(rows) != len(level):
            raise NotNested(shape)
        level = list(chain.from_iterable(rows))
    return level
