"""What is seen of a rollout over a bad link: at the devices all the while, at both ends afterwards.

A device is asked over its local API, which no link reaches. Its events are compared with those in
the controller's database: by number, so that a gap is seen, and by what they say.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.agent.bundles import logits_of
from tests.machines.badnet_fleet import wait_until
from tests.system.sites import Site, ask, logged
from tests.system.tiny import IMAGE, REQUEST
from wherry import codec
from wherry.bundle import Bundle
from wherry.messages import Event, EventKind
from wherry.reasons import Reason, Status
from wherry_agent.client import NotReachable, NotServing, RequestRefused
from wherry_agent.database import FILE
from wherry_sim.demo.processes import Agent

ASK_EVERY_S = 2.0
TOLD_WITHIN_S = 120.0
BAD_ENDS = frozenset(
    {
        Status.REJECTED,
        Status.FAILED,
        Status.REVERTED,
        Status.TIMED_OUT,
    }
)


@dataclass(slots=True)
class Watch:
    """How often each device answered since it was looked at, and what was wrong with an answer."""

    agents: Sequence[Agent]
    shifts: Mapping[str, float]
    answers: int = 0
    wrong: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        """Ask every device once."""
        for agent in self.agents:
            if problem := self._wrong(agent):
                self.wrong.append(f"{agent.id}: {problem}")
            self.answers += 1

    def look_on(self) -> None:
        """Look until the end; a look that breaks off the watch is wrong too, and is told."""
        try:
            while not self._over.wait(ASK_EVERY_S):
                self.look()
        except Exception as error:  # noqa: BLE001 - it is reported, by `problems_of`.
            self.wrong.append(f"nobody looked on: {error!r}")

    def end(self) -> None:
        self._over.set()

    def _wrong(self, agent: Agent) -> str | None:
        """Return what is wrong with a device's answer, if anything is."""
        try:
            with ask(agent) as client:
                answer = client.infer("default", REQUEST)
        except (NotReachable, NotServing, RequestRefused) as error:
            return f"no answer ({error})"
        if answer.version not in self.shifts:
            return f"answers with the bundle {answer.version}, which nobody ordered"
        right = logits_of(IMAGE, shift=self.shifts[answer.version]).ravel()
        if not np.allclose(answer.values("logits"), right, rtol=0, atol=1e-3):
            return f"answers with other numbers than the bundle {answer.version[:12]}"
        return None


@contextmanager
def watching(agents: Sequence[Agent], shifts: Mapping[str, float]) -> Iterator[Watch]:
    """Ask every device again and again for the length of the block."""
    watch = Watch(agents, shifts)
    thread = threading.Thread(target=watch.look_on, name="watch")
    thread.start()
    try:
        yield watch
    finally:
        watch.end()
        thread.join()


def problems_of(site: Site, agents: Sequence[Agent], wanted: Bundle, watch: Watch) -> list[str]:
    """Return what is not as it must be after the rollout of a bundle."""
    watch.look()
    ended = site.rollout(wanted.manifest.version)
    found: list[str] = []
    if ended.status == "succeeded":
        wait_until(lambda: _is_settled(site, agents, wanted), TOLD_WITHIN_S)
    else:
        found.append(f"the rollout is {ended.status.value} {ended.why}".strip())
    found += watch.wrong
    for agent in agents:
        found += [f"{agent.id}: {problem}" for problem in _problems(site, agent, wanted)]
    if not told_of(site, agents)[EventKind.REFUSAL]:
        found.append("no device refused the rotten chunk: either none met it, or one took it")
    return found


def _is_settled(site: Site, agents: Sequence[Agent], wanted: Bundle) -> bool:
    """Say whether everything that was told has crossed the link."""
    return all(
        site.serving(agent) == wanted.digest and _has_told_all(site, agent) for agent in agents
    )


def _problems(site: Site, agent: Agent, wanted: Bundle) -> Iterator[str]:
    flips = [line.fields["bundle"] for line in logged(agent, "bundle.flipped")]
    if flips[-1:] != [wanted.digest] or len(flips) != 2:
        yield f"has switched to {[one[:12] for one in flips]}, and not to v1 and then v2"
    if (serving := site.serving(agent)) != wanted.digest:
        yield f"serves {(serving or 'nothing')[:12]} as the controller knows it, and not v2"
    if not _has_told_all(site, agent):
        yield f"its events are {_given(agent)}, of which the controller has {_arrived(site, agent)}"
    for event in _events(site, agent):
        deployment = event.deployment
        if deployment and deployment.status in BAD_ENDS:
            yield f"told {deployment.status.value}: {_words(deployment.reason, deployment.detail)}"
        if event.kind is EventKind.REFUSAL and event.reason is not Reason.WRONG_BYTES:
            yield f"refused what nobody spoilt: {_words(event.reason, event.detail)}"


def _words(reason: Reason | None, detail: str) -> str:
    return f"{reason.value if reason else 'no reason'} ({detail})"


def told_of(site: Site, agents: Sequence[Agent]) -> Counter[EventKind]:
    """Count the events that the controller has, by kind."""
    return Counter(event.kind for agent in agents for event in _events(site, agent))


def lost_connections(agents: Sequence[Agent]) -> int:
    return sum(len(logged(agent, "broker.lost")) for agent in agents)


def _has_told_all(site: Site, agent: Agent) -> bool:
    waiting = _ask_agent(agent, "SELECT count(*) FROM event")
    return not waiting and _arrived(site, agent) == list(range(1, _given(agent) + 1))


def _given(agent: Agent) -> int:
    """Return the last number that a device gave to an event."""
    return _ask_agent(agent, "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name='event'")


def _ask_agent(agent: Agent, statement: str) -> int:
    with closing(_read_only(agent.home / "state" / FILE)) as database:
        (number,) = database.execute(statement).fetchone()
    return int(number)


def _arrived(site: Site, agent: Agent) -> list[int]:
    return [event.seq for event in _events(site, agent)]


def _events(site: Site, agent: Agent) -> list[Event]:
    statement = "SELECT body FROM event WHERE device = ? ORDER BY seq"
    with closing(_read_only(site.controller.folder / "wherry.db")) as database:
        bodies = database.execute(statement, (agent.id,)).fetchall()
    return [codec.decode(Event, str(body).encode()) for (body,) in bodies]


def _read_only(place: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{place.as_uri()}?mode=ro", uri=True)
