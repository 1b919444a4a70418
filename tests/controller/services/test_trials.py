"""Candidates on devices: ordered, answered, withdrawn; the build goes on whatever devices do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from tests.builders import (
    a_deployment_id,
    a_key,
    a_profile,
    a_reported,
    a_trial_event,
    a_trial_result,
    an_alias,
    trial_figures,
)
from tests.controller.scripted import (
    AtOnce,
    Script,
    ScriptedBuilder,
    a_bench,
    a_card,
    offers,
    refuses,
    the_files,
)
from tests.controller.services.brokers import MemoryBroker
from tests.controller.services.test_rollouts import CANARY, a_wish
from tests.controller.stores import DIGITS, a_store, add_built_version, add_devices
from tests.controller.trusts import a_fleet, a_trust, order_in, target_of
from tests.trusted import BUNDLE_KEY
from wherry import signing
from wherry.bundle import open_signed_manifest
from wherry.messages import Order, Trial, TrialResult
from wherry.names import DeviceId, Digest, parse_device_id, parse_group_name, parse_version_name
from wherry.profile import Facts
from wherry.reasons import Reason, Status
from wherry.topics import BundleTopic, DesiredTopic, text
from wherry_controller.core.build import BuildMessage, BuildRequest, Limits
from wherry_controller.core.choice import DeviceFigures
from wherry_controller.core.device import first_order
from wherry_controller.core.fault import BuildReason
from wherry_controller.services.builds import Builds, Scope, build_of
from wherry_controller.services.fleet import Fleet, needed_bundles
from wherry_controller.services.ingest import Ingest, Message
from wherry_controller.services.missing import UnknownPlace
from wherry_controller.services.models import register
from wherry_controller.services.publisher import Pace, Publisher
from wherry_controller.services.rollouts import Rollouts
from wherry_controller.services.trials import MOST_TIMES, BundleKeyApart, Trials
from wherry_controller.store import devices, models, trials
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.records import Build, BuildStatus, Device, Group, Journey, TrialRecord

LAB = parse_group_name("lab")
PI_1, PI_2 = parse_device_id("pi-1"), parse_device_id("pi-2")
V1 = parse_version_name("v1")
PROFILE = a_profile()
SILENCE_S = 60.0

Answer: TypeAlias = Callable[[DeviceId, Trial], TrialResult | None]


def measures(device: DeviceId, trial: Trial) -> TrialResult:
    """Answer as a healthy device does: `pi-2` takes twice as long as `pi-1`."""
    p50_ms = 2.0 if device == PI_2 else 1.0
    return a_trial_result(trial.trial, bundle=trial.bundle, figures=trial_figures(p50_ms))


def fails(reason: Reason, *, times: int = 1000) -> Answer:
    """Return how a device answers that fails so often before it measures."""
    left = [times]

    def answer(device: DeviceId, trial: Trial) -> TrialResult:
        left[0] -= 1
        if left[0] < 0:
            return measures(device, trial)
        faithful = False if reason is Reason.GOLDEN_MISMATCH else None
        return a_trial_result(
            trial.trial,
            bundle=trial.bundle,
            reason=reason,
            faithful=faithful,
            detail="200 MiB are free",
        )

    return answer


@dataclass
class Lab:
    """A controller without threads, and two devices in `lab` that answer while a build waits."""

    folder: Path
    budget_bytes: int = 1 << 30
    now: float = 1000.0
    answers: dict[DeviceId, Answer] = field(default_factory=dict)
    seqs: dict[DeviceId, int] = field(default_factory=dict)
    answered: set[str] = field(default_factory=set)
    on_pause: list[Callable[[], None]] = field(default_factory=list)
    is_stopping: bool = False
    is_killed: bool = False
    bundle_key: Ed25519PrivateKey | None = BUNDLE_KEY

    def __post_init__(self) -> None:
        self.store = a_store(self.folder)
        self.blobs = BlobFolder(self.folder / "blobs")
        self.broker = MemoryBroker()
        self.publisher = Publisher(self.broker, self.blobs, Pace())
        self.trust = a_trust(self.store, bundle=self.bundle_key)
        self.fleet = a_fleet(self.store, self.publisher, self.trust)
        self.ingest = Ingest(self.store)
        self.builder = ScriptedBuilder(offers("int8"))
        with self.store.transaction() as tx:
            add_devices(tx, PI_1, PI_2)
            devices.save_group(tx, Group(LAB, (PI_1, PI_2)))
        for device in (PI_1, PI_2):
            self.change(device, online=True, reported=replace(a_reported(), facts=Facts(arch="x")))
            self.answers[device] = measures
        register(self.store, self.blobs, a_card(), the_files(), now=1.0)
        self.publisher.on_connected(self.now)
        self.settle()
        self.builds = self.started()

    def started(self) -> Builds:
        builds = Builds(
            self.store,
            self.blobs,
            a_key(),
            vouch=self.trust.add_bundle,
            vouches_at_once=self.trust.vouches_at_once,
            builder=self.builder,
            executor=AtOnce(),
            bench=a_bench(self.folder),
            trials=self.trials(),
            clock=lambda: self.now,
            limits=Limits(),
        )
        builds.start()
        return builds

    def trials(self) -> Trials:
        return Trials(
            self.store,
            self.at_desk,
            budget_bytes=self.budget_bytes,
            silence_s=SILENCE_S,
            clock=lambda: self.now,
            pause=self.pause,
        )

    def at_desk(self, work: Callable[[Fleet], None]) -> None:
        if not self.is_killed:
            work(self.fleet)
            self.settle()

    def settle(self) -> None:
        self.now = self.broker.answer(self.publisher, self.now)

    def change(self, device: DeviceId, **facts: object) -> None:
        with self.store.transaction() as tx:
            record = devices.get_device(tx, device)
            assert record is not None
            devices.save_device(tx, replace(record, **facts))

    def pause(self, seconds: float) -> bool:
        """Let time pass: each device answers the trials that its order names."""
        self.now += seconds
        for act in self.on_pause:
            act()
        for device, answer in self.answers.items():
            for trial in self.order_for(device).trials:
                result = None if trial.trial in self.answered else answer(device, trial)
                if result is not None:
                    self.answered.add(trial.trial)
                    self.hear(device, result)
        return self.is_stopping

    def hear(self, device: DeviceId, result: TrialResult) -> None:
        self.seqs[device] = self.seqs.get(device, 0) + 1
        event = a_trial_event(self.seqs[device], result)
        taken = self.ingest.take([Message(device, event, live=True)], self.now)
        assert taken.acks[device].seq == self.seqs[device]

    def order_for(self, device: DeviceId) -> Order:
        envelope = self.broker.retained.get(text(DesiredTopic(device)))
        if envelope is None:
            return first_order(device)
        return order_in(envelope)

    def retained(self, bundle: Digest) -> bool:
        return text(BundleTopic(bundle)) in self.broker.retained

    def build(self, *, measure_on: str | None = "lab", script: Script | None = None) -> Build:
        self.builder.script = script or self.builder.script
        built = self.builds.order(DIGITS, V1, [PROFILE.name], measure_on=measure_on)
        with self.store.reading() as tx:
            return build_of(tx, built.id)

    def measured(self) -> dict[str, DeviceFigures]:
        """Return what the builder was told when it was run to its end."""
        return {one.recipe: one for one in self.builder.requests[-1].measured}

    def records(self, build: Build) -> list[TrialRecord]:
        with self.store.reading() as tx:
            return list(trials.trials_of_build(tx, build.id))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    lab.store.close()


def test_the_builder_is_told_what_devices_measured_and_builds_by_it(lab: Lab) -> None:
    build = lab.build()
    assert (build.status, build.detail) == (BuildStatus.SUCCEEDED, "")
    first, last = lab.builder.requests
    assert (first.offers, last.offers) == (True, False)
    assert {name: (one.devices, one.p50_ms) for name, one in lab.measured().items()} == {
        "fp32": (2, 1.5),
        "int8": (2, 1.5),
    }
    with lab.store.reading() as tx:
        assert models.list_variants(tx, DIGITS, V1)


def test_while_devices_measure_a_build_says_so_and_how_far_they_are(lab: Lab) -> None:
    seen: list[tuple[BuildStatus, str, int, int]] = []

    def look() -> None:
        with lab.store.reading() as tx:
            (found,) = models.list_builds(tx)
        step = found.progress
        seen.append((found.status, step.step, step.done, step.total))

    lab.on_pause.append(look)
    lab.build()
    assert seen == [(BuildStatus.MEASURING, "measuring", 0, 4)]


def test_bundles_for_measuring_are_signed_kept_and_retained_while_they_are_wanted(
    lab: Lab,
) -> None:
    wanted: list[bool] = []

    def look() -> None:
        named = {trial.bundle for trial in lab.order_for(PI_1).trials}
        targets = [target_of(lab.store, lab.trust, bundle) for bundle in named]
        assert [target and target.measuring for target in targets] == [True, True]
        wanted.extend(lab.retained(bundle) for bundle in named)

    lab.on_pause.append(look)
    build = lab.build()
    assert wanted == [True, True]
    for record in lab.records(build):
        assert not lab.retained(record.bundle)
        with lab.store.reading() as tx:
            envelope = models.get_envelope(tx, record.bundle)
        assert envelope is not None
        trusted = signing.keyring(a_key().public_key())
        assert open_signed_manifest(envelope, trusted, record.bundle).measuring


def test_answered_trials_leave_the_orders_and_what_was_found_stays(lab: Lab) -> None:
    build = lab.build()
    assert [lab.order_for(device).trials for device in (PI_1, PI_2)] == [(), ()]
    records = lab.records(build)
    assert sorted((one.device, one.recipe) for one in records) == [
        (PI_1, "fp32"),
        (PI_1, "int8"),
        (PI_2, "fp32"),
        (PI_2, "int8"),
    ]
    assert all(one.result and one.result.figures and one.ended_at for one in records)


def test_one_device_may_be_named_as_well_as_a_group(lab: Lab) -> None:
    build = lab.build(measure_on="pi-2")
    assert {one.device for one in lab.records(build)} == {PI_2}
    assert lab.measured()["int8"].p50_ms == 2.0


@pytest.mark.parametrize("place", ["attic", "No Name", ""])
def test_an_unknown_place_is_refused_at_once(lab: Lab, place: str) -> None:
    with pytest.raises(UnknownPlace, match="wherry group list"):
        lab.build(measure_on=place)
    with lab.store.reading() as tx:
        assert models.list_builds(tx) == []


def test_candidates_are_not_measured_where_the_bundle_key_is_kept_apart(tmp_path: Path) -> None:
    lab = Lab(tmp_path, bundle_key=None)
    with pytest.raises(BundleKeyApart, match="without --measure-on"):
        lab.build(measure_on="lab")
    with pytest.raises(BundleKeyApart, match="without --measure-on"):
        lab.builds.order_all([], [], Scope.EVERY, measure_on="lab")
    with lab.store.reading() as tx:
        assert models.list_builds(tx) == []
    assert lab.build(measure_on=None).status is BuildStatus.SUCCEEDED
    lab.store.close()


def test_a_build_without_a_place_asks_no_device(lab: Lab) -> None:
    build = lab.build(measure_on=None)
    assert (build.status, len(lab.builder.requests)) == (BuildStatus.SUCCEEDED, 1)
    assert lab.records(build) == []


def offline(device: Device) -> Device:
    return replace(device, online=False)


def simulated(device: Device) -> Device:
    assert device.reported is not None
    return replace(device, reported=replace(device.reported, simulated=True))


def of_an_older_release(device: Device) -> Device:
    assert device.reported is not None
    return replace(device, reported=replace(device.reported, facts=None))


def unheard_of(device: Device) -> Device:
    return replace(device, reported=None)


@pytest.mark.parametrize("change", [offline, simulated, of_an_older_release, unheard_of])
def test_a_device_that_cannot_measure_is_not_asked(
    lab: Lab, change: Callable[[Device], Device]
) -> None:
    with lab.store.transaction() as tx:
        record = devices.get_device(tx, PI_2)
        assert record is not None
        devices.save_device(tx, change(record))
    build = lab.build()
    assert {one.device for one in lab.records(build)} == {PI_1}


def test_a_device_on_its_way_to_a_bundle_is_not_asked(lab: Lab) -> None:
    with lab.store.transaction() as tx:
        bundle = add_built_version(tx, lab.blobs, "v0")
        journey = Journey(
            id=a_deployment_id("v0:pi-1"),
            device=PI_1,
            rollout=None,
            alias=an_alias(),
            bundle=bundle.digest,
            status=Status.IN_PROGRESS,
            ordered_at=0.0,
        )
        devices.save_journey(tx, journey)
    assert {one.device for one in lab.records(lab.build())} == {PI_2}


def test_a_device_that_an_open_rollout_reaches_is_not_asked(lab: Lab) -> None:
    with lab.store.transaction() as tx:
        add_built_version(tx, lab.blobs, "v0")
        devices.save_group(tx, Group(CANARY, (PI_2,)))
    rollouts = Rollouts(
        lab.store, lab.fleet, a_trust(lab.store), incumbent_span_s=1.0, budget_bytes=1 << 30
    )
    rollouts.create(a_wish("v0", groups=(CANARY,)), lab.now)
    assert {one.device for one in lab.records(lab.build())} == {PI_1}


def test_without_a_device_of_a_profile_the_build_says_so_and_goes_on(lab: Lab) -> None:
    for device in (PI_1, PI_2):
        lab.change(device, online=False)
    build = lab.build()
    assert build.status is BuildStatus.SUCCEEDED
    assert f"No device in 'lab' measured for {PROFILE.name}" in build.detail
    assert len(lab.builder.requests) == 1


def test_devices_that_stay_silent_do_not_hold_a_build_up_for_ever(lab: Lab) -> None:
    lab.answers[PI_1] = lab.answers[PI_2] = lambda *_: None
    build = lab.build()
    assert build.status is BuildStatus.SUCCEEDED
    assert "No device" in build.detail
    assert SILENCE_S <= lab.now - 1000.0 < SILENCE_S + 30
    assert lab.order_for(PI_1).trials == ()


def test_a_silent_device_leaves_the_others_figures(lab: Lab) -> None:
    lab.answers[PI_1] = lambda *_: None
    lab.build()
    assert lab.measured()["int8"].devices == 1


def test_a_busy_device_is_asked_again(lab: Lab) -> None:
    lab.answers[PI_1] = fails(Reason.BUSY, times=2)
    build = lab.build()
    assert lab.measured()["int8"].devices == 2
    assert len(lab.records(build)) == 6


def test_a_device_that_is_removed_before_it_is_asked_is_left_out(lab: Lab) -> None:
    def script(request: BuildRequest) -> Iterator[BuildMessage]:
        if request.offers:
            lab.fleet.remove_device(PI_1, now=lab.now)
        yield from offers("int8")(request)

    build = lab.build(script=script)
    assert build.status is BuildStatus.SUCCEEDED
    assert lab.measured()["int8"].devices == 1


def test_a_device_that_is_removed_while_it_measures_is_not_waited_for(lab: Lab) -> None:
    lab.answers[PI_1] = lambda *_: None

    def remove() -> None:
        lab.fleet.remove_device(PI_1, now=lab.now)
        lab.on_pause.clear()

    lab.on_pause.append(remove)
    lab.build()
    assert lab.measured()["int8"].devices == 1
    assert lab.now < 1000.0 + SILENCE_S


def test_a_device_that_is_always_busy_is_let_be(lab: Lab) -> None:
    lab.answers[PI_1] = fails(Reason.BUSY)
    build = lab.build()
    assert lab.measured()["int8"].devices == 1
    mine = [one for one in lab.records(build) if one.device == PI_1 and one.recipe == "int8"]
    assert len(mine) == MOST_TIMES


def test_a_build_tells_why_the_devices_that_it_asked_measured_nothing(lab: Lab) -> None:
    lab.answers[PI_1] = lab.answers[PI_2] = fails(Reason.OVER_BUDGET)
    build = lab.build()
    assert build.status is BuildStatus.SUCCEEDED
    assert "No device in 'lab' measured" in build.detail
    assert "pi-1: over_budget, 200 MiB are free; pi-2: over_budget" in build.detail


def test_a_device_that_fails_otherwise_is_not_asked_again(lab: Lab) -> None:
    lab.answers[PI_1] = fails(Reason.OVER_BUDGET)
    build = lab.build()
    assert len(lab.records(build)) == 4
    assert lab.measured()["fp32"].devices == 1


def test_an_unfaithful_device_is_told_to_the_builder(lab: Lab) -> None:
    unfaithful = fails(Reason.GOLDEN_MISMATCH)

    def answer(device: DeviceId, trial: Trial) -> TrialResult | None:
        (record,) = (one for one in open_trials(lab) if one.id == trial.trial)
        return (unfaithful if record.recipe == "int8" else measures)(device, trial)

    lab.answers[PI_1] = answer
    lab.build()
    assert {name: one.faithful for name, one in lab.measured().items()} == {
        "fp32": True,
        "int8": False,
    }


def open_trials(lab: Lab) -> list[TrialRecord]:
    with lab.store.reading() as tx:
        return list(trials.open_trials(tx))


def test_candidates_that_the_broker_cannot_hold_together_are_measured_in_turn(
    tmp_path: Path,
) -> None:
    lab = Lab(tmp_path, budget_bytes=6_000)
    seen: list[int] = []
    lab.on_pause.append(lambda: seen.append(len(lab.order_for(PI_1).trials)))
    lab.build(script=offers("int8", "int4"))
    assert (max(seen), len(seen) > 1) == (2, True)
    assert set(lab.measured()) == {"fp32", "int8", "int4"}
    lab.store.close()


def test_a_candidate_too_large_for_the_broker_is_not_measured(tmp_path: Path) -> None:
    lab = Lab(tmp_path, budget_bytes=100)
    build = lab.build()
    assert (build.status, lab.records(build)) == (BuildStatus.SUCCEEDED, [])
    assert "No device" in build.detail
    lab.store.close()


def test_a_build_that_is_canceled_while_devices_measure_withdraws_its_trials(lab: Lab) -> None:
    lab.answers[PI_1] = lambda *_: None

    def cancel() -> None:
        with lab.store.reading() as tx:
            (found,) = models.list_builds(tx)
        lab.builds.cancel(found.id)

    lab.on_pause.append(cancel)
    build = lab.build()
    assert build.status is BuildStatus.CANCELED
    assert lab.now < 1000.0 + SILENCE_S
    assert lab.order_for(PI_1).trials == ()
    assert len(lab.builder.requests) == 1


def test_a_controller_that_stops_while_devices_measure_queues_the_build_again(lab: Lab) -> None:
    lab.answers[PI_2] = lambda *_: None
    lab.is_stopping = True
    build = lab.build()
    assert (build.status, build.attempts) == (BuildStatus.QUEUED, 0)
    assert lab.order_for(PI_2).trials == ()
    lab.is_stopping = False
    lab.answers[PI_2] = measures
    lab.started()
    assert lab.measured()["int8"].devices == 2
    # What `pi-1` had answered was not asked again.
    assert [one.device for one in lab.records(build)].count(PI_1) == 2


class Killed(BaseException):
    pass


def test_trials_that_a_killed_controller_left_are_withdrawn_at_its_next_start(lab: Lab) -> None:
    def die() -> None:
        lab.is_killed = True
        raise Killed

    lab.on_pause.append(die)
    with pytest.raises(Killed):
        lab.build()
    left = {one.id for one in open_trials(lab)}
    assert len(left) == 4
    lab.on_pause.clear()
    lab.is_killed = False
    lab.on_pause.append(lambda: still_named.extend(named(lab) & left))
    still_named: list[str] = []
    lab.started()
    assert still_named == []
    assert open_trials(lab) == []
    assert lab.measured()["int8"].devices == 2


def test_answered_trials_that_a_killed_controller_left_leave_the_orders_too(lab: Lab) -> None:
    def die() -> None:
        if lab.answered:
            lab.is_killed = True
            raise Killed

    lab.answers[PI_2] = lambda *_: None
    lab.on_pause.append(die)
    with pytest.raises(Killed):
        lab.build()
    lab.is_killed = False
    lab.change(PI_1, online=False)  # So that the build, taken up again, asks nobody.
    lab.change(PI_2, online=False)
    lab.started()
    with lab.store.reading() as tx:
        assert needed_bundles(tx) == frozenset()


def named(lab: Lab) -> set[str]:
    return {one.trial for device in (PI_1, PI_2) for one in lab.order_for(device).trials}


def test_an_answer_counts_only_from_the_device_that_was_asked(lab: Lab) -> None:
    def lie() -> None:
        for one in lab.order_for(PI_1).trials:
            lie = trial_figures(99.0)
            lab.hear(PI_2, a_trial_result(one.trial, bundle=one.bundle, figures=lie))

    lab.on_pause.append(lie)
    lab.build()
    assert lab.measured()["int8"].p50_ms == 1.5


def test_an_answer_counts_once(lab: Lab) -> None:
    build = lab.build()
    record = lab.records(build)[0]
    late = a_trial_result(record.id, bundle=record.bundle, figures=trial_figures(99.0))
    lab.hear(record.device, late)
    assert lab.records(build)[0] == record


def test_a_bundle_that_devices_would_serve_is_not_signed_as_an_offer(lab: Lab) -> None:
    build = lab.build(script=offers("int8", measuring=False))
    assert build.status is BuildStatus.FAILED
    assert "offered as a bundle to serve" in build.detail
    assert lab.records(build) == []


def test_a_version_that_is_refused_before_it_has_candidates_is_refused(lab: Lab) -> None:
    build = lab.build(script=refuses(BuildReason.OUTPUT_NOT_FINITE))
    assert (build.status, build.reason) == (BuildStatus.REFUSED, "output_not_finite")
    assert lab.records(build) == []


def test_a_new_order_of_trials_leaves_deployments_alone(lab: Lab) -> None:
    generations: list[int] = []
    lab.on_pause.append(lambda: generations.append(lab.order_for(PI_1).generation))
    lab.build()
    assert generations == [1]
    assert (lab.order_for(PI_1).generation, lab.order_for(PI_1).aliases) == (2, {})
