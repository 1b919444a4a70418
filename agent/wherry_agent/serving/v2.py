"""Inference requests and responses of the Open Inference Protocol v2, against a signature.

A tensor's values come as JSON (flat or nested), as raw bytes after the JSON, or in a registered
region of shared memory, each input its own way; outputs leave as each of them was asked for. Raw
bytes stay bytes: nothing here loads numpy.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import GenericAlias
from typing import Annotated, TypeAlias

import msgspec

from wherry import signature
from wherry.errors import Malformed
from wherry.manifest import Manifest
from wherry.names import AliasName, Digest
from wherry.signature import SIZE_BYTES, BadSignature, Datatype, batch_of
from wherry_agent.frames import LARGEST_BODY_BYTES, Tensor
from wherry_agent.serving.binary import Rest, split
from wherry_agent.serving.message import Response
from wherry_agent.serving.numbers import Numbers, decode_numbers, kind_of, numbers_of, pack
from wherry_agent.serving.states import carries

LARGEST_ID = 255
PLATFORM = "wherry_bundle"  # The same on every device, whatever the runtime inside.

_Size: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)]


class BadRequest(Malformed):
    """A request that does not fit the protocol or the model's signature."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem, self.remedy = problem, remedy

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}."


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a registered region of shared memory."""

    region: str
    offset: int
    size_bytes: int


ReadPart: TypeAlias = Callable[[Part], bytes]


class WantedOutput(msgspec.Struct, frozen=True):
    """How an output leaves: into `part`, as raw bytes, or as JSON."""

    binary: bool
    part: Part | None = None


class Asked(msgspec.Struct, frozen=True):
    """A request that fits the signature: its inputs in order, the outputs it wants by name.

    `key` keeps what belongs together on one side of a split. Inputs that carry state and were left
    out are zeros; `state_of` is the bundle that those are of that came.
    """

    request: str
    inputs: tuple[Tensor, ...]
    outputs: dict[str, WantedOutput]
    key: str
    state_of: str | None = None


class _InputParameters(msgspec.Struct, frozen=True):
    binary_data_size: _Size | None = None
    shared_memory_region: str | None = None
    shared_memory_byte_size: _Size = 0
    shared_memory_offset: _Size = 0


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw | Numbers | msgspec.UnsetType = msgspec.UNSET
    parameters: _InputParameters = _InputParameters()


class _OutputParameters(msgspec.Struct, frozen=True):
    binary_data: bool | None = None
    shared_memory_region: str | None = None
    shared_memory_byte_size: _Size = 0
    shared_memory_offset: _Size = 0
    classification: int = 0


class _Wanted(msgspec.Struct):
    name: str
    parameters: _OutputParameters = _OutputParameters()


class _Parameters(msgspec.Struct, frozen=True):
    key: str | int | None = None
    state_of: str | None = None
    binary_data_output: bool = False


class _Infer(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    outputs: list[_Wanted] | None = None
    parameters: _Parameters = _Parameters()


class _Output(msgspec.Struct):
    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    parameters: dict[str, str | int] | msgspec.UnsetType = msgspec.UNSET
    data: Numbers | msgspec.UnsetType = msgspec.UNSET


class _Answer(msgspec.Struct):
    model_name: str
    model_version: str
    id: str
    outputs: list[_Output]
    parameters: dict[str, str | bool] | msgspec.UnsetType = msgspec.UNSET


def _infer_with(data: object) -> msgspec.json.Decoder[_Infer]:
    """Return a decoder of requests whose inputs have such data, or none."""
    told = ("data", data | msgspec.UnsetType, msgspec.UNSET)
    each = msgspec.defstruct("_Input", [told], bases=(_Input,), kw_only=True)
    inputs = ("inputs", GenericAlias(list, each))
    return msgspec.json.Decoder(
        msgspec.defstruct("_Infer", [inputs], bases=(_Infer,), kw_only=True)
    )


_infer = _infer_with(msgspec.Raw)
# To find where data end and then to decode them takes half as much more than to decode them.
_infer_flat = {kind: _infer_with(GenericAlias(list, kind)) for kind in (float, int, bool)}
_encode = msgspec.json.Encoder().encode


def decode_infer(
    body: bytes | bytearray | memoryview,
    wanted: signature.Signature,
    *,
    json_bytes: str | None,
    read: ReadPart,
    largest_bytes: int = LARGEST_BODY_BYTES,
    key: str | None = None,
) -> Asked:
    """Return what an inference request asks; raise a `Malformed` that says what does not fit.

    `json_bytes` is the header that says how much of the body is JSON, `key` the request's header
    of that name. All inputs in shared memory have `largest_bytes` at most: they are read into the
    agent's own memory, as a body is.
    """
    head, rest = split(body, json_bytes)
    sent = _decode(head, wanted)
    if sent.id is not None and len(sent.id) > LARGEST_ID:
        raise BadRequest(f"its id has {len(sent.id)} characters", f"use at most {LARGEST_ID}")
    _bound_parts(sent.inputs, largest_bytes)
    inputs = _inputs_of(sent.inputs, wanted, rest, read)
    request = sent.id or secrets.token_hex(16)
    chosen = sent.parameters.key if sent.parameters.key is not None else key
    return Asked(
        request,
        inputs,
        _outputs_of(sent, wanted),
        request if chosen is None else str(chosen),
        sent.parameters.state_of,
    )


def encode_answer(
    alias: AliasName,
    bundle: Digest,
    asked: Asked,
    tensors: tuple[Tensor, ...],
    parameters: dict[str, str | bool],
) -> Response:
    """Return the response with those outputs that the request wants."""
    outputs: list[_Output] = []
    raw: list[bytes | bytearray | memoryview] = []
    for tensor in tensors:
        wanted = asked.outputs.get(tensor.name)
        if wanted is None:
            continue
        output = _Output(tensor.name, tensor.datatype, tensor.shape)
        outputs.append(output)
        if wanted.part is not None:
            output.parameters = _told_of(wanted.part, len(tensor.data))
        elif wanted.binary:
            output.parameters = {"binary_data_size": len(tensor.data)}
            raw.append(tensor.data)
        else:
            output.data = numbers_of(tensor)
    answer = _Answer(alias, bundle, asked.request, outputs, parameters or msgspec.UNSET)
    return Response(_encode(answer), tensors=tuple(raw))


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


def _decode(head: bytes | memoryview, wanted: signature.Signature) -> _Infer:
    """Return the JSON of a request; data that are not flat numbers of one kind stay JSON."""
    kinds = {kind_of(tensor.datatype) for tensor in wanted.inputs}
    if len(kinds) == 1:
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return _infer_flat[kinds.pop()].decode(head)
    try:
        return _infer.decode(head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"this is no inference request: {error}", "see its metadata") from error


def _inputs_of(
    sent: list[_Input], wanted: signature.Signature, rest: Rest, read: ReadPart
) -> tuple[Tensor, ...]:
    by_name = {tensor.name: tensor for tensor in wanted.inputs}
    if [tensor.name for tensor in sent] != list(by_name):
        _check_names(sent, wanted)
    came = {each.name: _input_of(each, by_name[each.name], rest, read) for each in sent}
    rest.finish()
    batches = {tensor.shape[0] for tensor in came.values()} or {1}
    if len(batches) != 1:
        raise BadRequest("the inputs have not one batch length", "send as many rows of each")
    (batch,) = batches
    if batch > wanted.max_batch:
        problem = f"a batch of {batch} is too large"
        raise BadRequest(problem, f"send at most {wanted.max_batch} rows at a time")
    return tuple(came.get(each.name) or _zeros(each, batch) for each in wanted.inputs)


def _check_names(sent: list[_Input], wanted: signature.Signature) -> None:
    """Refuse inputs that are not those of the model, in whatever order; states may be missing."""
    names, known = {tensor.name for tensor in sent}, {tensor.name for tensor in wanted.inputs}
    if len(names) != len(sent) or not known - carries(wanted) <= names <= known:
        problem = "the inputs are not those of the model"
        raise BadRequest(problem, f"send {', '.join(tensor.name for tensor in wanted.inputs)}")


def _bound_parts(sent: list[_Input], largest_bytes: int) -> None:
    shared_bytes = sum(tensor.parameters.shared_memory_byte_size for tensor in sent)
    if shared_bytes > largest_bytes:
        problem = f"{shared_bytes} bytes are to come from shared memory"
        raise BadRequest(problem, f"send at most {largest_bytes} in a request")


def _input_of(sent: _Input, wanted: signature.Tensor, rest: Rest, read: ReadPart) -> Tensor:
    if sent.datatype != wanted.datatype:
        problem = f"{wanted.name!r} came as {sent.datatype[:20]}"
        raise BadRequest(problem, f"send it as {wanted.datatype.value}")
    shape = tuple(sent.shape)
    if shape and min(shape) < 1:
        raise BadSignature(f"{wanted.name!r} came with an axis below 1", "send at least one row")
    batch_of(wanted, shape)
    return Tensor(wanted.name, wanted.datatype, shape, _data_of(sent, wanted, shape, rest, read))


def _data_of(
    sent: _Input, wanted: signature.Tensor, shape: tuple[int, ...], rest: Rest, read: ReadPart
) -> bytes | memoryview:
    size, region = sent.parameters.binary_data_size, sent.parameters.shared_memory_region
    ways = (sent.data is not msgspec.UNSET, size is not None, region is not None)
    if sum(ways) != 1:
        problem = f"{wanted.name!r} came in {sum(ways)} ways"
        raise BadRequest(problem, "send data, a binary_data_size or a shared_memory_region")
    if not isinstance(sent.data, msgspec.UnsetType):
        return _packed(sent.data, wanted, shape)
    size_bytes = SIZE_BYTES[wanted.datatype] * math.prod(shape)
    told = sent.parameters.shared_memory_byte_size if size is None else size
    if told != size_bytes:
        problem = f"{wanted.name!r} came with {told} bytes"
        raise BadRequest(problem, f"send {size_bytes} for the shape {list(shape)}")
    if region is not None:
        data: bytes | memoryview = read(
            Part(region, sent.parameters.shared_memory_offset, size_bytes)
        )
    else:
        data = rest.take(wanted.name, size_bytes)
    if wanted.datatype is Datatype.BOOL and bytes(data).translate(None, b"\0\1"):
        raise BadRequest(f"{wanted.name!r} holds bytes that are no BOOL", "send 0 and 1 only")
    return data


def _packed(data: msgspec.Raw | Numbers, wanted: signature.Tensor, shape: tuple[int, ...]) -> bytes:
    try:
        if isinstance(data, msgspec.Raw):
            data = decode_numbers(bytes(data), wanted.datatype, shape)
        packed = pack(data, wanted.datatype)
    except (msgspec.DecodeError, OverflowError, RecursionError) as error:
        problem = f"the data of {wanted.name!r} are not {wanted.datatype.value}: {error}"
        raise BadRequest(problem, "send numbers of that type") from error
    if len(data) != math.prod(shape):
        problem = f"{wanted.name!r} came with {len(data)} values"
        raise BadRequest(problem, f"send {math.prod(shape)} for the shape {list(shape)}")
    return packed


def _zeros(state: signature.Tensor, batch: int) -> Tensor:
    lengths = [axis for axis in state.shape[1:] if isinstance(axis, int)]
    if len(lengths) != len(state.shape) - 1:
        problem = f"{state.name!r} has a length that varies"
        raise BadRequest(problem, "begin with zeros of the length that you want")
    shape = (batch, *lengths)
    data = bytes(SIZE_BYTES[state.datatype] * math.prod(shape))
    return Tensor(state.name, state.datatype, shape, data)


def _outputs_of(sent: _Infer, wanted: signature.Signature) -> dict[str, WantedOutput]:
    names = [tensor.name for tensor in wanted.outputs]
    binary = sent.parameters.binary_data_output
    if sent.outputs is None:
        return {name: WantedOutput(binary) for name in names}
    chosen = {output.name: _wanted_of(output, binary=binary) for output in sent.outputs}
    unknown = chosen.keys() - set(names)
    if unknown:
        problem = f"the model has no output {min(unknown)[:80]!r}"
        raise BadRequest(problem, f"choose of {', '.join(names)}")
    return chosen


def _wanted_of(output: _Wanted, *, binary: bool) -> WantedOutput:
    told = output.parameters
    if told.classification:
        problem = f"{output.name[:80]!r} is asked for as classes"
        raise BadRequest(problem, "ask for its values, and take the largest")
    if told.shared_memory_region is None:
        return WantedOutput(binary if told.binary_data is None else told.binary_data)
    part = Part(told.shared_memory_region, told.shared_memory_offset, told.shared_memory_byte_size)
    return WantedOutput(binary=False, part=part)


def _told_of(part: Part, size_bytes: int) -> dict[str, str | int]:
    told: dict[str, str | int] = {
        "shared_memory_region": part.region,
        "shared_memory_byte_size": size_bytes,
    }
    if part.offset:
        told["shared_memory_offset"] = part.offset
    return told


def _described(tensor: signature.Tensor) -> dict[str, object]:
    shape = [-1 if isinstance(axis, str) else axis for axis in tensor.shape]
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": shape}
