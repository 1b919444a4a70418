"""The gRPC half of the local API, an extra: calls become requests of the other half, and back.

So every check stands once, in `api`. grpcio and protobuf are wrapped here, and take 22 MB.
"""

from __future__ import annotations

import time
from asyncio import get_running_loop
from collections.abc import Awaitable, Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

import grpc
import msgspec

from wherry.signature import Datatype
from wherry_agent.serving.grpc_words import SERVICE, words
from wherry_agent.serving.message import JSON_BYTES, Handler, Request, Response
from wherry_agent.serving.numbers import pack
from wherry_agent.serving.refusals import refused
from wherry_agent.serving.room import NoRoom, Room, Taken

_CODES = {
    HTTPStatus.BAD_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    HTTPStatus.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    HTTPStatus.CONFLICT: grpc.StatusCode.FAILED_PRECONDITION,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    HTTPStatus.NOT_IMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
}
_CONTENTS = {
    Datatype.BOOL: "bool_contents",
    Datatype.UINT8: "uint_contents",
    Datatype.INT8: "int_contents",
    Datatype.INT32: "int_contents",
    Datatype.INT64: "int64_contents",
    Datatype.FP32: "fp32_contents",
    Datatype.FP64: "fp64_contents",
}

Call = Callable[[Any, Any], Awaitable[Any]]


class Refused(Exception):
    """A call that is answered with a status and a sentence."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.code = _CODES.get(response.status, grpc.StatusCode.INTERNAL)
        self.sentence = str(msgspec.json.decode(response.body).get("error", response.status.phrase))


async def serve(
    handler: Handler, address: str, *, room: Room, largest_bytes: int, most_calls: int
) -> tuple[Callable[[float], Awaitable[None]], int]:
    """Listen on `host:port` of the running loop; return what ends it within seconds, and the port.

    Of more than `most_calls` at a time the others are refused with RESOURCE_EXHAUSTED.
    Raises OSError where the address cannot be had.
    """
    options = [
        ("grpc.max_receive_message_length", largest_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=most_calls)
    calls = _Calls(handler, room)
    methods = {
        name: grpc.unary_unary_rpc_method_handler(
            call,
            request_deserializer=words(f"{name}Request").FromString,
            response_serializer=words(f"{name}Response").SerializeToString,
        )
        for name, call in calls.by_name().items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(str(error)) from error
    await server.start()
    return server.stop, port


class _Calls:
    def __init__(self, handler: Handler, room: Room) -> None:
        self._handler, self._room = handler, room

    def by_name(self) -> dict[str, Call]:
        calls = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._describe_server,
            "ModelMetadata": self._describe_model,
            "ModelInfer": self._infer,
        }
        return {name: _refusing(call) for name, call in calls.items()}

    async def _live(self, _: Any) -> Any:
        return words("ServerLiveResponse")(live=(await self._get("/v2/health/live")).status < 400)

    async def _ready(self, _: Any) -> Any:
        return words("ServerReadyResponse")(
            ready=(await self._get("/v2/health/ready")).status < 400
        )

    async def _model_ready(self, asked: Any) -> Any:
        response = await self._get(f"{_path(asked.name, asked.version)}/ready")
        if response.status is HTTPStatus.NOT_FOUND:
            raise Refused(response)
        return words("ModelReadyResponse")(ready=response.status < 400)

    async def _describe_server(self, _: Any) -> Any:
        return words("ServerMetadataResponse")(**_told(await self._get("/v2")))

    async def _describe_model(self, asked: Any) -> Any:
        told = _told(await self._get(_path(asked.name, asked.version)))
        return words("ModelMetadataResponse")(**told)

    async def _infer(self, asked: Any) -> Any:
        head, tensors = _request_of(asked)
        body = b"".join((head, *tensors))
        path = f"{_path(asked.model_name, asked.model_version)}/infer"
        response = await self._ask("POST", path, body, {JSON_BYTES: str(len(head))})
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise Refused(response)
        return _response_of(response)

    async def _get(self, path: str) -> Response:
        return await self._ask("GET", path, b"", {})

    async def _ask(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> Response:
        answered, taken = get_running_loop().create_future(), Taken(self._room)
        try:
            taken.take(len(body))
        except NoRoom as error:
            raise Refused(refused(error)) from error

        def respond(response: Response) -> None:
            taken.give_back()
            if not answered.done():  # A call that its client gave up is answered all the same.
                answered.set_result(response)

        received_ns = time.perf_counter_ns()
        request = Request(method, path, body, received_ns, headers, _nobody, taken.take)
        self._handler(request, respond)
        response: Response = await answered
        return response


def _nobody() -> None:
    """Say that gRPC does not tell whose a connection on loopback is."""


def _refusing(call: Callable[[Any], Awaitable[Any]]) -> Call:
    async def answer(asked: Any, context: Any) -> Any:
        try:
            return await call(asked)
        except Refused as refused:
            await context.abort(refused.code, refused.sentence)

    return answer


def _path(name: str, version: str) -> str:
    return f"/v2/models/{name}/versions/{version}" if version else f"/v2/models/{name}"


def _told(response: Response) -> dict[str, Any]:
    if response.status >= HTTPStatus.BAD_REQUEST:
        raise Refused(response)
    told: dict[str, Any] = msgspec.json.decode(response.body)
    return told


def _request_of(asked: Any) -> tuple[bytes, list[bytes]]:
    """Return the JSON of an inference request, and the bytes of its tensors behind it."""
    raw = iter(asked.raw_input_contents)
    inputs: list[dict[str, object]] = []
    tensors: list[bytes] = []
    for sent in asked.inputs:
        parameters = _parameters(sent.parameters)
        if "shared_memory_region" not in parameters:
            data = next(raw, None)
            tensors.append(_packed(sent) if data is None else data)
            parameters["binary_data_size"] = len(tensors[-1])
        inputs.append(
            {
                "name": sent.name,
                "datatype": sent.datatype,
                "shape": list(sent.shape),
                "parameters": parameters,
            }
        )
    head: dict[str, object] = {
        "inputs": inputs,
        "parameters": {**_parameters(asked.parameters), "binary_data_output": True},
    }
    if asked.id:
        head["id"] = asked.id
    if asked.outputs:
        head["outputs"] = [
            {"name": one.name, "parameters": {"binary_data": True, **_parameters(one.parameters)}}
            for one in asked.outputs
        ]
    return msgspec.json.encode(head), tensors


def _packed(sent: Any) -> bytes:
    """Return the bytes of a tensor that came as numbers; raise `Refused` where it has none."""
    try:
        datatype = Datatype(sent.datatype)
        return pack(list(getattr(sent.contents, _CONTENTS[datatype])), datatype)
    except (ValueError, KeyError, OverflowError) as error:
        sentence = f"the contents of {sent.name!r} are not {sent.datatype}; send raw contents"
        body = msgspec.json.encode({"error": sentence})
        raise Refused(Response(body, HTTPStatus.BAD_REQUEST)) from error


def _response_of(response: Response) -> Any:
    told = msgspec.json.decode(response.body)
    given = iter(response.tensors)
    outputs, raw = [], []
    for output in told["outputs"]:
        parameters = output.get("parameters", {})
        if parameters.pop("binary_data_size", None) is not None:
            raw.append(bytes(next(given)))
        outputs.append(
            words("InferOutputTensor")(
                name=output["name"],
                datatype=output["datatype"],
                shape=output["shape"],
                parameters=dict(_as_parameters(parameters)),
            )
        )
    return words("ModelInferResponse")(
        model_name=told["model_name"],
        model_version=told["model_version"],
        id=told["id"],
        parameters=dict(_as_parameters(told.get("parameters", {}))),
        outputs=outputs,
        raw_output_contents=raw,
    )


def _parameters(sent: Any) -> dict[str, object]:
    return {
        name: getattr(value, value.WhichOneof("parameter_choice"))
        for name, value in sent.items()
        if value.WhichOneof("parameter_choice")
    }


def _as_parameters(told: Mapping[str, object]) -> Iterator[tuple[str, Any]]:
    fields = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    for name, value in told.items():
        yield name, words("InferParameter")(**{fields[type(value)]: value})
