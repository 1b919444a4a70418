"""The local API: which path of the Open Inference Protocol v2 does what."""

from __future__ import annotations

import time
from functools import partial
from http import HTTPStatus

import msgspec

from wherry import __version__
from wherry.errors import Malformed
from wherry.measures import Feedback
from wherry.names import AliasName, BadName, parse_alias_name
from wherry_agent.engine import Engine, nothing_serves
from wherry_agent.frames import Fault
from wherry_agent.link import Answer, BundlePlace, Unanswered
from wherry_agent.serving import v2
from wherry_agent.serving.feedback import Answers, LabelledTwice, UnknownRequest
from wherry_agent.serving.http import Request, Respond, Response, refusal
from wherry_agent.telemetry import Recorder

RETRY_AFTER_S = 1

_STATUS = {
    Fault.NOT_FINITE: HTTPStatus.INTERNAL_SERVER_ERROR,
    Fault.RUNTIME_FAILED: HTTPStatus.INTERNAL_SERVER_ERROR,
    Fault.WORKER_DIED: HTTPStatus.SERVICE_UNAVAILABLE,
    Fault.TIMED_OUT: HTTPStatus.GATEWAY_TIMEOUT,
    Fault.OVERLOADED: HTTPStatus.SERVICE_UNAVAILABLE,
}


class Api:
    """Answers requests on the engine's thread, each at once or when its worker has answered."""

    def __init__(self, engine: Engine, recorder: Recorder, answers: Answers) -> None:
        self._engine, self._recorder, self._answers = engine, recorder, answers

    def handle(self, request: Request, respond: Respond) -> None:
        """Call `respond` once with the response."""
        try:
            self._route(request, respond)
        except (BadName, UnknownRequest) as error:
            respond(refusal(HTTPStatus.NOT_FOUND, str(error)))
        except LabelledTwice as error:
            respond(refusal(HTTPStatus.CONFLICT, str(error)))
        except Malformed as error:
            respond(refusal(HTTPStatus.BAD_REQUEST, str(error)))

    def _route(self, request: Request, respond: Respond) -> None:
        path = request.path.partition("?")[0]
        match request.method, path.strip("/").split("/"):
            case (("GET" | "HEAD"), ["v2", *rest]):
                respond(self._look_up(rest))
            case "POST", ["v2", "models", alias, "infer"]:
                self._infer(parse_alias_name(alias), None, request, respond)
            case "POST", ["v2", "models", alias, "versions", version, "infer"]:
                self._infer(parse_alias_name(alias), version, request, respond)
            case "POST", ["v2", "models", alias, "feedback"]:
                respond(self._label(parse_alias_name(alias), request.body))
            case _, ["v2", *_]:
                sentence = f"{path[:120]!r} takes no {request.method}; see GET /v2"
                respond(refusal(HTTPStatus.METHOD_NOT_ALLOWED, sentence))
            case _:
                respond(_nowhere(path))

    def _look_up(self, parts: list[str]) -> Response:
        match parts:
            case []:
                return _json({"name": "wherry", "version": __version__, "extensions": ["feedback"]})
            case ["health", "live"]:
                return _json({"live": True})
            case ["health", "ready"]:
                aliases = self._engine.aliases()
                ready = bool(aliases) and all(map(self._engine.serving, aliases))
                return _json({"ready": ready}, _status(ready=ready))
            case ["models", alias]:
                return self._describe(parse_alias_name(alias), None)
            case ["models", alias, "versions", version]:
                return self._describe(parse_alias_name(alias), version)
            case ["models", alias, "ready"]:
                return self._say_ready(parse_alias_name(alias), None)
            case ["models", alias, "versions", version, "ready"]:
                return self._say_ready(parse_alias_name(alias), version)
            case _:
                return _nowhere("/".join(["/v2", *parts]))

    def _describe(self, alias: AliasName, version: str | None) -> Response:
        place = self._place(alias, version)
        if isinstance(place, Response):
            return place
        return Response(v2.encode_metadata(alias, place.digest, place.manifest))

    def _say_ready(self, alias: AliasName, version: str | None) -> Response:
        place = self._place(alias, version)
        if isinstance(place, Response) and place.status is HTTPStatus.NOT_FOUND:
            return place
        ready = isinstance(place, BundlePlace)
        return _json({"name": alias, "ready": ready}, _status(ready=ready))

    def _infer(
        self, alias: AliasName, version: str | None, request: Request, respond: Respond
    ) -> None:
        place = self._place(alias, version)
        if isinstance(place, Response):
            respond(place)
            return
        asked = v2.decode_infer(request.body, place.manifest)
        done = partial(self._finish, alias, place, request, asked, respond)
        self._engine.ask(alias, asked.inputs, done)

    def _finish(
        self,
        alias: AliasName,
        place: BundlePlace,
        request: Request,
        asked: v2.Asked,
        respond: Respond,
        outcome: Answer | Unanswered,
    ) -> None:
        if isinstance(outcome, Unanswered):
            self._recorder.failed(alias, outcome.bundle or place.digest, outcome.fault.value)
            retry = RETRY_AFTER_S if _STATUS[outcome.fault] == 503 else None
            respond(refusal(_STATUS[outcome.fault], outcome.detail, retry))
            return
        outputs = [(tensor, v2.numbers_of(tensor)) for tensor in outcome.tensors]
        for tensor, numbers in outputs:
            if tensor.name == place.manifest.class_output:
                classes = v2.classes_of(tensor, numbers)
                self._answers.keep(alias, asked.request, outcome.bundle, classes)
        response = Response(v2.encode_answer(alias, outcome.bundle, asked, outputs))
        self._recorder.answered(
            alias,
            outcome.bundle,
            latency_ns=time.perf_counter_ns() - request.received_ns,
            compute_ns=outcome.compute_ns,
        )
        respond(response)

    def _label(self, alias: AliasName, body: bytes) -> Response:
        sent = v2.decode_feedback(body)
        judged = self._answers.label(alias, sent.request, sent.labels)
        self._recorder.labelled(alias, judged.bundle, Feedback(judged.labels, judged.right))
        return _json({"id": sent.request, "labelled": judged.labels, "right": judged.right})

    def _place(self, alias: AliasName, version: str | None) -> BundlePlace | Response:
        """Return the serving bundle, or the refusal where that is not the one asked for."""
        place = self._engine.serving(alias)
        if place is None and alias not in self._engine.aliases():
            sentence = f"no model was ever ordered under {alias!r}; ask for one that was"
            return refusal(HTTPStatus.NOT_FOUND, sentence)
        if place is None:
            return refusal(HTTPStatus.SERVICE_UNAVAILABLE, nothing_serves(alias), RETRY_AFTER_S)
        if version is not None and version != place.digest:
            sentence = (
                f"{alias!r} is served by version {place.digest}; ask for that one, or for none"
            )
            return refusal(HTTPStatus.NOT_FOUND, sentence)
        return place


def _json(value: dict[str, object], status: HTTPStatus = HTTPStatus.OK) -> Response:
    return Response(msgspec.json.encode(value), status)


def _status(*, ready: bool) -> HTTPStatus:
    return HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE


def _nowhere(path: str) -> Response:
    return refusal(HTTPStatus.NOT_FOUND, f"there is nothing at {path[:120]!r}; see GET /v2")
