"""Tensors as applications give and get them, and the bodies that they travel in.

Lists of numbers travel as JSON; bytes and arrays as they are, by the binary tensor extension of
the Open Inference Protocol. No numpy is needed: whatever has a buffer will do.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from wherry.errors import Malformed
from wherry.signature import SIZE_BYTES, Datatype
from wherry_agent.client.wire import NotReachable, Part, Reply

HEADER_LENGTH = "inference-header-content-length"

_FORMATS = {
    "?": "BOOL",
    "B": "UINT8",
    "b": "INT8",
    "i": "INT32",
    "l": "INT64",
    "q": "INT64",
    "e": "FP16",
    "f": "FP32",
    "d": "FP64",
}
_CODES = {
    Datatype.BOOL: "?",
    Datatype.UINT8: "B",
    Datatype.INT8: "b",
    Datatype.INT32: "i",
    Datatype.INT64: "q",
    Datatype.FP32: "f",
    Datatype.FP64: "d",
}

Numbers = Sequence[float | int | bool]


class NoTensor(Malformed):
    """A value that is no tensor of a datatype that the protocol has."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"this is no tensor: {self.problem}; give a contiguous array of numbers."


@dataclass(frozen=True, slots=True)
class Input:
    """One input tensor; `data` holds its values in row-major order.

    A sequence of numbers, flat or nested, travels as JSON; a buffer of little-endian bytes as it
    is.
    """

    datatype: str
    shape: tuple[int, ...]
    data: Sequence[object] | bytes | bytearray | memoryview

    @property
    def raw(self) -> memoryview | None:
        """Return the bytes; None where the values are numbers."""
        if isinstance(self.data, bytes | bytearray | memoryview):
            return memoryview(self.data).cast("B")
        return None


@dataclass(frozen=True, slots=True)
class Placed:
    """A tensor that lies in a region of shared memory (`region.Region`), `offset` bytes in."""

    datatype: str
    shape: tuple[int, ...]
    region: str
    offset: int = 0

    @property
    def size_bytes(self) -> int:
        return SIZE_BYTES[Datatype(self.datatype)] * math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Room:
    """Where in a region an output shall be put, and how many bytes there are for it."""

    region: str
    size_bytes: int
    offset: int = 0


def tensor(values: bytes | bytearray | memoryview) -> Input:
    """Return an array as an input, its datatype and shape read off its buffer.

    Raises `NoTensor` where it is not contiguous or its numbers are none that the protocol has.
    """
    view = memoryview(values)
    datatype = _FORMATS.get(view.format.lstrip("<=@"))
    if datatype is None or not view.c_contiguous:
        raise NoTensor(f"its format is {view.format!r}, contiguous: {view.c_contiguous}")
    flat = view.cast("B") if view.nbytes else memoryview(b"")
    return Input(datatype, tuple(view.shape or ()), flat)


class Output(msgspec.Struct, frozen=True, omit_defaults=True):
    """One output tensor: `data` holds its values flat, `raw` their bytes where they came so.

    Both are empty where the values were put in shared memory.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Numbers = []
    raw: bytes = b""

    def values(self) -> Numbers:
        """Return the values flat, in row-major order."""
        return numbers_of(self.datatype, self.raw) if self.raw else self.data


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """`version` is the digest of the bundle that answered.

    `state_of` is what to give back, in the parameters, with the states of a stateful model.
    """

    id: str
    version: str = msgspec.field(name="model_version")  # As the command line prints it.
    outputs: list[Output] = msgspec.field()
    state_of: str | None = None

    def values(self, name: str) -> Numbers:
        """Return the values of one output, flat; KeyError where the model has none so named."""
        return self.output(name).values()

    def output(self, name: str) -> Output:
        return {output.name: output for output in self.outputs}[name]


def numbers_of(datatype: str, raw: bytes) -> Numbers:
    """Return the numbers that little-endian bytes hold."""
    kind = Datatype(datatype)
    if kind is Datatype.FP16:
        return list(struct.unpack(f"<{len(raw) // 2}e", raw))
    if kind is Datatype.BOOL:
        return [value != 0 for value in raw]
    values = array(_CODES[kind])
    values.frombytes(raw)
    return values.tolist()


def encode_request(
    inputs: Mapping[str, Input | Placed],
    request_id: str | None = None,
    *,
    outputs: Mapping[str, Room] | None = None,
    parameters: Mapping[str, object] | None = None,
) -> bytes:
    """Return the body of an inference request whose tensors travel as JSON."""
    return msgspec.json.encode(_head(inputs, request_id, outputs or {}, dict(parameters or {})))


def encode_binary(
    inputs: Mapping[str, Input | Placed],
    request_id: str | None = None,
    *,
    outputs: Mapping[str, Room] | None = None,
    parameters: Mapping[str, object] | None = None,
) -> tuple[list[Part], dict[str, str]]:
    """Return the parts of a body with the bytes of the tensors behind its JSON, and its headers."""
    asked = {"binary_data_output": True, **(parameters or {})}
    head = msgspec.json.encode(_head(inputs, request_id, outputs or {}, asked))
    raws = [sent.raw for sent in inputs.values() if isinstance(sent, Input)]
    tails: list[Part] = [raw for raw in raws if raw is not None]
    headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return [head, *tails], headers


def travels_binary(inputs: Mapping[str, Input | Placed]) -> bool:
    """Say whether any tensor is given as bytes."""
    return any(isinstance(sent, Input) and sent.raw is not None for sent in inputs.values())


class _Parameters(msgspec.Struct):
    binary_data_size: int | None = None
    state_of: str | None = None


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Numbers = []
    parameters: _Parameters | None = None


class _Answer(msgspec.Struct):
    id: str
    model_version: str
    outputs: list[_Output]
    parameters: _Parameters | None = None


def decode_answer(body: bytes, head_bytes: int | None = None) -> Answer:
    """Return the answer in a response; `head_bytes` are JSON, and what follows is tensors.

    Raises `NotReachable` where it is no answer of an agent.
    """
    head, tail = (
        body[:head_bytes],
        memoryview(body)[len(body) if head_bytes is None else head_bytes :],
    )
    try:
        sent = msgspec.json.decode(head, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotReachable("that address", f"what answers is no agent ({error})") from error
    outputs: list[Output] = []
    at = 0
    for one in sent.outputs:
        size_bytes = (one.parameters and one.parameters.binary_data_size) or 0
        raw = bytes(tail[at : at + size_bytes])
        if len(raw) != size_bytes:
            raise NotReachable("that address", f"the output {one.name!r} ends too early")
        outputs.append(Output(one.name, one.datatype, one.shape, one.data, raw))
        at += size_bytes
    state_of = sent.parameters.state_of if sent.parameters else None
    return Answer(sent.id, sent.model_version, outputs, state_of)


def answer_of(reply: Reply) -> Answer:
    """Return the answer in a reply, binary or not."""
    length = reply.headers.get(HEADER_LENGTH.encode())
    return decode_answer(reply.body, int(length) if length else None)


def _head(
    inputs: Mapping[str, Input | Placed],
    request_id: str | None,
    outputs: Mapping[str, Room],
    parameters: dict[str, object],
) -> dict[str, object]:
    head: dict[str, object] = {"id": request_id} if request_id is not None else {}
    head["inputs"] = [_described(name, sent) for name, sent in inputs.items()]
    if outputs:
        head["outputs"] = [_roomed(name, room) for name, room in outputs.items()]
    if parameters:
        head["parameters"] = parameters
    return head


def _described(name: str, sent: Input | Placed) -> dict[str, object]:
    described = {"name": name, "datatype": sent.datatype, "shape": sent.shape}
    if isinstance(sent, Placed):
        where = _place(sent.region, sent.size_bytes, sent.offset)
        return {**described, "parameters": where}
    if sent.raw is not None:
        return {**described, "parameters": {"binary_data_size": sent.raw.nbytes}}
    return {**described, "data": sent.data}


def _roomed(name: str, room: Room) -> dict[str, object]:
    return {"name": name, "parameters": _place(room.region, room.size_bytes, room.offset)}


def _place(region: str, size_bytes: int, offset: int) -> dict[str, object]:
    where: dict[str, object] = {
        "shared_memory_region": region,
        "shared_memory_byte_size": size_bytes,
    }
    return {**where, "shared_memory_offset": offset} if offset else where
