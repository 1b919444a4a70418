"""The tensors of a TFLite file, found by walking its flatbuffer.

Slots are those of `schema.fbs`: a model's subgraphs and buffers, a subgraph's tensors, a
tensor's shape, type, buffer and name, a buffer's data (or, in files over 2 GB, offset and size).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from wherry_controller.deltas.tensors import Data, NoSuchFile, Place, place_of

IDENTIFIER = b"TFL3"
SUBGRAPHS, BUFFERS = 2, 4
TENSORS = 0
SHAPE, TYPE, BUFFER, NAME = 0, 1, 2, 3
DATA, OFFSET, SIZE = 0, 1, 2
# By `TensorType`; what is not named has one byte.
ITEM_BYTES = {0: 4, 1: 2, 2: 4, 4: 8, 7: 2, 10: 8, 12: 8, 15: 4, 16: 2, 18: 2}
MOST_ELEMENTS = 1 << 20


def find_tflite(data: Data) -> list[Place]:
    """Return the places of a TFLite file's tensors; raise `NoSuchFile`."""
    if bytes(data[4:8]) != IDENTIFIER:
        raise NoSuchFile
    try:
        return list(_of_model(data, _follow(data, 0)))
    except struct.error as error:
        raise NoSuchFile from error


def _of_model(data: Data, model: int) -> Iterator[Place]:
    buffers = _tables(data, _slot(data, model, BUFFERS))
    seen: set[int] = set()
    for number, subgraph in enumerate(_tables(data, _slot(data, model, SUBGRAPHS))):
        for tensor in _tables(data, _slot(data, subgraph, TENSORS)):
            buffer = _given(data, _slot(data, tensor, BUFFER), "<I")
            if 0 < buffer < len(buffers) and buffer not in seen:
                seen.add(buffer)
                yield from _of_tensor(data, tensor, buffers[buffer], f"{number}/")


def _of_tensor(data: Data, tensor: int, buffer: int, prefix: str) -> Iterator[Place]:
    start, length = _extent(data, buffer)
    if length == 0 or start + length > len(data):
        return
    item = ITEM_BYTES.get(_given(data, _slot(data, tensor, TYPE), "<b"), 1)
    dims = _shape(data, _slot(data, tensor, SHAPE))
    yield place_of(prefix + _text(data, _slot(data, tensor, NAME)), start, length, item, dims)


def _extent(data: Data, buffer: int) -> tuple[int, int]:
    inside = _slot(data, buffer, DATA)
    if inside:
        return _vector(data, inside)
    offset = _given(data, _slot(data, buffer, OFFSET), "<Q")
    return offset, _given(data, _slot(data, buffer, SIZE), "<Q")


def _shape(data: Data, slot: int) -> tuple[int, ...]:
    if not slot:
        return ()
    at, count = _vector(data, slot)
    return struct.unpack_from(f"<{min(count, 16)}i", data, at)


def _text(data: Data, slot: int) -> str:
    if not slot:
        return ""
    at, length = _vector(data, slot)
    return bytes(data[at : at + length]).decode(errors="replace")


def _tables(data: Data, slot: int) -> list[int]:
    """Return where the tables of a vector of tables stand."""
    if not slot:
        return []
    at, count = _vector(data, slot)
    if count > MOST_ELEMENTS:
        raise NoSuchFile
    return [_follow(data, at + 4 * number) for number in range(count)]


def _vector(data: Data, slot: int) -> tuple[int, int]:
    """Return where a vector's elements begin, and how many they are."""
    at = _follow(data, slot)
    return at + 4, _number(data, at, "<I")


def _slot(data: Data, table: int, slot: int) -> int:
    """Return where a table's field stands; 0 where it has its default."""
    vtable = table - _number(data, table, "<i")
    if vtable < 0 or 4 + 2 * slot >= _number(data, vtable, "<H"):
        return 0
    offset = _number(data, vtable + 4 + 2 * slot, "<H")
    return table + offset if offset else 0


def _follow(data: Data, at: int) -> int:
    return at + _number(data, at, "<I")


def _number(data: Data, at: int, form: str) -> int:
    value: int = struct.unpack_from(form, data, at)[0]
    return value


def _given(data: Data, slot: int, form: str) -> int:
    """Return a field's number; 0, a flatbuffer's default, where the table leaves it out."""
    return _number(data, slot, form) if slot else 0
