"""The tensors of an ONNX file, found by walking its protobuf: initializers and constants.

Field numbers are those of `onnx.proto3`. Only what is stored as plain little-endian bytes is
found (`raw_data`, packed `float_data` and `double_data`); `int32_data` holds varints.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from wherry_controller.deltas.tensors import Data, NoSuchFile, Place, place_of

GRAPH_OF_MODEL = 7
NODE, INITIALIZER, SPARSE_INITIALIZER = 1, 5, 15
ATTRIBUTE_OF_NODE = 5
TENSOR_OF_ATTRIBUTE, GRAPH_OF_ATTRIBUTE, GRAPHS_OF_ATTRIBUTE = 5, 6, 11
DIMS, DATA_TYPE, FLOAT_DATA, NAME, RAW_DATA, DOUBLE_DATA = 1, 2, 4, 8, 9, 10
VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5
# By `TensorProto.DataType`; what is not named has one byte, or no plain bytes at all.
ITEM_BYTES = {1: 4, 4: 2, 5: 2, 6: 4, 7: 8, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
DEEPEST = 32


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a message: a number (`value`), or bytes from `start` to `end`."""

    number: int
    value: int
    start: int
    end: int


def find_onnx(data: Data) -> list[Place]:
    """Return the places of an ONNX file's tensors; raise `NoSuchFile`."""
    graphs = [field for field in _fields(data, 0, len(data)) if field.number == GRAPH_OF_MODEL]
    if not graphs:
        raise NoSuchFile
    return [place for graph in graphs for place in _of_graph(data, graph, "", 0)]


def _of_graph(data: Data, graph: Field, prefix: str, depth: int) -> Iterator[Place]:
    if depth > DEEPEST:
        raise NoSuchFile
    for number, field in enumerate(_fields(data, graph.start, graph.end)):
        if field.number == INITIALIZER:
            yield from _of_tensor(data, field, prefix)
        elif field.number == NODE:
            yield from _of_node(data, field, f"{prefix}{number}/", depth)


def _of_node(data: Data, node: Field, prefix: str, depth: int) -> Iterator[Place]:
    for attribute in _fields(data, node.start, node.end):
        if attribute.number == ATTRIBUTE_OF_NODE:
            for field in _fields(data, attribute.start, attribute.end):
                if field.number == TENSOR_OF_ATTRIBUTE:
                    yield from _of_tensor(data, field, prefix)
                elif field.number in (GRAPH_OF_ATTRIBUTE, GRAPHS_OF_ATTRIBUTE):
                    yield from _of_graph(data, field, prefix, depth + 1)


def _of_tensor(data: Data, tensor: Field, prefix: str) -> Iterator[Place]:
    name, datatype, dims = "", 0, list[int]()
    values: Field | None = None
    for field in _fields(data, tensor.start, tensor.end):
        if field.number == NAME:
            name = bytes(data[field.start : field.end]).decode(errors="replace")
        elif field.number == DATA_TYPE:
            datatype = field.value
        elif field.number == DIMS:
            dims.extend(_numbers(data, field))
        elif field.number in (RAW_DATA, FLOAT_DATA, DOUBLE_DATA) and field.end > field.start:
            values = field
    if values is not None:
        item = {FLOAT_DATA: 4, DOUBLE_DATA: 8}.get(values.number, ITEM_BYTES.get(datatype, 1))
        yield place_of(prefix + name, values.start, values.end - values.start, item, dims)


def _numbers(data: Data, field: Field) -> Iterator[int]:
    """Yield a repeated number's values, packed or not."""
    if field.end == field.start:
        yield field.value
    at = field.start
    while at < field.end:
        value, at = _varint(data, at, field.end)
        yield value


def _fields(data: Data, at: int, end: int) -> Iterator[Field]:
    while at < end:
        key, at = _varint(data, at, end)
        kind, value, start, after = key & 7, 0, at, at
        if kind == VARINT:
            value, after = _varint(data, at, end)
            start = after
        elif kind == BYTES:
            length, start = _varint(data, at, end)
            after = start + length
        elif kind in (FIXED_32, FIXED_64):
            after = start = at + (4 if kind == FIXED_32 else 8)
        else:
            raise NoSuchFile
        if after > end:
            raise NoSuchFile
        yield Field(key >> 3, value, start, after)
        at = after


def _varint(data: Data, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise NoSuchFile
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise NoSuchFile
