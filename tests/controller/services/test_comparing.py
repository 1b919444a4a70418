"""Rollouts that shadow or split: what they order, and where they are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.builders import a_bundle_of, a_reported, a_signature, an_alias
from tests.controller.services.test_rollouts import (
    PI_1,
    PI_2,
    PI_3,
    QUICK,
    Bench,
    a_wish,
)
from wherry.bundle import Bundle
from wherry.messages import Shadow, Slots, Split, SwapPolicy, Wanted
from wherry.names import DeviceId, Digest, parse_rollout_name
from wherry.reasons import Reason, Status
from wherry.signature import Signature, StatePair
from wherry_controller.core.gate import GateReason
from wherry_controller.core.rollout import RolloutStatus, Started, StoppedBy, step
from wherry_controller.services.comparing import NothingCompared, OldAgents, StatesDiffer
from wherry_controller.services.fleet import device_of
from wherry_controller.services.machines import state_of, written
from wherry_controller.services.plan import Wish
from wherry_controller.store import devices, models, rollouts

SHADOW, SPLIT = Shadow(share=0.1, deadline_s=600.0), Split(share=0.2)
FLEET = (PI_1, PI_2, PI_3)


def comparing(name: str = "v2") -> Wish:
    wish = replace(a_wish(name), policy=SwapPolicy.RESOURCE)
    return replace(wish, shadow=SHADOW, split=SPLIT)


def run_release(bench: Bench, release: str, *members: DeviceId) -> None:
    """Have devices say that they run a release of the agent, and serve what they did."""
    with bench.store.transaction() as tx:
        for device in members or FLEET:
            record = device_of(tx, device)
            reported = record.reported or a_reported(slots={}, deployments={})
            said = replace(reported, versions={"wherry-agent": release})
            devices.save_device(tx, replace(record, reported=said))


def serve(bench: Bench, device: DeviceId, bundle: Digest) -> None:
    with bench.store.transaction() as tx:
        record = device_of(tx, device)
        reported = record.reported or a_reported()
        slots = {an_alias(): Slots(active=bundle)}
        said = replace(reported, slots=slots)
        devices.save_device(tx, replace(record, reported=said))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    bench.release("v1")
    bench.build("v2")
    return bench


def start(bench: Bench, wish: Wish) -> None:
    bench.rollouts.create(wish, bench.now)
    bench.rollouts.start(wish.name, bench.now)
    bench.answer()


def wanted_of(bench: Bench, device: DeviceId) -> Wanted:
    order = bench.order_for(device)
    assert order is not None
    return order.aliases[an_alias()]


def test_the_order_says_what_the_operator_wished(bench: Bench) -> None:
    run_release(bench, "0.5.0")
    start(bench, comparing())
    wanted = wanted_of(bench, PI_1)
    assert (wanted.shadow, wanted.split) == (SHADOW, SPLIT)
    assert wanted.policy is SwapPolicy.RESOURCE


def test_a_release_that_knows_no_shadowing_is_refused_by_name(bench: Bench) -> None:
    run_release(bench, "0.5.1")
    run_release(bench, "0.4.0", PI_2)
    with pytest.raises(
        OldAgents, match=r"^pi-2 \(0.4.0\) cannot shadow or split: have wherry-agent"
    ):
        bench.rollouts.create(comparing(), bench.now)
    bench.rollouts.create(a_wish("v2"), bench.now)


def test_a_device_that_never_said_its_release_is_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.build("v2")
    with pytest.raises(OldAgents, match=r"pi-1 \(unknown\), pi-2 \(unknown\), pi-3"):
        bench.rollouts.create(comparing(), bench.now)


def test_a_device_that_went_back_before_the_start_is_refused_then(bench: Bench) -> None:
    run_release(bench, "0.5.0")
    bench.rollouts.create(comparing(), bench.now)
    run_release(bench, "0.4.0", PI_3)
    with pytest.raises(OldAgents, match="pi-3"):
        bench.rollouts.start(parse_rollout_name("v2"), bench.now)


def test_an_order_that_compares_never_goes_to_a_release_that_does_not(bench: Bench) -> None:
    run_release(bench, "0.5.0")
    before = bench.bundle_for(PI_2)
    start(bench, comparing())
    bench.follow_order(PI_1)
    bench.answer_requests(PI_1, wanted_of(bench, PI_1).bundle, right=95)
    run_release(bench, "0.4.0", PI_2)
    bench.tick(6.0)
    assert wanted_of(bench, PI_3).shadow == SHADOW
    assert bench.bundle_for(PI_2) == before
    bench.tick()
    state = bench.state("v2")
    assert (state.status, state.stopped_by) == (RolloutStatus.REVERTING, StoppedBy.DEVICE)
    refused = state.journeys[PI_2]
    assert (refused.status, refused.reason) == (Status.REJECTED, Reason.UNSUITABLE_PROFILE)
    assert refused.detail.startswith("its agent is 0.4.0")


def test_an_effect_that_is_performed_again_takes_no_order_back(bench: Bench) -> None:
    run_release(bench, "0.5.0")
    bench.rollouts.create(comparing(), bench.now)
    with bench.store.transaction() as tx:
        record = rollouts.get_rollout(tx, parse_rollout_name("v2"))
        assert record is not None
        state, effects = step(state_of(record), Started(bench.now, {}))
        rollouts.save_rollout(tx, written(record, state, effects, now=bench.now))
    bench.restart()
    run_release(bench, "0.4.0")
    with bench.store.transaction() as tx:
        rollouts.save_rollout(tx, written(record, state, effects, now=bench.now))
    bench.restart()
    bench.tick()
    assert bench.state("v2").journeys[PI_1].status is Status.QUEUED
    assert wanted_of(bench, PI_1).shadow == SHADOW


def served_before(bench: Bench, signature: Signature) -> Bundle:
    """Return a bundle that the controller knows, and that every device serves."""
    bundle = a_bundle_of(b"before", signature=signature)
    with bench.store.transaction() as tx:
        models.save_bundle(tx, bundle.digest, bundle.envelope)
    for device in FLEET:
        serve(bench, device, bundle.digest)
    return bundle


def test_a_version_that_carries_other_state_is_neither_shadowed_nor_split(bench: Bench) -> None:
    run_release(bench, "0.5.0")
    served_before(bench, a_signature(states=(StatePair("scores", "image"),)))
    with pytest.raises(StatesDiffer, match=r"what pi-1, pi-2, pi-3 serve, .*: leave --shadow"):
        bench.rollouts.create(comparing(), bench.now)
    bench.rollouts.create(a_wish("v2"), bench.now)


def test_what_a_device_serves_and_nobody_here_knows_is_left_to_the_device(bench: Bench) -> None:
    run_release(bench, "0.5.0")
    serve(bench, PI_1, a_bundle_of(b"a stranger").digest)
    bench.rollouts.create(comparing(), bench.now)


def test_a_gate_asks_for_agreement_only_where_something_is_compared(bench: Bench) -> None:
    run_release(bench, "0.5.0")
    gate = replace(QUICK, min_agreement=0.9)
    with pytest.raises(NothingCompared, match="add --shadow"):
        bench.rollouts.create(replace(a_wish("v2"), gate=gate), bench.now)
    start(bench, replace(comparing(), gate=gate))
    bench.follow_order(PI_1)
    bench.answer_requests(PI_1, wanted_of(bench, PI_1).bundle, right=95)
    bench.tick(6.0)
    verdict = bench.state("v2").records[0].verdict
    assert verdict is not None
    assert verdict.reason is GateReason.TOO_FEW_COMPARED


def test_shadowing_has_its_time_before_the_stages_deadline(bench: Bench) -> None:
    run_release(bench, "0.5.0")
    start(bench, comparing())
    bench.tick(QUICK.deadline_s + 1)
    assert bench.state("v2").status is RolloutStatus.RUNNING
    bench.tick(SHADOW.deadline_s)
    assert bench.state("v2").status is RolloutStatus.REVERTING
