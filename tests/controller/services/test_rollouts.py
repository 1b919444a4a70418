"""Rollouts over a real store and a broker in memory: orders, gates, kills and refusals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from tests.builders import (
    a_digest,
    a_histogram,
    a_reported,
    a_store_id,
    a_telemetry,
    a_trial,
    an_alias,
)
from tests.controller.services.brokers import MemoryBroker
from tests.controller.stores import DIGITS, a_store, add_built_version, add_devices, add_version
from tests.controller.trusts import a_fleet, a_trust, order_in
from tests.trusted import BUNDLE_KEY
from wherry.bundle import Bundle
from wherry.measures import Feedback
from wherry.messages import Deployment, Order, Slots
from wherry.names import (
    DeviceId,
    Digest,
    GroupName,
    RolloutName,
    VersionName,
    parse_device_id,
    parse_group_name,
    parse_rollout_name,
    parse_version_name,
)
from wherry.reasons import Reason, Status
from wherry.topics import BundleTopic, DesiredTopic, text
from wherry_controller.core.gate import Gate, GateReason
from wherry_controller.core.rollout import NotNow, Rollout, RolloutStatus, Started, StoppedBy, step
from wherry_controller.services import fleet
from wherry_controller.services.fleet import InARollout, needed_bundles, order_trials
from wherry_controller.services.ingest import Ingest, Message
from wherry_controller.services.machines import state_of, written
from wherry_controller.services.missing import (
    Taken,
    UnknownGroup,
    UnknownRollout,
    UnknownVersion,
)
from wherry_controller.services.models import RefusedVersion
from wherry_controller.services.plan import NoVariant, StageWish, Wish
from wherry_controller.services.publisher import Pace, Publisher
from wherry_controller.services.rollouts import OverBudget, Rollouts
from wherry_controller.store import devices, models, rollouts
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.records import Group, VersionStatus

QUICK = Gate(min_labels=100, soak_s=5.0, deadline_s=300.0)
CANARY, FIELD = parse_group_name("canary"), parse_group_name("field")
PI_1, PI_2, PI_3 = (parse_device_id(name) for name in ("pi-1", "pi-2", "pi-3"))
ROLLOUT = parse_rollout_name("v1")


class Bench:
    """A controller without threads: one device `pi-1` in `canary`, two in `field`."""

    def __init__(
        self,
        folder: Path,
        *,
        budget_bytes: int = 1 << 30,
        bundle_key: Ed25519PrivateKey | None = BUNDLE_KEY,
    ) -> None:
        self.now = 1000.0
        self.store = a_store(folder)
        self.blobs = BlobFolder(folder / "blobs")
        self.budget_bytes = budget_bytes
        self.bundle_key = bundle_key
        self.seqs: dict[DeviceId, int] = {}
        with self.store.transaction() as tx:
            add_devices(tx, PI_1, PI_2, PI_3)
            devices.save_group(tx, Group(CANARY, (PI_1,)))
            devices.save_group(tx, Group(FIELD, (PI_2, PI_3)))
        self.restart()

    def restart(self) -> None:
        """Begin anew on the same database, as a controller that was killed does."""
        self.broker = MemoryBroker()
        self.publisher = Publisher(self.broker, self.blobs, Pace())
        self.trust = a_trust(self.store, bundle=self.bundle_key)
        self.fleet = a_fleet(self.store, self.publisher, self.trust)
        self.rollouts = Rollouts(
            self.store,
            self.fleet,
            self.trust,
            incumbent_span_s=3600.0,
            budget_bytes=self.budget_bytes,
        )
        self.rollouts.resume_all(self.now)
        self.fleet.publish(self.now)
        self.publisher.on_connected(self.now)
        self.answer()

    def answer(self) -> None:
        self.now = self.broker.answer(self.publisher, self.now)

    def build(self, name: str) -> Bundle:
        with self.store.transaction() as tx:
            return add_built_version(tx, self.blobs, name)

    def create(self, name: str = "v1", *, groups: Sequence[GroupName] = (CANARY, FIELD)) -> None:
        self.rollouts.create(a_wish(name, groups=groups), self.now)

    def start(self, name: str = "v1") -> None:
        self.create(name)
        self.rollouts.start(parse_rollout_name(name), self.now)
        self.answer()

    def order_for(self, device: DeviceId) -> Order | None:
        """Return the order that the broker retains for a device."""
        envelope = self.broker.retained.get(text(DesiredTopic(device)))
        if envelope is None:
            return None
        return order_in(envelope)

    def manifests(self) -> set[str]:
        """Return the digests of the bundles that the broker retains."""
        prefix = text(BundleTopic(Digest("")))
        return {t.removeprefix(prefix) for t in self.broker.retained if t.startswith(prefix)}

    def bundle_for(self, device: DeviceId) -> Digest | None:
        order = self.order_for(device)
        wanted = order.aliases.get(an_alias()) if order else None
        return wanted.bundle if wanted else None

    def follow_order(self, device: DeviceId, status: Status = Status.SUCCEEDED) -> None:
        """Have a device report that it did what its order says, or how it ended else."""
        order = self.order_for(device)
        assert order is not None
        wanted = order.aliases[an_alias()]
        with self.store.reading() as tx:
            before = fleet.serving(tx, [device], an_alias())[device]
        has_kept = status is Status.SUCCEEDED
        ended = Deployment(
            deployment=wanted.deployment,
            bundle=wanted.bundle,
            status=status,
            reason=Reason.CONFIRMED if has_kept else Reason.SLOW,
        )
        report = a_reported(
            report_seq=self.next_seq(device),
            generation=order.generation,
            slots={an_alias(): Slots(active=wanted.bundle if has_kept else before)},
            deployments={an_alias(): ended},
        )
        self.say(Message(device, report, live=True))

    def answer_requests(self, device: DeviceId, bundle: Digest, *, right: int) -> None:
        """Have a device send three windows of 500 requests with 100 labels each."""
        for _ in range(3):
            window = a_telemetry(
                self.next_seq(device),
                bundle=bundle,
                requests=500,
                compute=a_histogram(*[1.0] * 500),
                feedback=Feedback(labelled=100, right=right),
            )
            self.say(Message(device, window, live=True))

    def next_seq(self, device: DeviceId) -> int:
        self.seqs[device] = self.seqs.get(device, 0) + 1
        return self.seqs[device]

    def say(self, message: Message) -> None:
        taken = Ingest(self.store).take([message], self.now)
        self.rollouts.follow(taken.moved, self.now)
        self.answer()

    def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.rollouts.tick(self.now)
        self.answer()

    def state(self, name: str = "v1") -> Rollout:
        with self.store.reading() as tx:
            record = rollouts.get_rollout(tx, parse_rollout_name(name))
        assert record is not None
        return state_of(record)

    def release(self, name: str) -> Bundle:
        """Carry a version through both stages."""
        bundle = self.build(name)
        self.start(name)
        for stage in ((PI_1,), (PI_2, PI_3)):
            for device in stage:
                self.follow_order(device)
                self.answer_requests(device, bundle.digest, right=95)
            self.tick(6.0)
        assert self.state(name).status is RolloutStatus.SUCCEEDED
        return bundle


def a_wish(name: str, *, groups: Sequence[GroupName] = (CANARY, FIELD)) -> Wish:
    return Wish(
        name=parse_rollout_name(name),
        model=DIGITS,
        version=parse_version_name(name),
        alias=an_alias(),
        stages=tuple(StageWish(name=group, group=group) for group in groups),
        gate=QUICK,
    )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_rollout_goes_stage_by_stage_to_every_device(bench: Bench) -> None:
    bundle = bench.build("v1")
    bench.start()
    assert (bench.bundle_for(PI_1), bench.bundle_for(PI_2)) == (bundle.digest, None)
    bench.follow_order(PI_1)
    bench.tick(6.0)
    assert (bench.bundle_for(PI_2), bench.bundle_for(PI_3)) == (bundle.digest,) * 2
    bench.follow_order(PI_2)
    bench.follow_order(PI_3)
    bench.tick(6.0)
    assert bench.state().status is RolloutStatus.SUCCEEDED


def test_nothing_is_ordered_before_a_rollout_is_started(bench: Bench) -> None:
    bench.build("v1")
    bench.create()
    bench.tick()
    assert bench.order_for(PI_1) is None


def test_a_version_that_live_labels_show_sick_is_ordered_back(bench: Bench) -> None:
    good = bench.release("v1")
    sick = bench.build("v2")
    bench.start("v2")
    bench.follow_order(PI_1)
    bench.answer_requests(PI_1, sick.digest, right=2)
    bench.tick(6.0)
    state = bench.state("v2")
    assert (state.status, state.stopped_by) == (RolloutStatus.REVERTING, StoppedBy.GATE)
    assert state.records[0].verdict is not None
    assert state.records[0].verdict.reason is GateReason.ACCURACY_DROP
    assert bench.bundle_for(PI_1) == good.digest
    bench.follow_order(PI_1)
    bench.tick()
    assert bench.state("v2").status is RolloutStatus.REVERTED
    assert bench.bundle_for(PI_2) == good.digest


def test_a_device_that_reverts_by_itself_stops_the_rollout(bench: Bench) -> None:
    good = bench.release("v1")
    bench.build("v2")
    bench.start("v2")
    bench.follow_order(PI_1, Status.REVERTED)
    bench.tick()
    assert bench.state("v2").stopped_by is StoppedBy.DEVICE
    assert bench.bundle_for(PI_1) == good.digest


def test_a_gate_waits_for_labels_on_both_sides(bench: Bench) -> None:
    bench.release("v1")
    bench.build("v2")
    bench.start("v2")
    bench.follow_order(PI_1)
    bench.tick(6.0)
    verdict = bench.state("v2").records[0].verdict
    assert verdict is not None
    assert verdict.reason is GateReason.TOO_FEW_LABELS


def test_a_paused_rollout_is_not_promoted_and_a_resumed_one_is(bench: Bench) -> None:
    bench.build("v1")
    bench.start()
    bench.rollouts.pause(ROLLOUT, bench.now)
    bench.follow_order(PI_1)
    bench.tick(6.0)
    assert bench.order_for(PI_2) is None
    bench.rollouts.resume(ROLLOUT, bench.now)
    bench.tick()
    assert bench.order_for(PI_2) is not None


def test_a_canceled_rollout_withdraws_what_is_under_way(bench: Bench) -> None:
    bench.build("v1")
    bench.start()
    bench.rollouts.cancel(ROLLOUT, bench.now)
    bench.answer()
    order = bench.order_for(PI_1)
    assert order is not None
    assert (order.aliases, order.generation) == ({}, 2)
    with pytest.raises(NotNow):
        bench.rollouts.resume(ROLLOUT, bench.now)


def test_a_rollout_that_succeeded_can_be_ordered_back(bench: Bench) -> None:
    first = bench.release("v1")
    bench.release("v2")
    bench.rollouts.revert(parse_rollout_name("v2"), bench.now)
    bench.answer()
    for device in (PI_1, PI_2, PI_3):
        assert bench.bundle_for(device) == first.digest
        bench.follow_order(device)
    assert bench.state("v2").status is RolloutStatus.REVERTED


def test_the_bundle_of_the_way_back_stays_on_the_broker_until_the_end(bench: Bench) -> None:
    with bench.store.transaction() as tx:
        devices.save_group(tx, Group(CANARY, (PI_1, PI_2, PI_3)))
    first, second = bench.build("v1"), bench.build("v2")
    for name in ("v1", "v2"):
        bench.rollouts.create(a_wish(name, groups=(CANARY,)), bench.now)
        bench.rollouts.start(parse_rollout_name(name), bench.now)
        bench.answer()
        if name == "v1":
            for device in (PI_1, PI_2, PI_3):
                bench.follow_order(device)
            bench.tick(6.0)
    assert bench.manifests() == {first.digest, second.digest}
    bench.rollouts.revert(parse_rollout_name("v2"), bench.now)
    bench.answer()
    for device in (PI_1, PI_2, PI_3):
        bench.follow_order(device)
    assert bench.state("v2").status is RolloutStatus.REVERTED
    assert bench.manifests() == {first.digest}


def test_a_kill_between_a_step_and_its_effects_changes_nothing(bench: Bench) -> None:
    bundle = bench.build("v1")
    bench.create()
    with bench.store.transaction() as tx:
        record = rollouts.get_rollout(tx, ROLLOUT)
        assert record is not None
        state, effects = step(state_of(record), Started(bench.now, {}))
        rollouts.save_rollout(tx, written(record, state, effects, now=bench.now))
    bench.restart()
    assert bench.bundle_for(PI_1) == bundle.digest
    bench.restart()
    order = bench.order_for(PI_1)
    assert order is not None
    assert order.generation == 1
    bench.follow_order(PI_1)
    bench.tick(6.0)
    assert bench.bundle_for(PI_2) == bundle.digest


def test_a_restart_orders_nothing_again_that_was_ordered_before(bench: Bench) -> None:
    bench.release("v1")
    second = bench.release("v2")
    bench.restart()
    assert [bench.bundle_for(device) for device in (PI_1, PI_2, PI_3)] == [second.digest] * 3


def test_what_a_device_said_before_a_kill_is_heard_after_it(bench: Bench) -> None:
    bundle = bench.build("v1")
    bench.start()
    report = Deployment(
        deployment=bench.state().journeys[PI_1].deployment,
        bundle=bundle.digest,
        status=Status.SUCCEEDED,
        reason=Reason.CONFIRMED,
    )
    said = a_reported(store_id=a_store_id(), deployments={an_alias(): report})
    Ingest(bench.store).take([Message(PI_1, said, live=True)], bench.now)
    bench.restart()
    assert bench.state().journeys[PI_1].status is Status.SUCCEEDED


def test_a_device_that_serves_what_nobody_here_knows_holds_nothing_up(bench: Bench) -> None:
    strange = a_reported(slots={an_alias(): Slots(active=a_digest("strange"))}, deployments={})
    bench.say(Message(PI_1, strange, live=True))
    bundle = bench.build("v1")
    bench.start()
    assert bench.bundle_for(PI_1) == bundle.digest
    assert bench.state().journeys[PI_1].before is None
    bench.rollouts.revert(ROLLOUT, bench.now)
    bench.answer()
    assert bench.bundle_for(PI_1) is None


def test_a_second_rollout_on_a_device_of_an_open_one_is_refused(bench: Bench) -> None:
    bench.build("v1")
    bench.build("v2")
    bench.start("v1")
    with pytest.raises(InARollout, match=r"'pi-1' is in the open rollout 'v1': wait"):
        bench.create("v2", groups=(CANARY,))
    with pytest.raises(InARollout):
        bench.fleet.remove_device(PI_1, now=bench.now)


def test_a_rollout_is_started_once(bench: Bench) -> None:
    bench.build("v1")
    bench.start()
    with pytest.raises(NotNow):
        bench.rollouts.start(ROLLOUT, bench.now)
    with pytest.raises(Taken):
        bench.create()


def test_a_version_without_a_variant_for_a_device_is_refused_by_name(bench: Bench) -> None:
    with bench.store.transaction() as tx:
        add_version(tx, "v1")
    with pytest.raises(NoVariant, match=r"digits:v1 has no variant for .*: build it"):
        bench.create()


def test_a_version_that_a_build_refused_is_not_rolled_out(bench: Bench) -> None:
    bench.build("v1")
    with bench.store.transaction() as tx:
        version = models.get_version(tx, DIGITS, VersionName("v1"))
        assert version is not None
        refused = replace(version, status=VersionStatus.REFUSED, reason="below_floor")
        models.save_version(tx, refused)
    with pytest.raises(RefusedVersion, match="below_floor"):
        bench.create()


def test_more_than_the_broker_may_retain_is_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path, budget_bytes=100)
    bench.build("v1")
    with pytest.raises(OverBudget, match="budget_bytes"):
        bench.create()


def test_trials_give_way_to_a_rollout_that_needs_the_broker(bench: Bench) -> None:
    bundle, other = bench.build("v1"), bench.build("v2")
    with bench.store.transaction() as tx:
        order_trials(tx, PI_3, [a_trial("build:1", bundle=other.digest)])
        bench.budget_bytes = bench.fleet.shelved(tx, bundle.digest).size_bytes
    bench.restart()
    bench.create()
    with bench.store.reading() as tx:
        assert needed_bundles(tx) == frozenset()


def test_names_that_nothing_has_are_refused(bench: Bench) -> None:
    with pytest.raises(UnknownVersion):
        bench.create("v9")
    bench.build("v1")
    with pytest.raises(UnknownGroup):
        bench.create(groups=(parse_group_name("nobody"),))
    with pytest.raises(UnknownRollout):
        bench.rollouts.start(RolloutName("nothing"), bench.now)
