"""Inference over the local API: requests to the engine, answers to responses and counts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec

from wherry.errors import Malformed, Unavailable, Unsuitable
from wherry.names import AliasName
from wherry_agent.asking import Answer, BundlePlace, Unanswered
from wherry_agent.engine import Asking, Engine, nothing_serves
from wherry_agent.frames import Tensor
from wherry_agent.serving import numbers, states, v2
from wherry_agent.serving.feedback import LARGEST_KEPT, Answers
from wherry_agent.serving.message import JSON_BYTES, KEY, Request, Respond, Response
from wherry_agent.serving.refusals import (
    NothingServes,
    UnknownModel,
    UnknownVersion,
    refused,
    unanswered,
)
from wherry_agent.serving.regions import Regions
from wherry_agent.serving.statistics import Statistics
from wherry_agent.settings import StaleState
from wherry_agent.telemetry import Recorder

LARGEST_JUDGED = 1 << 16  # Values of a class output that are looked at for feedback.


class _Open(msgspec.Struct, frozen=True):
    """A request that the engine was asked."""

    alias: AliasName
    place: BundlePlace
    request: Request
    asked: v2.Asked
    reset: bool
    respond: Respond


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    engine: Engine
    recorder: Recorder
    answers: Answers
    regions: Regions
    statistics: Statistics
    stale: StaleState
    largest_bytes: int
    now_s: Callable[[], float] = time.monotonic

    def places(self, alias: AliasName, version: str | None) -> tuple[BundlePlace, ...]:
        """Return the bundles that may answer, the serving one first, or the one asked for.

        Raises `UnknownModel`, `NothingServes` or `UnknownVersion`.
        """
        places = self.engine.places(alias)
        if not places and alias not in self.engine.aliases():
            raise UnknownModel(alias)
        if not places:
            raise NothingServes(alias, nothing_serves(alias))
        if version is None:
            return places
        chosen = tuple(place for place in places if place.digest == version)
        if not chosen:
            raise UnknownVersion(alias, places[0].digest)
        return chosen

    def infer(
        self, alias: AliasName, version: str | None, request: Request, respond: Respond
    ) -> None:
        """Ask the engine; `respond` is called once, unless a refusal is raised."""
        places = self.places(alias, version)
        asked = v2.decode_infer(
            request.body,
            places[0].manifest.signature,
            json_bytes=request.headers.get(JSON_BYTES),
            read=partial(self._read, request),
            largest_bytes=self.largest_bytes,
            key=request.headers.get(KEY),
        )
        for output in asked.outputs.values():
            if output.part is not None:
                self._check(request, output.part)
        tied = states.tie(alias, asked.inputs, asked.state_of, places=places, stale=self.stale)
        bundle = tied.place.digest if tied.place else places[0].digest if version else None
        place = tied.place or places[0]
        ask = _Open(alias, place, request, asked, tied.reset, respond)
        self.engine.ask(
            Asking(alias, tied.inputs, partial(self._finish, ask), asked.key, bundle, request.berth)
        )

    def _finish(self, ask: _Open, outcome: Answer | Unanswered) -> None:
        if isinstance(outcome, Unanswered):
            self._count_failure(ask, outcome)
            ask.respond(unanswered(outcome))
            return
        ask.respond(self._answer(ask, outcome))
        # The client reads meanwhile; whatever it asks next comes after these on this loop.
        self._keep(ask, outcome)
        self._count(ask, outcome)

    def _answer(self, ask: _Open, answer: Answer) -> Response:
        try:
            self._write_parts(ask, answer.tensors)
        except (Malformed, Unavailable, Unsuitable) as error:
            return refused(error)
        told = _told_of_state(ask, answer)
        return v2.encode_answer(ask.alias, answer.bundle, ask.asked, answer.tensors, told)

    # Shared memory

    def _read(self, request: Request, part: v2.Part) -> bytes:
        request.hold(part.size_bytes)
        return self.regions.read(
            request.user(),
            part.region,
            offset=part.offset,
            size_bytes=part.size_bytes,
            now_s=self.now_s(),
        )

    def _check(self, request: Request, part: v2.Part) -> None:
        self.regions.check_part(
            request.user(), part.region, offset=part.offset, size_bytes=part.size_bytes
        )

    def _write_parts(self, ask: _Open, tensors: tuple[Tensor, ...]) -> None:
        for tensor in tensors:
            wanted = ask.asked.outputs.get(tensor.name)
            if wanted is None or wanted.part is None:
                continue
            part = wanted.part
            if len(tensor.data) > part.size_bytes:
                problem = f"{tensor.name!r} has {len(tensor.data)} bytes"
                raise v2.BadRequest(problem, f"give more than {part.size_bytes} in its region")
            self.regions.write(
                ask.request.user(),
                part.region,
                tensor.data,
                offset=part.offset,
                now_s=self.now_s(),
            )

    # Counts

    def _keep(self, ask: _Open, answer: Answer) -> None:
        """Keep what feedback will be compared with."""
        name = ask.place.manifest.class_output
        tensor = _judged(answer.tensors, name)
        if tensor is None:
            return
        values = numbers.numbers_of(tensor)
        if name is not None:
            given: tuple[int, ...] | tuple[float, ...] = numbers.classes_of(tensor, values)
        else:
            given = tuple(map(float, values))
        self.answers.keep(ask.alias, ask.asked.request, answer.bundle, given)

    def _count(self, ask: _Open, answer: Answer) -> None:
        latency_ns = time.perf_counter_ns() - ask.request.received_ns
        self.statistics.answered(
            ask.alias,
            answer.bundle,
            rows=ask.asked.inputs[0].shape[0],
            latency_ns=latency_ns,
            compute_ns=answer.compute_ns,
            now_ms=time.time_ns() // 1_000_000,
        )
        self.recorder.answered(
            ask.alias, answer.bundle, latency_ns=latency_ns, compute_ns=answer.compute_ns
        )

    def _count_failure(self, ask: _Open, outcome: Unanswered) -> None:
        bundle = outcome.bundle or ask.place.digest
        latency_ns = time.perf_counter_ns() - ask.request.received_ns
        self.statistics.failed(ask.alias, bundle, latency_ns)
        self.recorder.failed(ask.alias, bundle, outcome.fault.value)


def _judged(tensors: tuple[Tensor, ...], class_output: str | None) -> Tensor | None:
    """Return the output that feedback is about, where it is not too large to look at."""
    tensor = next((one for one in tensors if class_output in (None, one.name)), None)
    if tensor is None:
        return None
    values = math.prod(tensor.shape)
    kept = values if class_output is None else math.prod(tensor.shape[:-1])
    return tensor if kept <= LARGEST_KEPT and values <= LARGEST_JUDGED else None


def _told_of_state(ask: _Open, answer: Answer) -> dict[str, str | bool]:
    if not ask.place.manifest.signature.states:
        return {}
    told: dict[str, str | bool] = {"state_of": answer.bundle}
    if ask.reset:
        told["state_reset"] = True
    return told
