"""The JSON of the Open Inference Protocol v2, to tensors and back.

Tensors are bytes in row-major order on the inside; `array` and `struct` make them of numbers,
so that no numpy is loaded. Data may come flat or nested; it goes out flat.
"""

from __future__ import annotations

import math
import secrets
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import msgspec

from wherry import signature
from wherry.errors import Malformed
from wherry.manifest import Manifest
from wherry.names import AliasName, Digest
from wherry.signature import BadSignature, Datatype, batch_of
from wherry_agent.frames import Tensor

LARGEST_ID = 255
LARGEST_RANK = 16
PLATFORM = "wherry_bundle"  # The same on every device, whatever the runtime inside.

_CODES = {
    Datatype.UINT8: "B",
    Datatype.INT8: "b",
    Datatype.INT32: "i",
    Datatype.INT64: "q",
    Datatype.FP32: "f",
    Datatype.FP64: "d",
}
_FLOATS = (Datatype.FP16, Datatype.FP32, Datatype.FP64)

Numbers = list[float] | list[int] | list[bool]


class BadRequest(Malformed):
    """A request that does not fit the protocol or the model's signature."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem, self.remedy = problem, remedy

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}."


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that fits the signature: its inputs in order, the outputs it wants."""

    request: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Labelled:
    request: str
    labels: tuple[int, ...]


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw


class _Wanted(msgspec.Struct):
    name: str


class _Infer(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    outputs: list[_Wanted] | None = None


class _Feedback(msgspec.Struct):
    id: str
    labels: list[int]


class _Output(msgspec.Struct):
    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    data: Numbers


class _Answer(msgspec.Struct):
    model_name: str
    model_version: str
    id: str
    outputs: list[_Output]


_infer: msgspec.json.Decoder[_Infer] = msgspec.json.Decoder(_Infer)
_feedback: msgspec.json.Decoder[_Feedback] = msgspec.json.Decoder(_Feedback)
_floats: msgspec.json.Decoder[list[float]] = msgspec.json.Decoder(list[float])
_integers: msgspec.json.Decoder[list[int]] = msgspec.json.Decoder(list[int])
_truths: msgspec.json.Decoder[list[bool]] = msgspec.json.Decoder(list[bool])
_encode = msgspec.json.Encoder().encode


def decode_infer(body: bytes, manifest: Manifest) -> Asked:
    """Return what an inference request asks; raise `BadRequest` or `BadSignature`."""
    try:
        sent = _infer.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"this is no inference request: {error}", "see its metadata") from error
    if sent.id is not None and not 0 < len(sent.id) <= LARGEST_ID:
        raise BadRequest(f"its id has {len(sent.id)} characters", f"use 1 to {LARGEST_ID}")
    inputs = _inputs_of(sent.inputs, manifest.signature)
    return Asked(sent.id or secrets.token_hex(16), inputs, _outputs_of(sent, manifest))


def encode_answer(
    alias: AliasName, bundle: Digest, asked: Asked, outputs: Sequence[tuple[Tensor, Numbers]]
) -> bytes:
    """Return the response with those outputs that the request wants."""
    chosen = [
        _Output(tensor.name, tensor.datatype, tensor.shape, numbers)
        for tensor, numbers in outputs
        if tensor.name in asked.outputs
    ]
    return _encode(_Answer(alias, bundle, asked.request, chosen))


def decode_feedback(body: bytes) -> Labelled:
    """Return the labels that came; raise `BadRequest` where there are none."""
    try:
        sent = _feedback.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        remedy = 'send {"id": "…", "labels": [7]}'
        raise BadRequest(f"this is no feedback: {error}", remedy) from error
    return Labelled(sent.id, tuple(sent.labels))


def encode_metadata(alias: AliasName, bundle: Digest, manifest: Manifest) -> bytes:
    """Return the model's metadata; a length that varies is -1."""
    return _encode(
        {
            "name": alias,
            "versions": [bundle],
            "platform": PLATFORM,
            "inputs": [_described(tensor) for tensor in manifest.signature.inputs],
            "outputs": [_described(tensor) for tensor in manifest.signature.outputs],
        }
    )


def numbers_of(tensor: Tensor) -> Numbers:
    """Return the values of a tensor in row-major order."""
    if tensor.datatype is Datatype.BOOL:
        return [value != 0 for value in tensor.data]
    if tensor.datatype is Datatype.FP16:
        return list(struct.unpack(f"<{len(tensor.data) // 2}e", tensor.data))
    values = array(_CODES[tensor.datatype])
    values.frombytes(tensor.data)
    return values.tolist()


def classes_of(tensor: Tensor, numbers: Sequence[float]) -> tuple[int, ...]:
    """Return the index of the largest value along the last axis, for each row of the rest."""
    width = tensor.shape[-1]
    rows = (numbers[start : start + width] for start in range(0, len(numbers), width))
    return tuple(row.index(max(row)) for row in rows)


def _inputs_of(sent: list[_Input], wanted: signature.Signature) -> tuple[Tensor, ...]:
    by_name = {tensor.name: tensor for tensor in sent}
    names = [tensor.name for tensor in wanted.inputs]
    if len(sent) != len(by_name) or set(by_name) != set(names):
        raise BadRequest("the inputs are not those of the model", f"send {', '.join(names)}")
    inputs = tuple(_input_of(by_name[tensor.name], tensor) for tensor in wanted.inputs)
    batches = {tensor.shape[0] for tensor in inputs}
    if len(batches) != 1:
        raise BadRequest("the inputs have not one batch length", "send as many rows of each")
    if max(batches) > wanted.max_batch:
        problem = f"a batch of {max(batches)} is too large"
        raise BadRequest(problem, f"send at most {wanted.max_batch} rows at a time")
    return inputs


def _input_of(sent: _Input, wanted: signature.Tensor) -> Tensor:
    if sent.datatype != wanted.datatype.value:
        problem = f"{wanted.name!r} came as {sent.datatype[:20]}"
        raise BadRequest(problem, f"send it as {wanted.datatype.value}")
    shape = tuple(sent.shape)
    if len(shape) > LARGEST_RANK or any(length < 1 for length in shape):
        raise BadSignature(f"{wanted.name!r} came with an axis below 1", "send at least one row")
    batch_of(wanted, shape)
    try:
        numbers = decode_numbers(bytes(sent.data), wanted.datatype, shape)
        data = pack(numbers, wanted.datatype)
    except (msgspec.DecodeError, OverflowError, struct.error, RecursionError) as error:
        problem = f"the data of {wanted.name!r} are not {wanted.datatype.value}: {error}"
        raise BadRequest(problem, "send numbers of that type") from error
    if len(numbers) != math.prod(shape):
        problem = f"{wanted.name!r} came with {len(numbers)} values"
        raise BadRequest(problem, f"send {math.prod(shape)} for the shape {list(shape)}")
    return Tensor(wanted.name, wanted.datatype, shape, data)


def _outputs_of(sent: _Infer, manifest: Manifest) -> tuple[str, ...]:
    names = tuple(tensor.name for tensor in manifest.signature.outputs)
    if sent.outputs is None:
        return names
    chosen = tuple(output.name for output in sent.outputs)
    unknown = set(chosen) - set(names)
    if unknown:
        problem = f"the model has no output {min(unknown)[:80]!r}"
        raise BadRequest(problem, f"choose of {', '.join(names)}")
    return chosen


def decode_numbers(data: bytes, datatype: Datatype, shape: tuple[int, ...]) -> Numbers:
    """Return the values of a JSON list, flat, or nested as `shape` says."""
    if data[:1] == b"[" and data[1:].lstrip()[:1] == b"[":
        data = _encode(_flattened(msgspec.json.decode(data), shape))
    if datatype in _FLOATS:
        return _floats.decode(data)
    return _truths.decode(data) if datatype is Datatype.BOOL else _integers.decode(data)


def _flattened(nested: object, shape: tuple[int, ...]) -> list[object]:
    """Return the values of lists that are nested as `shape` says."""
    level: list[object] = [nested]
    for length in shape:
        rows = [row for row in level if isinstance(row, list) and len(row) == length]
        if len(rows) != len(level):
            raise BadRequest(f"the lists are not nested as {list(shape)}", "send them flat")
        level = list(chain.from_iterable(rows))
    return level


def pack(numbers: Numbers, datatype: Datatype) -> bytes:
    """Return the values as little-endian bytes; OverflowError where the type is too small."""
    if datatype is Datatype.BOOL:
        return bytes(numbers)  # type: ignore[arg-type]
    if datatype is Datatype.FP16:
        return struct.pack(f"<{len(numbers)}e", *numbers)
    return array(_CODES[datatype], numbers).tobytes()


def _described(tensor: signature.Tensor) -> dict[str, object]:
    shape = [-1 if isinstance(axis, str) else axis for axis in tensor.shape]
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": shape}
