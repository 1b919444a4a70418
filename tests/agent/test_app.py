"""The agent as it runs on a device: its own process, a real mosquitto, real workers.

A scripted controller signs, publishes and listens. Each test has a device of its own.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from tests.agent.agents import (
    Agent,
    Controller,
    a_controller,
    a_wide_bundle,
    agents_at,
    halves,
    until,
)
from tests.agent.benches import ask
from tests.agent.bundles import a_bundle, images, logits_of
from tests.agent.stores import chunks_of
from tests.brokers import Mosquitto, a_mosquitto
from tests.builders import a_device_id, a_key, a_wanted, an_alias, an_order
from wherry import codec
from wherry.bundle import Bundle
from wherry.messages import Event, EventKind, Receipt, SignedReceipt, Telemetry
from wherry.names import Digest
from wherry.reasons import Phase, Reason, Status
from wherry.topics import BlobTopic, BundleTopic, ReportedTopic
from wherry_agent.client import NotReachable, NotServing
from wherry_agent.outbox import Outbox
from wherry_agent.store import Store

pytestmark = pytest.mark.system

Start = Callable[..., Agent]


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


def bring(controller: Controller, agent: Agent, bundle: Bundle, *, generation: int = 1) -> None:
    """Have the agent confirm a bundle."""
    controller.publish_bundle(bundle)
    controller.order(agent.device, bundle, generation=generation)
    controller.succeeded(agent, f"d-{generation}")


def answers_as(agent: Agent, bundle: Bundle, *, shift: float = 0.0) -> bool:
    """Say whether the agent answers, as this bundle and with its numbers."""
    rows = images(3)
    with agent.client() as client, suppress(NotReachable, NotServing):
        who, logits = ask(client, rows)
        right = np.allclose(logits, logits_of(rows, shift=shift), atol=1e-4)
        return who == bundle.digest and right
    return False


@contextmanager
def traffic(agent: Agent) -> Iterator[list[Exception]]:
    """Ask the agent back to back during the block; yields what went wrong."""
    over = threading.Event()
    wrong: list[Exception] = []

    def run() -> None:
        with agent.client() as client:
            while not over.is_set():
                try:
                    ask(client, images(1))
                except (NotReachable, NotServing) as error:
                    wrong.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield wrong
    finally:
        over.set()
        thread.join()


# The way of a bundle


def test_a_bundle_is_fetched_checked_served_and_confirmed(
    controller: Controller, start: Start
) -> None:
    bundle, agent = a_bundle(version="whole", shift=2.0), start()
    bring(controller, agent, bundle)
    assert answers_as(agent, bundle, shift=2.0)
    reported = controller.reported(agent)
    assert reported.generation == 1
    assert reported.slots[an_alias()].active == bundle.digest
    assert reported.versions.keys() >= {"wherry-agent", "onnxruntime"}
    assert controller.presence(agent)[-1]
    events = until(lambda: events_until(controller, agent, "d-1"))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert {event.store_id for event in events} == {reported.store_id}
    told = [e.deployment for e in events if e.deployment]
    assert [d.phase for d in told] == [Phase.FETCHING, Phase.LOADING, Phase.PROBATION, None]
    assert told[-1].reason is Reason.CONFIRMED
    assert flips_of(controller, agent) == [bundle.digest]
    assert not controller.refusals(agent)
    signed = until(lambda: controller.reported(agent).receipts.get(an_alias()))
    receipt = codec.decode(Receipt, bytes(signed.signed))
    assert (receipt.device, receipt.bundle) == (agent.device, bundle.digest)
    assert receipt.runtime == "onnxruntime" and receipt.memory_bytes > 0
    receipts = until(lambda: receipts_of(controller, agent))
    assert receipts == [signed]


def test_what_is_asked_of_a_model_is_counted_once(controller: Controller, start: Start) -> None:
    bundle, agent = a_bundle(version="counted"), start()
    bring(controller, agent, bundle)
    with agent.client() as client:
        for _ in range(7):
            ask(client, images(2))
    windows = until(lambda: windows_of(controller, agent, requests=7))
    assert {window.bundle for window in windows} == {bundle.digest}
    assert len({window.seq for window in windows}) == len(windows)
    assert windows[-1].traffic.received_bytes > sum(map(len, chunks_of(bundle).values()))


def test_bytes_received_before_a_kill_stay_counted(controller: Controller, start: Start) -> None:
    bundle, agent = a_wide_bundle("remembered"), start()
    bring(controller, agent, bundle)
    assert answers_as(agent, bundle)
    before = until(lambda: controller.telemetry(agent))[-1]
    assert before.traffic.received_bytes > sum(map(len, chunks_of(bundle).values()))
    agent.kill()
    agent.start()
    until(lambda: answers_as(agent, bundle))
    later = until(lambda: [w for w in controller.telemetry(agent) if w.seq > before.seq])
    assert later[0].traffic.received_bytes > before.traffic.received_bytes


def events_until(controller: Controller, agent: Agent, deployment: str) -> list[Event] | None:
    """Return the agent's events once a deployment's outcome is among them.

    `reported` says the outcome first, so whoever has heard of it there may yet miss the event.
    """
    events = controller.events(agent)
    ended = {e.deployment.deployment for e in events if e.deployment and e.deployment.reason}
    return events if deployment in ended else None


def receipts_of(controller: Controller, agent: Agent) -> list[SignedReceipt]:
    return [event.receipt for event in controller.events(agent) if event.receipt]


def flips_of(controller: Controller, agent: Agent) -> list[Digest]:
    """Return the bundles that the agent says it flipped to, in order."""
    return [event.flip.bundle for event in controller.events(agent) if event.flip]


def windows_of(controller: Controller, agent: Agent, *, requests: int) -> list[Telemetry] | None:
    """Return the agent's windows once they hold so many requests."""
    windows = controller.telemetry(agent)
    return windows if sum(window.requests for window in windows) == requests else None


def test_two_aliases_are_served_and_neither_deletes_what_the_other_needs(
    controller: Controller, start: Start
) -> None:
    agent = start()
    wanted = {}
    for name in ("default", "detector"):
        bundle = a_wide_bundle(f"of-{name}", kib=4)
        controller.publish_bundle(bundle, an_alias(name))
        wanted[an_alias(name)] = a_wanted(f"d-{name}", bundle=bundle.digest, probation_s=0.5)
    order = an_order(device=agent.device, aliases=wanted)
    controller.publish_order(agent.device, order)
    for name, want in wanted.items():
        controller.succeeded(agent, want.deployment, alias=name)
        assert controller.reported(agent).slots[name].active == want.bundle
    assert len(agent.stored_chunks()) == len(set(agent.stored_chunks()))


# Refusals at the door


def test_an_order_of_another_key_or_for_another_device_is_refused_and_told_once(
    controller: Controller, start: Start
) -> None:
    bundle, agent = a_bundle(version="foreign-orders"), start()
    bring(controller, agent, bundle)
    order = controller.order(agent.device, bundle, generation=2)
    controller.publish_order(agent.device, replace(order, generation=9), key=a_key(9))
    until(lambda: len(controller.refusals(agent)) == 1)
    other = replace(order, generation=9, device=a_device_id("another"))
    for _ in range(2):
        controller.publish_order(agent.device, other)
    until(lambda: len(controller.refusals(agent)) == 2)
    controller.order(agent.device, bundle, generation=3)
    controller.succeeded(agent, "d-3")
    (first, why), (second, whom) = controller.refusals(agent)
    assert (first, second) == (Reason.UNTRUSTED_SIGNATURE, Reason.WRONG_DEVICE)
    assert "0 of the director's keys signed it" in why
    assert "it is for another" in whom


def test_an_order_of_an_older_generation_is_refused_and_told(
    controller: Controller, start: Start
) -> None:
    bundle, agent = a_bundle(version="stale-orders"), start()
    controller.publish_bundle(bundle)
    controller.order(agent.device, bundle, generation=5)
    controller.succeeded(agent, "d-5")
    for _ in range(2):
        controller.order(agent.device, a_bundle(version="older"), generation=4)
    controller.order(agent.device, bundle, generation=6)
    controller.succeeded(agent, "d-6")
    until(lambda: controller.refusals(agent))
    ((reason, why),) = controller.refusals(agent)
    assert reason is Reason.STALE_ORDER
    assert "it is generation 4 and 5 is followed" in why


def test_a_bundle_that_targets_do_not_list_is_rejected_and_nothing_of_it_is_fetched(
    controller: Controller, start: Start
) -> None:
    old, agent = a_bundle(version="trusted", shift=1.0), start()
    bring(controller, agent, old)
    unlisted = a_bundle(version="unlisted")
    stored = agent.stored_chunks()
    controller.publish(BundleTopic(unlisted.digest), unlisted.envelope)
    controller.publish_chunks(chunks_of(unlisted))
    aliases = {an_alias(): a_wanted("d-2", bundle=unlisted.digest)}
    order = an_order(device=agent.device, generation=2, aliases=aliases)
    controller.publish_order(agent.device, order)
    outcome = controller.outcome(agent, "d-2")
    assert (outcome.status, outcome.reason) == (Status.REJECTED, Reason.NOT_IN_TARGETS)
    assert agent.stored_chunks() == stored
    assert answers_as(agent, old, shift=1.0)


def test_an_order_made_for_older_metadata_is_followed_with_what_the_agent_asks_for(
    controller: Controller, start: Start
) -> None:
    bundle, agent = a_bundle(version="overtaken"), start()
    controller.publish_bundle(bundle)
    agent.kill()
    controller.order(agent.device, bundle, generation=1)
    controller.vouch(a_bundle(version="overtaking"))
    controller.publish_trust(bundle)
    agent.start()
    controller.succeeded(agent, "d-1")
    assert not controller.refusals(agent)


def test_a_root_that_comes_by_itself_is_reported_at_once(
    controller: Controller, start: Start
) -> None:
    """Else the controller goes on to send it, with everything that it believes to be missing."""
    agent = start()
    until(lambda: controller.heard(ReportedTopic(agent.device)))
    version = controller.publish_next_root()

    def reported() -> bool:
        trust = controller.reported(agent).trust
        return trust is not None and trust.root == version

    until(reported)


def test_an_altered_chunk_is_refused_wanted_and_fetched_again(
    controller: Controller, start: Start
) -> None:
    bundle, agent = a_wide_bundle("altered"), start()
    controller.publish_bundle(bundle)
    chunk, data = list(chunks_of(bundle).items())[-1]
    controller.publish(BlobTopic(chunk), b"altered" + data[7:])
    controller.order(agent.device, bundle, generation=1)
    until(lambda: chunk in controller.wants(agent))
    assert controller.refusals(agent)[0][0] is Reason.WRONG_BYTES
    controller.publish(BlobTopic(chunk), data)
    controller.succeeded(agent, "d-1")
    assert agent.stored_chunks().count(chunk) == 1


def test_what_the_broker_no_longer_retains_is_awaited_and_not_refused(
    controller: Controller, start: Start
) -> None:
    bundle, agent = a_wide_bundle("cleared"), start()
    chunk, data = next(iter(chunks_of(bundle).items()))
    controller.order(agent.device, bundle, generation=1)
    until(lambda: agent.log("deployment.in_progress"))
    until(lambda: controller.reported(agent).generation == 1)
    for topic, payload in ((BundleTopic(bundle.digest), bundle.envelope), (BlobTopic(chunk), data)):
        controller.publish(topic, b"")
        controller.publish(topic, payload)
        controller.publish(topic, b"")
    controller.publish_bundle(bundle)
    controller.succeeded(agent, "d-1")
    assert not controller.refusals(agent)


# Sick bundles


def test_a_bundle_that_this_device_runs_otherwise_fails_and_the_old_one_serves_on(
    controller: Controller, start: Start
) -> None:
    old, agent = a_bundle(version="faithful", shift=1.0), start()
    bring(controller, agent, old)
    unfaithful = a_bundle(version="unfaithful", golden_error=1.0)
    controller.publish_bundle(unfaithful)
    with traffic(agent) as wrong:
        controller.order(agent.device, unfaithful, generation=2)
        outcome = controller.outcome(agent, "d-2")
    assert (outcome.status, outcome.reason) == (Status.FAILED, Reason.GOLDEN_MISMATCH)
    assert answers_as(agent, old, shift=1.0)
    assert not wrong


def test_a_slow_bundle_is_reverted_by_the_device_and_no_request_is_dropped(
    controller: Controller, start: Start
) -> None:
    old, agent = a_bundle(version="quick", shift=1.0), start()
    bring(controller, agent, old)
    slow = a_bundle(version="slow", work=200)
    controller.publish_bundle(slow)
    with traffic(agent) as wrong:
        until(lambda: sum(w.requests for w in controller.telemetry(agent)) >= 150)
        controller.order(agent.device, slow, generation=2, probation_s=60.0)
        outcome = controller.outcome(agent, "d-2")
    assert (outcome.status, outcome.reason) == (Status.REVERTED, Reason.SLOW)
    assert answers_as(agent, old, shift=1.0)
    # The way back is told by `reported` first: the flip that it orders follows.
    until(lambda: flips_of(controller, agent)[2:])
    assert flips_of(controller, agent) == [old.digest, slow.digest, old.digest]
    assert not wrong


# Kills


def test_after_a_kill_in_mid_download_no_verified_chunk_is_fetched_again(
    controller: Controller, start: Start
) -> None:
    bundle, agent = a_wide_bundle("resumed"), start()
    first, second = halves(bundle)
    controller.publish(BundleTopic(bundle.digest), bundle.envelope)
    controller.publish_chunks(first)
    controller.order(agent.device, bundle, generation=1)
    until(lambda: set(agent.stored_chunks()) == set(first))
    agent.kill()
    controller.publish_chunks(dict.fromkeys(first, b""))
    controller.publish_chunks(second)
    agent.start()
    controller.succeeded(agent, "d-1")
    assert sorted(agent.stored_chunks()) == sorted([*first, *second])
    assert answers_as(agent, bundle)


def test_after_a_kill_right_after_the_flip_the_new_bundle_comes_back_and_is_confirmed(
    controller: Controller, start: Start
) -> None:
    old, new, agent = a_bundle(version="before"), a_bundle(version="after", shift=4.0), start()
    bring(controller, agent, old)
    controller.publish_bundle(new)
    controller.order(agent.device, new, generation=2, probation_s=1.0)
    until(lambda: any(new.digest in line for line in agent.log("bundle.flipped")))
    agent.kill()
    agent.start()
    until(lambda: answers_as(agent, old) or answers_as(agent, new, shift=4.0))
    controller.succeeded(agent, "d-2")
    assert answers_as(agent, new, shift=4.0)
    assert controller.reported(agent).slots[an_alias()].previous == old.digest


def test_with_no_broker_the_confirmed_bundle_serves_after_a_kill(
    tmp_path: Path, start: Start, controller: Controller
) -> None:
    bundle, agent = a_bundle(version="alone", shift=3.0), start()
    bring(controller, agent, bundle)
    agent.kill()
    settings = agent.home / "agent.toml"
    settings.write_text(settings.read_text().replace("mqtt://127.0.0.1:", "mqtt://127.0.0.2:"))
    agent.start()
    until(lambda: answers_as(agent, bundle, shift=3.0))
    until(lambda: agent.log("broker.unreachable"))
    until(lambda: controller.presence(agent)[-1] is False)  # Its will.


def test_events_are_kept_until_the_controller_has_them(
    controller: Controller, start: Start
) -> None:
    bundle, agent = a_bundle(version="told"), start()
    bring(controller, agent, bundle)
    last = until(lambda: controller.events(agent) or None)[-1].seq
    agent.kill()
    agent.start()
    until(lambda: [e.seq for e in controller.events_as_they_came(agent)].count(1) >= 2)
    until(lambda: [e.seq for e in controller.events_as_they_came(agent)].count(last) >= 2)
    controller.ack(agent, last)
    controller.order(agent.device, bundle, generation=2)
    controller.succeeded(agent, "d-2")
    until(lambda: events_until(controller, agent, "d-2"))
    assert agent.stop() == 0
    store = Store(agent.home / "state")
    outbox = Outbox(store.database, keep_windows=1)
    kept = outbox.span()
    store.close()
    assert kept[0] > last
    assert kept[1] == controller.events(agent)[-1].seq


def test_an_agent_that_is_stopped_says_that_it_is_gone(
    controller: Controller, start: Start
) -> None:
    agent = start()
    until(lambda: controller.presence(agent))
    assert agent.stop() == 0
    until(lambda: controller.presence(agent)[-1] is False)
    assert not agent.socket.exists()


# The link


def test_a_broker_that_was_away_is_served_again_and_nothing_is_lost(tmp_path: Path) -> None:
    first, second = a_wide_bundle("first"), a_wide_bundle("second", shift=1.0)
    with a_mosquitto(tmp_path) as broker, agents_at(tmp_path, broker.port) as start:
        agent = start()
        with a_controller(broker.port) as controller:
            bring(controller, agent, first)
            head, _ = halves(second)
            controller.publish(BundleTopic(second.digest), second.envelope)
            controller.publish_chunks(head)
            controller.order(agent.device, second, generation=2)
            until(lambda: set(agent.stored_chunks()) >= set(head))
            broker.kill()
            assert answers_as(agent, first)
            until(lambda: agent.log("broker.unreachable"))
            before = controller.events(agent)
        broker.start()
        with a_controller(broker.port) as controller:
            controller.publish_bundle(second)
            controller.order(agent.device, second, generation=2)
            controller.succeeded(agent, "d-2")
            assert answers_as(agent, second, shift=1.0)
            until(lambda: len(controller.events(agent)) > len(before))
            events = controller.events(agent)
            assert [event.seq for event in events] == list(range(1, len(events) + 1))
            assert events[: len(before)] == before
            assert len(agent.stored_chunks()) == len(set(agent.stored_chunks()))
            assert not [event for event in events if event.kind is EventKind.REFUSAL]


def test_a_download_is_no_faster_than_its_limit(controller: Controller, start: Start) -> None:
    rate = 10_000.0
    bundle, agent = a_wide_bundle("slowly", kib=20), start(max_bytes_per_s=rate)
    size = sum(map(len, chunks_of(bundle).values()))
    controller.publish_bundle(bundle)
    order = controller.order(agent.device, bundle, generation=1)
    assert order.generation == 1
    controller.succeeded(agent, "d-1")
    told = {e.deployment.phase: e.at for e in controller.events(agent) if e.deployment}
    took_s = told[Phase.LOADING] - told[Phase.FETCHING]
    assert took_s >= (size - rate) / rate * 0.9


# The process


def test_the_supervisor_loads_no_tensors() -> None:
    program = (
        "import sys, wherry_agent.app\n"
        "heavy = {'numpy', 'onnxruntime', 'ai_edge_litert', 'tflite_runtime', 'torch'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
