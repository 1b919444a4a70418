"""Laws of the rollout machine, and the deep stories that random ones seldom reach."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.builders import a_device_id, a_digest, an_alias
from tests.laws import tried
from wherry.messages import Shadow, Split, SwapPolicy
from wherry.names import DeploymentId, DeviceId, Digest, parse_deployment_id, parse_rollout_name
from wherry.reasons import Reason, Status
from wherry_controller.core.gate import Decision, Gate, GateReason, Verdict
from wherry_controller.core.rollout import (
    Canceled,
    DeviceReported,
    Effect,
    Effects,
    Event,
    Judged,
    NotNow,
    Order,
    Paused,
    Plan,
    Resumed,
    RevertOrdered,
    Rollout,
    RolloutStatus,
    Scheduled,
    Stage,
    Started,
    StoppedBy,
    Tick,
    Withdraw,
    devices_of,
    gate_of,
    stage_devices,
    step,
)

OLD, NEW = a_digest("old"), a_digest("new")
A, B, C, D, E = (a_device_id(name) for name in "abcde")
STAGES = (("canary", (A, B)), ("field", (C, D)), ("rest", (E,)))
BEFORE: dict[DeviceId, Digest | None] = {A: OLD, B: OLD, C: OLD, D: OLD}  # E served nothing.
DEADLINE_S = 100.0


def a_plan() -> Plan:
    return Plan(
        name=parse_rollout_name("digits-v2"),
        alias=an_alias(),
        stages=tuple(
            Stage(name=name, bundles=dict.fromkeys(devices, NEW), gate=Gate())
            for name, devices in STAGES
        ),
        probation_s=5.0,
        deadline_s=DEADLINE_S,
    )


def a_verdict(
    decision: Decision = Decision.PROMOTE, reason: GateReason = GateReason.PASSED
) -> Verdict:
    return Verdict(decision=decision, reason=reason, sentence=f"for {reason.value}")


HALT = a_verdict(Decision.HALT, GateReason.ACCURACY_DROP)
FAILED = a_verdict(Decision.HALT, GateReason.DEVICES_FAILED)
WAIT = a_verdict(Decision.WAIT, GateReason.SOAKING)


@dataclass
class Service:
    """Performs what the machine orders, as a service would: it keeps what each device is to have.

    `history` is every deployment that a device was ordered to, in order.
    """

    state: Rollout = field(default_factory=lambda: Rollout(plan=a_plan()))
    wants: dict[DeviceId, Order] = field(default_factory=dict)
    history: dict[DeviceId, list[Order]] = field(default_factory=dict)
    told: list[tuple[DeviceId, DeploymentId, Status]] = field(default_factory=list)
    now_s: float = 1000.0

    def hear(self, event: Event) -> Effects:
        self.state, effects = step(self.state, event)
        for effect in effects:
            self.perform(effect)
        return effects

    def status(self) -> RolloutStatus:
        return self.state.status

    def perform(self, effect: Effect) -> None:
        if isinstance(effect, Withdraw):
            self.wants.pop(effect.device, None)
        elif self.wants.get(effect.device) != effect:
            self.wants[effect.device] = effect
            self.history.setdefault(effect.device, []).append(effect)

    def start(self) -> Effects:
        return self.hear(Started(self.now_s, BEFORE))

    def judge(self, verdict: Verdict | None = None) -> Effects:
        stage = len(self.state.records) - 1
        return self.hear(Judged(stage, verdict or a_verdict(), self.now_s, BEFORE))

    def report(self, device: DeviceId, status: Status = Status.SUCCEEDED) -> Effects:
        """Let the device end what is wanted of it now."""
        return self.tell(device, self.wants[device].deployment, status)

    def tell(self, device: DeviceId, deployment: DeploymentId, status: Status) -> Effects:
        self.told.append((device, deployment, status))
        return self.hear(DeviceReported(device, deployment, status, self.now_s, Reason.CONFIRMED))

    def confirm(self, *devices: DeviceId) -> None:
        for device in devices:
            self.report(device)

    def deployments(self, device: DeviceId) -> list[str]:
        return [str(order.deployment) for order in self.history.get(device, [])]


def started() -> Service:
    service = Service()
    service.start()
    return service


def promoted() -> Service:
    """Return a rollout whose canaries confirmed, with the field ordered."""
    service = started()
    service.confirm(A, B)
    service.judge()
    return service


def succeeded() -> Service:
    service = promoted()
    service.confirm(C, D)
    service.judge()
    service.confirm(E)
    service.judge()
    return service


def halted(verdict: Verdict = HALT) -> Service:
    service = started()
    service.confirm(A, B)
    service.judge(verdict)
    return service


def given_up() -> Service:
    """Return a revert whose device A did not go back by the deadline."""
    service = halted()
    service.report(B)
    service.now_s += DEADLINE_S
    service.hear(Tick(service.now_s))
    return service


def a_story(story: list[tuple[str, int]]) -> Iterator[tuple[Rollout, Service, Effects]]:
    """Play moves; yield the state before each, the service after it, and what was ordered."""
    service = Service()
    for move, number in story:
        before = service.state
        effects: Effects = ()
        service.now_s += 1.0
        try:
            effects = _make(service, move, number)
        except NotNow:
            assert service.state == before
        yield before, service, effects


def _make(service: Service, move: str, number: int) -> Effects:
    devices = sorted(devices_of(a_plan()))
    device = devices[number % len(devices)]
    match move:
        case "start":
            return service.start()
        case "report" if device in service.wants:
            return service.report(device, list(Status)[number % len(Status)])
        case "confirm" if device in service.wants:
            return service.report(device)
        case "again" if service.told:
            return service.tell(*service.told[number % len(service.told)])
        case "judge":
            return service.judge([a_verdict(), a_verdict(), WAIT, HALT, FAILED][number % 5])
        case "late judge":
            stage = len(service.state.records) - 2 - number % 2
            return service.hear(Judged(stage, HALT, service.now_s, BEFORE))
        case "wish":
            now_s = service.now_s
            wishes: list[Event] = [Paused(), Resumed(), Canceled(now_s), RevertOrdered(now_s)]
            return service.hear(wishes[number % len(wishes)])
        case "wait":
            service.now_s += number
            return service.hear(Tick(service.now_s))
        case _:
            return ()


kinds = ["report", "confirm", "confirm", "again", "judge", "judge", "late judge", "wish", "wait"]
moves = st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, 120)), max_size=40).map(
    lambda rest: [("start", 0), *rest]
)


@tried
@given(moves)
@example([("start", 0), ("judge", 3), ("wait", 120), ("wish", 3), ("wait", 120), ("wish", 3)])
def test_only_a_promotion_reaches_a_later_stage(story: list[tuple[str, int]]) -> None:
    for _, service, _ in a_story(story):
        records = service.state.records
        reached = {device for _, devices in STAGES[: len(records)] for device in devices}
        assert set(service.history) <= reached
        for record in records[:-1]:
            assert record.verdict and record.verdict.decision is Decision.PROMOTE
            assert record.ended_s is not None


@tried
@given(moves)
def test_after_a_stop_every_order_is_a_way_back(story: list[tuple[str, int]]) -> None:
    for before, service, effects in a_story(story):
        if before.stopped_by is None and service.state.stopped_by is None:
            continue
        for effect in effects:
            if isinstance(effect, Order):
                assert effect.bundle == BEFORE[effect.device]
            else:
                assert BEFORE.get(effect.device) is None


@tried
@given(moves)
@example([("start", 0), ("judge", 0), ("judge", 0), ("judge", 0), ("wish", 3)])
def test_a_revert_orders_every_device_back_to_what_it_served(
    story: list[tuple[str, int]],
) -> None:
    for before, service, effects in a_story(story):
        after = service.state
        if after.status is RolloutStatus.REVERTING and before.status is not after.status:
            home = {d for d, j in after.ways_back.items() if j.status is Status.SUCCEEDED}
            assert {effect.device for effect in effects} | home == set(after.journeys)
        if after.status is RolloutStatus.REVERTED:
            for device in after.journeys:
                want = service.wants.get(device)
                assert (want.bundle if want else None) == BEFORE.get(device)


@tried
@given(moves)
@example([("start", 0), ("judge", 3), ("wait", 120), ("wish", 3), ("wait", 120), ("wish", 3)])
def test_no_deployment_id_is_used_twice(story: list[tuple[str, int]]) -> None:
    for _, service, effects in a_story(story):
        used = [name for device in service.history for name in service.deployments(device)]
        assert len(used) == len(set(used))
        for name in used:
            assert parse_deployment_id(name) == name
        want, history = dict(service.wants), {d: list(o) for d, o in service.history.items()}
        for effect in effects:
            service.perform(effect)
        assert (service.wants, service.history) == (want, history)


@tried
@given(moves)
def test_a_final_outcome_stays_as_it_was_told(story: list[tuple[str, int]]) -> None:
    for before, service, _ in a_story(story):
        for device, journey in before.journeys.items():
            if journey.status.is_final:
                assert service.state.journeys[device] == journey
        for device, journey in before.ways_back.items():
            if journey.status is Status.SUCCEEDED:
                assert service.state.ways_back[device] == journey


@tried
@given(moves)
def test_a_revert_ends(story: list[tuple[str, int]]) -> None:
    *_, (_, service, _) = a_story(story)
    if service.status() is RolloutStatus.REVERTING:
        service.hear(Tick(service.now_s + DEADLINE_S))
        assert service.status() in (RolloutStatus.HALTED, RolloutStatus.REVERTED)


@tried
@given(moves)
def test_state_and_effects_survive_the_database(story: list[tuple[str, int]]) -> None:
    for _, service, effects in a_story(story):
        written = msgspec.json.encode(service.state)
        assert msgspec.json.decode(written, type=Rollout) == service.state
        assert msgspec.json.decode(msgspec.json.encode(effects), type=Effects) == effects


def test_a_rollout_goes_stage_by_stage_to_its_end() -> None:
    service = Service()
    assert [effect.device for effect in service.start()] == [A, B]
    assert stage_devices(service.state) == (A, B)
    service.confirm(A, B)
    assert [effect.device for effect in service.judge()] == [C, D]
    service.confirm(C, D)
    assert [effect.device for effect in service.judge()] == [E]
    service.confirm(E)
    assert service.judge() == ()
    assert service.status() is RolloutStatus.SUCCEEDED
    assert not service.status().is_open
    assert service.state.stopped_by is None


def test_an_order_carries_the_plans_terms() -> None:
    assert started().wants[A] == Order(
        device=A,
        alias=an_alias(),
        deployment=parse_deployment_id("digits-v2:a"),
        bundle=NEW,
        probation_s=5.0,
        deadline_s=DEADLINE_S,
    )


def test_nothing_is_reached_before_the_start() -> None:
    service = Service()
    assert stage_devices(service.state) == ()
    assert service.judge() == ()
    assert service.status().is_open


def test_a_gate_that_waits_leaves_its_verdict_and_orders_nothing() -> None:
    service = started()
    assert service.judge(WAIT) == ()
    assert service.state.records[0].verdict == WAIT
    assert service.state.records[0].ended_s is None


def test_a_halt_orders_the_canaries_back_though_they_confirmed() -> None:
    service = halted()
    assert service.status() is RolloutStatus.REVERTING
    assert service.status().is_open
    assert {device: want.bundle for device, want in service.wants.items()} == {A: OLD, B: OLD}
    assert {want.revoked for want in service.wants.values()} == {NEW}
    assert service.state.journeys[A].status is Status.SUCCEEDED
    assert (service.state.stopped_by, service.state.why) == (StoppedBy.GATE, HALT.sentence)
    service.confirm(A)
    assert service.status() is RolloutStatus.REVERTING
    service.confirm(B)
    assert service.status() is RolloutStatus.REVERTED
    assert not service.status().is_open


@pytest.mark.parametrize("status", [Status.REVERTED, Status.REJECTED, Status.FAILED])
def test_a_device_that_went_back_by_itself_is_who_decided(status: Status) -> None:
    service = started()
    service.report(A, status)
    service.judge(FAILED)
    assert service.state.stopped_by is StoppedBy.DEVICE


def test_a_device_that_timed_out_decided_nothing() -> None:
    service = started()
    service.report(A, Status.TIMED_OUT)
    service.judge(FAILED)
    assert service.state.stopped_by is StoppedBy.GATE


def test_a_failure_that_the_gate_allowed_is_not_who_decided() -> None:
    service = started()
    service.report(A, Status.REVERTED)
    service.judge(HALT)
    assert service.state.stopped_by is StoppedBy.GATE


def test_a_failure_in_an_earlier_stage_is_not_who_decided() -> None:
    service = started()
    service.report(A, Status.REVERTED)
    service.confirm(B)
    service.judge()
    service.judge(FAILED)
    assert service.state.stopped_by is StoppedBy.GATE


def test_the_verdict_on_another_stage_is_late_news() -> None:
    service = promoted()
    before = service.state
    assert service.hear(Judged(0, HALT, service.now_s, BEFORE)) == ()
    assert service.hear(Judged(2, a_verdict(), service.now_s, BEFORE)) == ()
    assert service.state == before


def test_a_second_halt_changes_nothing() -> None:
    service = halted()
    before = service.state
    assert service.judge(HALT) == ()
    assert service.state == before


def test_news_of_another_deployment_changes_nothing() -> None:
    service = halted()
    before = service.state
    service.tell(A, before.journeys[A].deployment, Status.FAILED)
    service.tell(C, parse_deployment_id("digits-v2:c"), Status.SUCCEEDED)
    service.tell(A, parse_deployment_id("another"), Status.SUCCEEDED)
    assert service.state == before


def test_progress_is_noted_and_only_an_end_has_a_time() -> None:
    service = started()
    service.report(A, Status.IN_PROGRESS)
    assert service.state.journeys[A].status is Status.IN_PROGRESS
    assert service.state.journeys[A].ended_s is None
    service.now_s += 7
    service.report(A)
    assert service.state.journeys[A].ended_s == service.now_s
    service.report(A, Status.IN_PROGRESS)
    assert service.state.journeys[A].status is Status.SUCCEEDED


def test_a_device_that_served_nothing_before_has_its_order_withdrawn() -> None:
    service = promoted()
    service.judge()
    effects = service.judge(HALT)
    assert Withdraw(device=E, alias=an_alias()) in effects
    assert E not in service.state.ways_back
    service.confirm(A, B, C, D)
    assert service.status() is RolloutStatus.REVERTED


def test_a_revert_of_first_installs_alone_ends_at_once() -> None:
    service = Service()
    service.hear(Started(service.now_s, {}))
    service.judge(HALT)
    assert service.status() is RolloutStatus.REVERTED
    assert service.wants == {}


def test_a_device_that_does_not_go_back_halts_the_revert_at_its_deadline() -> None:
    service = halted()
    service.report(A, Status.FAILED)
    service.report(B)
    service.hear(Tick(service.now_s + DEADLINE_S - 0.1))
    assert service.status() is RolloutStatus.REVERTING
    service.hear(Tick(service.now_s + DEADLINE_S))
    assert service.status() is RolloutStatus.HALTED
    assert service.state.why.endswith("1 devices have not gone back yet (a)")
    assert not service.status().is_open


def test_a_second_revert_asks_again_those_that_are_not_back_under_a_new_deployment() -> None:
    service = given_up()
    effects = service.hear(RevertOrdered(service.now_s))
    assert [effect.device for effect in effects] == [A]
    assert len(set(service.deployments(A))) == 3
    assert service.status() is RolloutStatus.REVERTING
    service.confirm(A)
    assert service.status() is RolloutStatus.REVERTED


def test_who_stopped_it_first_is_remembered() -> None:
    service = given_up()
    service.hear(RevertOrdered(service.now_s))
    assert service.state.stopped_by is StoppedBy.GATE
    assert service.state.why.startswith(HALT.sentence)


def test_an_operator_may_take_a_finished_rollout_back() -> None:
    service = succeeded()
    effects = service.hear(RevertOrdered(service.now_s))
    assert [effect.device for effect in effects] == [A, B, C, D, E]
    assert service.state.stopped_by is StoppedBy.OPERATOR
    service.confirm(A, B, C, D)
    assert service.status() is RolloutStatus.REVERTED


def test_a_revert_ends_the_stage_that_ran() -> None:
    service = promoted()
    service.hear(RevertOrdered(service.now_s))
    assert service.state.records[-1].ended_s == service.now_s


def test_a_cancellation_keeps_what_devices_confirmed() -> None:
    service = started()
    service.confirm(A)
    effects = service.hear(Canceled(service.now_s))
    assert [effect.device for effect in effects] == [B]
    assert service.wants[A].bundle == NEW
    assert (service.wants[B].bundle, service.wants[B].revoked) == (OLD, None)
    assert service.status() is RolloutStatus.CANCELED
    assert service.state.stopped_by is StoppedBy.OPERATOR
    assert service.state.records[-1].ended_s == service.now_s


def test_a_draft_may_be_canceled() -> None:
    service = Service()
    assert service.hear(Canceled(0.0)) == ()
    assert service.status() is RolloutStatus.CANCELED


def test_a_pause_holds_the_gate_and_not_the_devices() -> None:
    service = started()
    service.hear(Paused())
    assert service.status().is_open
    service.confirm(A, B)
    assert service.judge() == ()
    assert service.state.journeys[A].status is Status.SUCCEEDED
    service.hear(Resumed())
    assert [effect.device for effect in service.judge()] == [C, D]


AT = 1.0
ALLOWED: dict[str, tuple[Event, set[RolloutStatus]]] = {
    "started": (Started(AT, BEFORE), {RolloutStatus.DRAFT, RolloutStatus.SCHEDULED}),
    "paused": (Paused(), {RolloutStatus.RUNNING}),
    "resumed": (Resumed(), {RolloutStatus.PAUSED}),
    "canceled": (
        Canceled(AT),
        {
            RolloutStatus.DRAFT,
            RolloutStatus.SCHEDULED,
            RolloutStatus.RUNNING,
            RolloutStatus.PAUSED,
        },
    ),
    "reverted": (
        RevertOrdered(AT),
        {
            RolloutStatus.RUNNING,
            RolloutStatus.PAUSED,
            RolloutStatus.HALTED,
            RolloutStatus.SUCCEEDED,
        },
    ),
}


def test_what_cannot_start_yet_waits_and_orders_nothing() -> None:
    scheduled, effects = step(Rollout(plan=a_plan()), Scheduled("its signature is missing"))
    assert (scheduled.status, effects) == (RolloutStatus.SCHEDULED, ())
    assert scheduled.why == "its signature is missing"
    assert step(scheduled, Tick(AT)) == (scheduled, ())
    running, effects = step(scheduled, Started(AT, BEFORE))
    assert (running.status, running.why) == (RolloutStatus.RUNNING, "")
    assert effects
    with pytest.raises(NotNow):
        step(scheduled, Scheduled("again"))


@pytest.mark.parametrize("status", list(RolloutStatus))
@pytest.mark.parametrize("wish", list(ALLOWED))
def test_a_wish_that_does_not_fit_the_status_is_refused_with_a_sentence(
    wish: str, status: RolloutStatus
) -> None:
    event, allowed = ALLOWED[wish]
    state = msgspec.structs.replace(Rollout(plan=a_plan()), status=status)
    if status in allowed:
        step(state, event)
        return
    with pytest.raises(NotNow, match=f"is {status.value} cannot be {wish}: look at it with"):
        step(state, event)


COMPARING = msgspec.structs.replace(
    a_plan(),
    policy=SwapPolicy.RESOURCE,
    shadow=Shadow(share=0.5, deadline_s=50.0),
    split=Split(share=0.2),
)


def orders_in(effects: Effects) -> list[Order]:
    return [effect for effect in effects if isinstance(effect, Order)]


def test_the_way_there_shadows_and_splits_and_the_way_back_is_taken_at_once() -> None:
    state, there = step(Rollout(plan=COMPARING), Started(0.0, BEFORE))
    assert [(one.shadow, one.split) for one in orders_in(there)] == [
        (COMPARING.shadow, COMPARING.split)
    ] * 2
    _, back = step(state, Judged(0, HALT, 1.0, BEFORE))
    assert [(one.shadow, one.split) for one in orders_in(back)] == [(None, None)] * 2
    assert {one.policy for one in orders_in(there + back)} == {SwapPolicy.RESOURCE}


def test_a_stage_has_its_time_after_the_shadowing() -> None:
    assert gate_of(COMPARING, 1).deadline_s == Gate().deadline_s + 50.0
    assert gate_of(a_plan(), 1) == Gate()
