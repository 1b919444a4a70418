"""Trials as a device runs them: a process of its own, a real mosquitto, real workers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.agent.agents import Agent, Controller, a_controller, agents_at, until
from tests.agent.benches import ask
from tests.agent.bundles import a_bundle, for_measuring, images
from tests.brokers import Mosquitto, a_mosquitto
from tests.builders import a_trial, a_wanted, an_alias, an_order
from wherry.bundle import Bundle
from wherry.messages import EventKind, Trial, TrialResult, Wanted
from wherry.names import AliasName
from wherry.reasons import Reason, Status
from wherry_agent.client import NotReachable, NotServing

pytestmark = pytest.mark.system

Start = Callable[..., Agent]
DEFAULT = an_alias()
SERVING = a_bundle(version="serving", shift=1.0)
CANDIDATE = for_measuring(a_bundle(version="candidate", shift=2.0))
SLOW = for_measuring(a_bundle(version="slow", work=60))


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with a_mosquitto(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture
def controller(broker: Mosquitto) -> Iterator[Controller]:
    with a_controller(broker.port) as controller:
        yield controller


@pytest.fixture
def start(tmp_path: Path, broker: Mosquitto) -> Iterator[Start]:
    with agents_at(tmp_path, broker.port) as start:
        yield start


@pytest.fixture
def agent(start: Start, controller: Controller) -> Agent:
    """Return an agent that serves a bundle it has confirmed."""
    agent = start()
    controller.publish_bundle(SERVING)
    order(controller, agent, 1)
    controller.succeeded(agent, "serving")
    return agent


def order(
    controller: Controller,
    agent: Agent,
    generation: int,
    *trials: Trial,
    wanted: dict[AliasName, Wanted] | None = None,
) -> None:
    serving = {DEFAULT: a_wanted("serving", bundle=SERVING.digest, probation_s=0.1)}
    controller.publish_order(
        agent.device,
        an_order(
            device=agent.device,
            generation=generation,
            aliases=serving if wanted is None else wanted,
            trials=trials,
        ),
    )


def a_trial_of(bundle: Bundle, name: str = "build:1", *, runs: int = 20) -> Trial:
    return replace(a_trial(name, bundle=bundle.digest, runs=runs), memory_bytes=300 << 20)


def results(controller: Controller, agent: Agent) -> list[TrialResult]:
    return [event.trial for event in controller.events(agent) if event.trial is not None]


def result(controller: Controller, agent: Agent) -> TrialResult:
    return until(lambda: results(controller, agent))[-1]


def test_a_candidate_is_measured_while_every_request_is_answered_by_what_serves(
    controller: Controller, agent: Agent
) -> None:
    asked, failed, is_over = [0], list[str](), threading.Event()

    def application() -> None:
        with agent.client() as client:
            while not is_over.is_set():
                try:
                    who, _ = ask(client, images(1))
                    assert who == SERVING.digest
                    asked[0] += 1
                except (AssertionError, NotReachable, NotServing) as error:
                    failed.append(str(error))

    thread = threading.Thread(target=application)
    thread.start()
    controller.publish_bundle(CANDIDATE)
    order(controller, agent, 2, a_trial_of(CANDIDATE, runs=200))
    found = result(controller, agent)
    is_over.set()
    thread.join()
    assert (failed, asked[0] > 20) == ([], True)
    assert (found.faithful, found.reason, found.bundle) == (True, None, CANDIDATE.digest)
    figures = found.figures
    assert figures is not None
    assert figures.runs == 200
    assert 0 < figures.p50_ms <= figures.p99_ms
    assert figures.load_ms > 0
    assert figures.memory_bytes > figures.base_bytes > 10 << 20
    (event,) = (one for one in controller.events(agent) if one.kind is EventKind.TRIAL)
    assert event.trial == found
    manifests = {path.name for path in (agent.home / "state/manifests").iterdir()}
    assert manifests == {SERVING.digest}
    assert controller.reported(agent).slots[DEFAULT].active == SERVING.digest


def test_an_answered_trial_is_not_run_again_after_a_kill(
    controller: Controller, agent: Agent
) -> None:
    controller.publish_bundle(CANDIDATE)
    order(controller, agent, 2, a_trial_of(CANDIDATE))
    first = result(controller, agent)
    agent.kill()
    agent.start()
    order(controller, agent, 3, a_trial_of(CANDIDATE), a_trial_of(CANDIDATE, "build:2"))
    until(lambda: len(results(controller, agent)) == 2)
    assert [one.trial for one in results(controller, agent)] == [first.trial, "build:2"]


def test_a_deployment_stops_a_trial_and_succeeds(controller: Controller, agent: Agent) -> None:
    newer = a_bundle(version="newer", shift=3.0)
    for bundle in (SLOW, newer):
        controller.publish_bundle(bundle)
    endless = a_trial_of(SLOW, runs=100_000)
    order(controller, agent, 2, endless)
    worker = until(lambda: worker_of(agent))
    assert until(lambda: os.getpriority(os.PRIO_PROCESS, worker)) == endless.niceness
    wanted = {DEFAULT: a_wanted("newer", bundle=newer.digest, probation_s=0.1)}
    order(controller, agent, 3, endless, wanted=wanted)
    controller.succeeded(agent, "newer")
    found = result(controller, agent)
    assert (found.reason, found.figures) == (Reason.BUSY, None)
    assert worker_of(agent) is None


def test_a_worker_that_dies_ends_its_trial_and_not_the_agent(
    controller: Controller, agent: Agent
) -> None:
    controller.publish_bundle(SLOW)
    order(controller, agent, 2, a_trial_of(SLOW, runs=100_000))
    os.kill(until(lambda: worker_of(agent)), signal.SIGKILL)
    found = result(controller, agent)
    assert (found.reason, found.detail) == (Reason.WORKER_DIED, "its worker ended with status -9")
    with agent.client() as client:
        assert ask(client, images(1))[0] == SERVING.digest


def test_what_is_for_measuring_is_not_served_and_what_is_to_serve_not_measured(
    controller: Controller, agent: Agent
) -> None:
    controller.publish_bundle(CANDIDATE)
    wanted = {DEFAULT: a_wanted("candidate", bundle=CANDIDATE.digest)}
    order(controller, agent, 2, wanted=wanted)
    outcome = controller.outcome(agent, "candidate")
    assert (outcome.status, outcome.reason) == (Status.REJECTED, Reason.ONLY_FOR_MEASURING)
    other = a_bundle(version="other", shift=4.0)
    controller.publish_bundle(other)
    order(controller, agent, 3, a_trial_of(other))
    assert result(controller, agent).reason is Reason.NOT_FOR_MEASURING
    assert controller.reported(agent).slots[DEFAULT].active == SERVING.digest


def test_trials_that_go_wrong_are_answered_with_the_reason(
    controller: Controller, agent: Agent
) -> None:
    unfaithful = for_measuring(a_bundle(version="unfaithful", golden_error=0.5))
    for bundle in (unfaithful, CANDIDATE):
        controller.publish_bundle(bundle)
    order(
        controller,
        agent,
        2,
        a_trial_of(unfaithful, "build:unfaithful"),
        replace(a_trial_of(CANDIDATE, "build:greedy"), memory_bytes=10 << 20),
        replace(a_trial_of(CANDIDATE, "build:huge"), memory_bytes=1 << 50),
        replace(a_trial_of(CANDIDATE, "build:late"), deadline_s=0.0),
    )
    until(lambda: len(results(controller, agent)) == 4)
    told = [(one.trial, one.reason, one.faithful) for one in results(controller, agent)]
    assert told == [
        ("build:unfaithful", Reason.GOLDEN_MISMATCH, False),
        ("build:greedy", Reason.OVER_BUDGET, None),
        ("build:huge", Reason.OVER_BUDGET, None),
        ("build:late", Reason.DEADLINE, None),
    ]


def worker_of(agent: Agent) -> int | None:
    """Return the process that runs the agent's trial, if there is one."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"--trial" in words and str(agent.home).encode() in b" ".join(words):
            return int(folder.name)
    return None
