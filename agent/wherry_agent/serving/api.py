"""The local API: which path of the Open Inference Protocol v2 does what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import unquote

import msgspec

from wherry import __version__
from wherry.errors import Malformed, Unavailable, Unsuitable
from wherry.names import AliasName, parse_alias_name
from wherry_agent import metrics
from wherry_agent.asking import Berth
from wherry_agent.serving import repository, v2
from wherry_agent.serving.feedback import decode_feedback
from wherry_agent.serving.inference import Inference
from wherry_agent.serving.message import JSON_BYTES, Request, Respond, Response, refusal
from wherry_agent.serving.refusals import refused
from wherry_agent.serving.regions import Registration

EXTENSIONS = (
    "feedback",
    "binary_tensor_data",
    "system_shared_memory",
    "model_repository",
    "statistics",
)
_NOT_HERE = ("config", "trace", "logging", "generate", "generate_stream")

LARGEST_HEAD_BYTES = 64 << 10  # Longer JSON is not copied before it is read.
KNOWN_DIGITS = 20
KNOWN_PATH = 256  # Longer paths are not remembered.

_registration: msgspec.json.Decoder[Registration] = msgspec.json.Decoder(Registration)


class BadRegistration(Malformed):
    """A body that registers no region."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        remedy = 'send {"key": "/frames", "offset": 0, "byte_size": 4096}'
        return f"this registers no region: {self.problem}; {remedy}."


class Api:
    """Answers requests on the engine's thread, each at once or when its worker has answered.

    `show_metrics` writes what `/metrics` shows; None: nothing is there.
    """

    def __init__(
        self,
        inference: Inference,
        *,
        shared_memory: bool = True,
        show_metrics: Callable[[], str] | None = None,
    ) -> None:
        self._inference, self._show_metrics = inference, show_metrics
        self._engine, self._regions = inference.engine, inference.regions
        self._shared_memory = shared_memory

    def handle(self, request: Request, respond: Respond) -> None:
        """Call `respond` once with the response."""
        try:
            self._route(request, respond)
        except (Malformed, Unavailable, Unsuitable) as error:
            respond(refused(error))

    def berth(self, path: str, headers: Mapping[str, str], size_bytes: int) -> Berth | None:
        """Return where the body of a request with raw tensors is best received."""
        head_bytes = headers.get(JSON_BYTES, "")
        known = head_bytes.isascii() and head_bytes.isdigit() and len(head_bytes) < KNOWN_DIGITS
        if len(path) > KNOWN_PATH or not known:
            return None
        match _known_parts(path):
            case ["v2", "models", alias, "infer"] if int(head_bytes) <= LARGEST_HEAD_BYTES:
                return self._engine.berth(AliasName(alias), size_bytes, int(head_bytes))
        return None

    def _route(self, request: Request, respond: Respond) -> None:
        path = request.path.partition("?")[0]
        parts = _known_parts(path) if len(path) <= KNOWN_PATH else _parts_of(path)
        match request.method, parts:
            case "POST", ["v2", "models", alias, "infer"]:
                self._inference.infer(parse_alias_name(alias), None, request, respond)
            case "POST", ["v2", "models", alias, "versions", version, "infer"]:
                self._inference.infer(parse_alias_name(alias), version, request, respond)
            case (("GET" | "HEAD"), ["metrics"]) if self._show_metrics is not None:
                respond(Response(self._show_metrics().encode(), content_type=metrics.CONTENT_TYPE))
            case _, ["v2", ("systemsharedmemory" | "cudasharedmemory") as kind, *rest]:
                respond(self._share_memory(request, kind, rest))
            case "POST", ["v2", *rest]:
                respond(self._do(request, rest))
            case (("GET" | "HEAD"), ["v2", *rest]):
                respond(self._look_up(path, rest))
            case _, ["v2", *_]:
                respond(_not_allowed(request))
            case _:
                respond(_nowhere(path))

    # What there is to read

    def _look_up(self, path: str, parts: list[str]) -> Response:
        match parts:
            case []:
                return _json(self._describe_server())
            case ["health", "live"]:
                return _json({"live": True})
            case ["health", "ready"]:
                aliases = self._engine.aliases()
                ready = bool(aliases) and all(map(self._engine.serving, aliases))
                return _json({"ready": ready}, _status(ready=ready))
            case ["models", "stats"]:
                return _json(self._inference.statistics.tell())
            case ["models", alias, *rest]:
                return self._look_up_model(path, parse_alias_name(alias), rest)
            case [first, *_] if first in _NOT_HERE:
                raise repository.no_extension(path)
            case _:
                return _nowhere(path)

    def _look_up_model(self, path: str, alias: AliasName, parts: list[str]) -> Response:
        match parts:
            case ["versions", version, *rest]:
                chosen: str | None = version
            case rest:
                chosen = None
        match rest:
            case []:
                (place, *_) = self._inference.places(alias, chosen)
                return Response(v2.encode_metadata(alias, place.digest, place.manifest))
            case ["ready"]:
                return self._say_ready(alias, chosen)
            case ["stats"]:
                self._inference.places(alias, chosen)
                return _json(self._inference.statistics.tell(alias))
            case [first, *_] if first in _NOT_HERE:
                raise repository.no_extension(path)
            case _:
                return _nowhere(path)

    def _describe_server(self) -> dict[str, object]:
        return {"name": "wherry", "version": __version__, "extensions": EXTENSIONS}

    def _say_ready(self, alias: AliasName, version: str | None) -> Response:
        if alias in self._engine.aliases() and self._engine.serving(alias) is None:
            ready = False
        else:
            ready = bool(self._inference.places(alias, version))
        return _json({"name": alias, "ready": ready}, _status(ready=ready))

    # What there is to do

    def _do(self, request: Request, parts: list[str]) -> Response:
        match parts:
            case ["models", alias, "feedback"]:
                return self._judge(parse_alias_name(alias), request)
            case ["repository", "index"]:
                aliases = self._engine.aliases()
                served = [(alias, self._engine.serving(alias)) for alias in aliases]
                return _json(repository.index(served))
            case ["repository", "models", alias, ("load" | "unload")]:
                raise repository.no_loading(alias)
            case [*_, last] if any(part in _NOT_HERE for part in (parts[0], last)):
                raise repository.no_extension(request.path)
            case _:
                return _not_allowed(request)

    def _judge(self, alias: AliasName, request: Request) -> Response:
        sent = decode_feedback(request.body)
        judged = self._inference.answers.judge(alias, sent)
        self._inference.recorder.labelled(alias, judged.bundle, judged.feedback)
        told = judged.feedback
        answer: dict[str, object] = {
            "id": sent.id,
            "labelled": told.labelled,
            "right": told.right,
        }
        if told.values:
            answer |= {
                "values": told.values,
                "absolute_error": told.absolute_error,
                "squared_error": told.squared_error,
            }
        return _json(answer)

    # Shared memory

    def _share_memory(self, request: Request, kind: str, parts: list[str]) -> Response:
        user, regions = request.user(), self._regions
        offered = self._shared_memory and kind == "systemsharedmemory"
        match request.method, parts:
            case "GET", ["status"]:
                return _json(regions.list(user) if kind == "systemsharedmemory" else [])
            case "GET", ["region", *names, "status"] if offered:
                return _json([regions.find(user, "/".join(names))])
            case "POST", ["unregister"]:
                if offered:
                    regions.unregister_all(user)
                return Response(b"")
            case "POST", ["region", *names, "unregister"] if offered:
                regions.unregister(user, "/".join(names))
                return Response(b"")
            case "POST", ["region", *names, "register"] if offered:
                sent, now_s = _registration_of(request), self._inference.now_s()
                regions.register(user, "/".join(names), sent, now_s=now_s)
                return Response(b"")
            case _, ["region", *_] if not offered:
                raise repository.no_extension(request.path)
            case _:
                return _not_allowed(request)


def _parts_of(path: str) -> tuple[str, ...]:
    return tuple(map(unquote, path.strip("/").split("/")))


_known_parts = lru_cache(maxsize=64)(_parts_of)  # The same few are asked for all the time.


def _registration_of(request: Request) -> Registration:
    try:
        return _registration.decode(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRegistration(str(error)) from error


def _json(value: object, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(msgspec.json.encode(value), status)


def _status(*, ready: bool) -> HTTPStatus:
    return HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE


def _nowhere(path: str) -> Response:
    return refusal(HTTPStatus.NOT_FOUND, f"there is nothing at {path[:120]!r}; see GET /v2")


def _not_allowed(request: Request) -> Response:
    sentence = f"{request.path[:120]!r} takes no {request.method}; see GET /v2"
    return refusal(HTTPStatus.METHOD_NOT_ALLOWED, sentence)
