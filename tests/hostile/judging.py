"""What becomes of a hostile bundle in an engine that serves: refused, harmless, or answering.

It is loaded under an alias of its own, beside an incumbent that is asked all the while. A damaged
model that loads is asked what no golden input asks: it is harmless if it answers as the sound one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

import numpy as np

from tests.agent.benches import ALIAS, PATIENCE_S, Bench, an_input, ask
from tests.agent.bundles import images, logits_of
from tests.hostile.corpus import Hostile
from wherry.errors import REFUSALS
from wherry.messages import SwapPolicy
from wherry.names import AliasName, DeploymentId
from wherry.reasons import Reason
from wherry_agent.client import Client
from wherry_agent.engine import EngineEvent, Flipped, Loaded, LoadFailed

JUDGED = AliasName("judged")
HELD_OUT = images(7, seed=99)
TOLERANCE = 0.15  # One step of the LiteRT model's output is 0.125.
PAUSE_S = 0.02

E = TypeVar("E", bound=EngineEvent)


class Outcome(Enum):
    REFUSED = "refused"
    HARMLESS = "harmless"
    ANSWERED = "answered"


@dataclass(frozen=True, slots=True)
class Judgement:
    outcome: Outcome
    reason: Reason | None = None
    detail: str = ""


@dataclass(slots=True)
class Watched:
    """What came of the requests to the incumbent."""

    asked: int = 0
    lost: list[str] = field(default_factory=list)


def judge(bench: Bench, hostile: Hostile) -> Judgement:
    """Load a hostile bundle beside what serves, and say what became of it."""
    deployment = DeploymentId(f"d-{hostile.bundle.digest[:16]}")
    place = bench.place(hostile.bundle)
    bench.engine.load(JUDGED, deployment, place, SwapPolicy.AVAILABILITY)
    event = _next(bench, (Loaded, LoadFailed))
    if isinstance(event, LoadFailed):
        return Judgement(Outcome.REFUSED, event.reason, event.detail)
    bench.engine.serve(JUDGED, place)
    _next(bench, (Flipped,))
    try:
        with bench.client() as client:
            answered = client.infer(JUDGED, an_input(HELD_OUT)).values("logits")
    finally:
        bench.engine.serve(JUDGED, None)
        bench.engine.retire(JUDGED)
    logits = np.asarray(answered, np.float32).reshape(-1, 4)
    off = float(np.abs(logits - logits_of(HELD_OUT)).max())
    is_harmless = off <= TOLERANCE
    outcome = Outcome.HARMLESS if is_harmless else Outcome.ANSWERED
    return Judgement(outcome, detail=f"off by {off:.3g}")


@contextmanager
def watching(client: Client) -> Iterator[Watched]:
    """Ask the incumbent all the while; each answer must be right."""
    watched, is_over = Watched(), threading.Event()

    def go_on() -> None:
        rows = images(2)
        while not is_over.wait(PAUSE_S):
            watched.asked += 1
            try:
                _, logits = ask(client, rows)
            except (*REFUSALS, OSError) as error:
                watched.lost.append(f"{type(error).__name__}: {error}")
            else:
                if np.abs(logits - logits_of(rows)).max() > TOLERANCE:
                    watched.lost.append(f"it answered {logits.tolist()}")

    thread = threading.Thread(target=go_on, name="incumbent")
    thread.start()
    try:
        yield watched
    finally:
        is_over.set()
        thread.join(PATIENCE_S)


def _next(bench: Bench, kinds: tuple[type[E], ...]) -> E:
    """Return the next event of the judged alias, which must be of one of these kinds."""
    while True:
        event = bench.next_event()
        if event.alias != ALIAS:
            assert isinstance(event, kinds), event
            return event
