"""`kill -9` of an agent and of its broker, at random instants of fetch and install.

    order a new bundle -> kill one of the two at a random instant -> start it again -> look
                ^------ after MOST_KILLS the deployment is let go on, to its end ------'

Agents are `wherry-agent run` on homes of their own, the broker is mosquitto, which loses all that
it retained. After each kill and at each end the disk is read and the agent is asked; wrong is

* a file among chunks or blobs whose bytes are not those that its name says;
* an answer that neither the bundle before nor the ordered one gives;
* a chunk that came again though it was stored;
* a deployment that does not end as it would have without kills.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.agent.agents import Agent, Controller, a_controller, a_wide_bundle
from tests.agent.benches import ask
from tests.agent.bundles import images, logits_of
from tests.brokers import Mosquitto, a_mosquitto
from wherry import codec
from wherry.bundle import Bundle
from wherry.files import TEMPORARY
from wherry.messages import Reported
from wherry.reasons import Status
from wherry.topics import ReportedTopic
from wherry_agent.client import NotReachable, NotServing, RequestRefused
from wherry_agent.core.install import MAX_RESTARTS

RUNS = 500
LANES = 4  # Agents beside each other, each with a broker of its own.
MOST_KILLS = MAX_RESTARTS - 1  # Of one deployment: more would end it, as they should.
BROKERS_SHARE = 0.2
BYTES_PER_S = 12_000.0  # A fetch takes about a second, so that kills find it.
JOURNEY_S = 3.0
PATIENCE_S = 90.0


@dataclass(frozen=True, slots=True)
class Kills:
    runs: int
    bad: int
    deployments: int
    of_brokers: int
    problems: tuple[str, ...]


@dataclass
class Lane:
    """One agent and its broker; `run` kills so many times, and notes what was wrong."""

    folder: Path
    seed: int
    kills: int
    problems: list[str] = field(default_factory=list)
    deployments: int = 0
    of_brokers: int = 0
    killed: int = 0

    def run(self) -> None:
        self.chance = random.Random(self.seed)
        self.folder.mkdir()
        with a_mosquitto(self.folder) as self.broker:
            self.agent = Agent(self.folder, self.broker.port, max_bytes_per_s=BYTES_PER_S)
            self.agent.start()
            try:
                before: tuple[Bundle, float] | None = None
                while self.killed < self.kills:
                    self.deployments += 1
                    before = self._deploy(self.deployments, before)
            finally:
                self.agent.kill()

    def _deploy(self, number: int, before: tuple[Bundle, float] | None) -> tuple[Bundle, float]:
        shift = float(number)  # Golden outputs of its own: no chunk is of two bundles.
        bundle = a_wide_bundle(f"lane-{self.seed}-{number}", shift=shift)
        allowed = [each for each in (before, (bundle, shift)) if each is not None]
        with _speaking(self.broker) as speaking:
            speaking.say(self.agent, bundle, number)
            for _ in range(min(MOST_KILLS, self.kills - self.killed)):
                time.sleep(self.chance.uniform(0.0, JOURNEY_S))
                if self.chance.random() < BROKERS_SHARE:
                    self.of_brokers += 1
                    speaking.kill_broker()
                    speaking.say(self.agent, bundle, number)
                else:
                    self.agent.kill()
                    self._look(allowed, f"dead in {number}")
                    self._wake()
                self.killed += 1
            self._end(speaking.controller, number)
        self._look([(bundle, shift)], f"after {number}", must_answer=True)
        return bundle, shift

    def _wake(self) -> None:
        """Start the agent, so that the next kill finds it at work and not on its way up."""
        before = len(self.agent.log("agent.woke"))
        self.agent.start()
        deadline = time.monotonic() + PATIENCE_S
        while len(self.agent.log("agent.woke")) == before:
            assert time.monotonic() < deadline, "the agent never woke"
            time.sleep(0.02)

    def _end(self, controller: Controller, number: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            said = controller.heard(ReportedTopic(self.agent.device))
            reported = codec.decode(Reported, said[-1]) if said else None
            found = next(iter(reported.deployments.values()), None) if reported else None
            if found and found.deployment == f"d-{number}" and found.status.is_final:
                if found.status is not Status.SUCCEEDED:
                    self.problems.append(f"{number}: it ended as {found}")
                return
            time.sleep(0.05)
        self.problems.append(f"{number}: it never ended")

    def _look(
        self, allowed: list[tuple[Bundle, float]], when: str, *, must_answer: bool = False
    ) -> None:
        """Read the disk, and ask the agent."""
        state = self.agent.home / "state"
        for place in (*(state / "chunks").glob("*"), *(state / "blobs").glob("*")):
            with suppress(FileNotFoundError):  # It was kept no longer.
                right = hashlib.sha256(place.read_bytes()).hexdigest() == place.name
                if not right and not place.name.startswith(TEMPORARY):
                    self.problems.append(f"{when}: {place} is not what its name says")
        again = [c for c, n in Counter(self.agent.stored_chunks()).items() if n > 1]
        if again:
            self.problems.append(f"{when}: {len(again)} chunks were stored twice")
        answers = self._answers(allowed, within_s=PATIENCE_S if must_answer else 0.0)
        if answers is False or (must_answer and answers is None):
            self.problems.append(f"{when}: it answers {answers}")

    def _answers(self, allowed: list[tuple[Bundle, float]], *, within_s: float) -> bool | None:
        """Say whether one of the allowed bundles answers rightly; None: nobody answers."""
        deadline = time.monotonic() + within_s
        rows = images(2)
        while True:
            with suppress(NotReachable, NotServing, RequestRefused), self.agent.client() as client:
                who, logits = ask(client, rows)
                shifts = {bundle.digest: shift for bundle, shift in allowed}
                return who in shifts and bool(
                    np.allclose(logits, logits_of(rows, shift=shifts[who]), atol=1e-4)
                )
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.05)


class Speaking:
    """A scripted controller that comes back when the broker was killed."""

    def __init__(self, broker: Mosquitto, stack: ExitStack) -> None:
        self._broker, self._stack = broker, stack
        self.controller = stack.enter_context(a_controller(broker.port))

    def say(self, agent: Agent, bundle: Bundle, number: int) -> None:
        self.controller.publish_bundle(bundle)
        self.controller.publish_trust(bundle)
        self.controller.order(agent.device, bundle, generation=number)

    def kill_broker(self) -> None:
        self._broker.kill()
        self._broker.start()
        self.controller = self._stack.enter_context(a_controller(self._broker.port))


@contextmanager
def _speaking(broker: Mosquitto) -> Iterator[Speaking]:
    with ExitStack() as stack:
        yield Speaking(broker, stack)


def kills(folder: Path, *, runs: int = RUNS, lanes: int = LANES) -> Kills:
    """Kill so many times in all, in some lanes beside each other."""
    shares = [runs // lanes + (lane < runs % lanes) for lane in range(lanes)]
    all_lanes = [Lane(folder / f"lane-{seed}", seed, share) for seed, share in enumerate(shares)]
    threads = [threading.Thread(target=lane.run) for lane in all_lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    problems = tuple(problem for lane in all_lanes for problem in lane.problems)
    return Kills(
        runs=sum(lane.killed for lane in all_lanes),
        bad=len(problems),
        deployments=sum(lane.deployments for lane in all_lanes),
        of_brokers=sum(lane.of_brokers for lane in all_lanes),
        problems=problems,
    )
