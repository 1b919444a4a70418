"""The bytes between the engine and a worker: frames of a typed head and raw tensors.

    frame = head length, body length (both u32, little-endian), head (msgpack), body

The body is the tensors' little-endian values in the order that the head names them, each at the
next multiple of `ALIGNMENT`. A large one stands in shared memory instead (`arena`), from the
place `at` on. Both ends of the socket are this agent's own, of one version; lengths are bounded
nevertheless, since the worker runs code that a model can crash. A frame that breaks the form
is `BadFrame`, and whoever reads it ends the connection.

Answers come in the order of the questions. Each frame to the worker tells which answers were
`heard`: what they held may be written over. When an answer is heard, what was asked may be too,
unless it says that the worker still `looks` at the question.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import TypeAlias

import msgspec

from wherry.errors import Malformed
from wherry.measures import Seen, TrialFigures
from wherry.names import Digest
from wherry.reasons import Reason
from wherry.signature import SIZE_BYTES, Datatype

LARGEST_HEAD_BYTES = 64 * 1024
LARGEST_BODY_BYTES = 256 << 20
TOO_LARGE = f"it has more than {LARGEST_BODY_BYTES >> 20} MiB; send fewer rows at a time"

ALIGNMENT = 64  # Of every tensor: what the widest vector instructions want.

_LENGTHS = struct.Struct("<II")


class BadFrame(Malformed):
    """Bytes between engine and worker that are no frame."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return (
            f"engine and worker do not understand one another: {self.problem}; restart the agent."
        )


class Fault(str, Enum):
    """Why a request got no answer."""

    NOT_FINITE = "not_finite"
    RUNTIME_FAILED = "runtime_failed"
    WORKER_DIED = "worker_died"
    TIMED_OUT = "timed_out"
    OVERLOADED = "overloaded"


class Tensor(msgspec.Struct, frozen=True):
    """One tensor of a request or an answer; `data`: little-endian values in row-major order."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    data: bytes | memoryview


class TensorHead(msgspec.Struct, frozen=True, array_like=True):
    name: str
    datatype: Datatype
    shape: tuple[int, ...]


class Infer(msgspec.Struct, frozen=True, array_like=True, tag="infer"):
    """A request, from the engine; `number` comes back with its answer."""

    number: int
    heard: int
    at: int | None
    tensors: tuple[TensorHead, ...]


class Compare(msgspec.Struct, frozen=True, array_like=True, tag="compare"):
    """Inputs, and the outputs that another bundle gave for them, from the engine."""

    number: int
    heard: int
    at: int | None
    tensors: tuple[TensorHead, ...]
    reference: tuple[TensorHead, ...]


class Trim(msgspec.Struct, frozen=True, array_like=True, tag="trim"):
    """Give back the shared memory that nothing needed since the last time, from the engine."""

    heard: int


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    """The worker has loaded, warmed up and checked its bundle; what it showed (`asking.Proof`)."""

    runtime_version: str
    outputs: Digest
    load_ms: float
    memory_bytes: int
    peak_bytes: int


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """The worker cannot serve its bundle, and ends."""

    reason: Reason
    detail: str


class Tried(msgspec.Struct, frozen=True, array_like=True, tag="tried"):
    """The worker of a trial has measured its bundle, and ends."""

    figures: TrialFigures


class Answered(msgspec.Struct, frozen=True, array_like=True, tag="answered"):
    """`looks`: what was asked is still needed, until the next answer is heard."""

    number: int
    compute_ns: int
    at: int | None
    tensors: tuple[TensorHead, ...]
    looks: bool = False


class Compared(msgspec.Struct, frozen=True, array_like=True, tag="compared"):
    """How the worker's outputs stand to the reference (`asking.Compared`)."""

    number: int
    rows: int
    agreed: int
    distance: float
    largest_distance: float
    compute_ns: int


class Saw(msgspec.Struct, frozen=True, array_like=True, tag="saw"):
    """What the worker saw of a sample of inputs and outputs since it last told."""

    inputs: tuple[Seen, ...]
    outputs: tuple[Seen, ...]


class Refused(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    """The model gave nothing that may be returned."""

    number: int
    fault: Fault
    detail: str


Asked: TypeAlias = Infer | Compare | Trim
Told: TypeAlias = Ready | Failed | Tried | Answered | Compared | Saw | Refused
Head: TypeAlias = Asked | Told

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Head] = msgspec.msgpack.Decoder(Head)


def encode(head: Head, tensors: Sequence[Tensor] = ()) -> bytes:
    """Return the frame of `head` and the values of `tensors`."""
    packed = _encoder.encode(head)
    parts = list(_padded(tensors))
    body_bytes = sum(map(len, parts))
    if len(packed) > LARGEST_HEAD_BYTES or body_bytes > LARGEST_BODY_BYTES:
        raise BadFrame(f"a frame has {len(packed)} and {body_bytes} bytes")
    return b"".join((_LENGTHS.pack(len(packed), body_bytes), packed, *parts))


def heads_of(tensors: Sequence[Tensor]) -> tuple[TensorHead, ...]:
    return tuple(TensorHead(tensor.name, tensor.datatype, tensor.shape) for tensor in tensors)


def aligned(size_bytes: int) -> int:
    """Return the next multiple of `ALIGNMENT`."""
    return -(-size_bytes // ALIGNMENT) * ALIGNMENT


def body_bytes(heads: Sequence[TensorHead]) -> int:
    """Return the length of the body that `heads` describe; raise `BadFrame` where none can be."""
    at = end = 0
    for head in heads:
        if head.shape and min(head.shape) < 0:
            raise BadFrame(f"a tensor has the shape {head.shape}")
        end = at + size_bytes(head.datatype, head.shape)
        at = aligned(end)
    return end


def tensors_of(heads: Sequence[TensorHead], body: bytes | memoryview) -> tuple[Tensor, ...]:
    """Return the tensors that `heads` describe and `body` holds."""
    if len(body) != body_bytes(heads):
        raise BadFrame(f"tensors of {body_bytes(heads)} bytes stand in a body of {len(body)}")
    view, tensors, at = memoryview(body), [], 0
    for head in heads:
        end = at + size_bytes(head.datatype, head.shape)
        tensors.append(Tensor(head.name, head.datatype, head.shape, view[at:end]))
        at = aligned(end)
    return tuple(tensors)


def size_bytes(datatype: Datatype, shape: Sequence[int]) -> int:
    return SIZE_BYTES[datatype] * math.prod(shape)


class Reader:
    """What has arrived of a stream of frames."""

    def __init__(self) -> None:
        self._arrived = bytearray()

    def feed(self, data: bytes | memoryview) -> Iterator[tuple[Head, bytes]]:
        """Yield each head with its body that `data` completes; all are to be taken.

        What came whole is read where it stands: `data` may be a buffer that is used again.
        """
        if self._arrived:
            self._arrived += data
            data = bytes(self._arrived) if self._is_whole() else b""
            if not data:
                return
            self._arrived.clear()
        at = 0
        while (ends := _find_ends(data, at)) is not None:
            begin, (body_at, at) = at + _LENGTHS.size, ends
            yield _decode(data[begin:body_at]), bytes(data[body_at:at])
        self._arrived += data[at:]

    def _is_whole(self) -> bool:
        return _find_ends(self._arrived, 0) is not None


def _padded(tensors: Sequence[Tensor]) -> Iterator[bytes | memoryview]:
    """Yield each tensor's values, and before all but the first what fills up to its place."""
    missing = 0
    for tensor in tensors:
        if missing:
            yield bytes(missing)
        yield tensor.data
        missing = -len(tensor.data) % ALIGNMENT


def _find_ends(data: bytes | bytearray | memoryview, at: int) -> tuple[int, int] | None:
    """Return where the head and the body of the frame at `at` end; None: it is not whole."""
    left = len(data) - at
    if left < _LENGTHS.size:
        return None
    head_bytes, body_bytes = _LENGTHS.unpack_from(data, at)
    if head_bytes > LARGEST_HEAD_BYTES or body_bytes > LARGEST_BODY_BYTES:
        raise BadFrame(f"a frame of {head_bytes} and {body_bytes} bytes is announced")
    body_at = at + _LENGTHS.size + head_bytes
    end = body_at + body_bytes
    return (body_at, end) if end <= len(data) else None


def _decode(head: bytes | memoryview) -> Head:
    try:
        return _decoder.decode(head)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadFrame(str(error)) from error
