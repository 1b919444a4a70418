"""The agent on disks that take no writes: it serves on, says so, and follows again after.

Its disk is mounted in a namespace of its own, which needs no root.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.agent.agents import Agent, Controller, a_controller, until
from tests.agent.benches import ask
from tests.agent.bundles import a_bundle, images
from tests.brokers import Mosquitto, a_mosquitto
from tests.builders import an_alias
from wherry.bundle import Bundle
from wherry.messages import EventKind
from wherry.names import Digest
from wherry.reasons import Reason
from wherry_agent.client import NotReachable, NotServing

pytestmark = pytest.mark.system

Start = Callable[..., Agent]

DISK = "40m"  # More than the reserve that is never taken.


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with a_mosquitto(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture
def controller(broker: Mosquitto) -> Iterator[Controller]:
    with a_controller(broker.port) as controller:
        yield controller


@pytest.fixture
def agent(tmp_path: Path, broker: Mosquitto) -> Iterator[Agent]:
    """Give an agent that does not run yet, whose socket lies outside of its home."""
    (tmp_path / "run").mkdir()
    agent = Agent(tmp_path, broker.port, socket=str(tmp_path / "run" / "api.sock"))
    try:
        yield agent
    finally:
        agent.kill()


def bring(controller: Controller, agent: Agent, *, generation: int) -> Bundle:
    """Have the agent confirm a bundle, and return it."""
    bundle = a_bundle(version=f"of-{generation}", shift=float(generation))
    controller.publish_bundle(bundle)
    controller.order(agent.device, bundle, generation=generation)
    controller.succeeded(agent, f"d-{generation}")
    return bundle


def who_answers(agent: Agent) -> Digest | None:
    with agent.client() as client, suppress(NotReachable, NotServing):
        return ask(client, images(1))[0]
    return None


@contextmanager
def traffic(agent: Agent) -> Iterator[list[Digest | None]]:
    """Ask the agent back to back during the block; yields who answered, None for nobody."""
    over = threading.Event()
    answered: list[Digest | None] = []

    def run() -> None:
        while not over.is_set():
            answered.append(who_answers(agent))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield answered
    finally:
        over.set()
        thread.join()


def fill(file: Path) -> None:
    """Write a file until its disk is full."""
    with suppress(OSError), file.open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))


def is_degraded(controller: Controller, agent: Agent, reason: Reason) -> bool:
    return reason in controller.reported(agent).degraded


def test_while_its_disk_is_full_the_agent_serves_on_and_then_follows_again(
    controller: Controller, agent: Agent
) -> None:
    state = agent.home / "state"
    agent.start(mounting=f"mount -t tmpfs -o size={DISK} tmpfs {state}")
    old = bring(controller, agent, generation=1)
    new = a_bundle(version="waiting", shift=2.0)
    controller.publish_bundle(new)
    filler = Path(f"/proc/{agent.pid}/root{state}/filler")
    with traffic(agent) as answered:
        fill(filler)
        until(lambda: is_degraded(controller, agent, Reason.DISK_FULL))
        count = len(answered)
        until(lambda: len(answered) > count + 20)
        filler.unlink()
        controller.order(agent.device, new, generation=2)
        controller.succeeded(agent, "d-2")
    assert set(answered) == {old.digest, new.digest}
    until(lambda: not controller.reported(agent).degraded)
    events = controller.events(agent)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert not [event for event in events if event.kind is EventKind.REFUSAL]


def test_an_agent_that_comes_up_on_a_full_disk_serves_what_it_confirmed_and_says_so(
    controller: Controller, agent: Agent, tmp_path: Path
) -> None:
    agent.start()
    bundle = bring(controller, agent, generation=1)
    before = controller.reported(agent)
    assert agent.stop() == 0
    state, kept = agent.home / "state", tmp_path / "kept"
    agent.start(
        mounting=f"cp -a {state} {kept} && mount -t tmpfs -o size={DISK} tmpfs {state} "
        f"&& cp -a {kept}/. {state} "
        f"&& {{ dd if=/dev/zero of={state}/filler bs=4k status=none || true; }}"
    )
    until(lambda: who_answers(agent) == bundle.digest)
    until(lambda: is_degraded(controller, agent, Reason.DISK_FULL))
    assert controller.reported(agent).store_id != before.store_id
    assert agent.log("store.volatile")


def test_an_agent_whose_home_is_read_only_serves_what_it_confirmed_and_says_so(
    controller: Controller, agent: Agent
) -> None:
    agent.start()
    bundle = bring(controller, agent, generation=1)
    before = controller.reported(agent)
    agent.kill()
    home = agent.home
    agent.start(mounting=f"mount --bind {home} {home} && mount -o remount,ro,bind {home}")
    until(lambda: who_answers(agent) == bundle.digest)
    until(lambda: is_degraded(controller, agent, Reason.DISK_READ_ONLY))
    assert controller.reported(agent).store_id != before.store_id
    assert controller.reported(agent).slots[an_alias()].active == bundle.digest
