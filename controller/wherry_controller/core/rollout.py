"""The rollout machine: how one version goes to some groups, stage by stage.

Pure: `step` takes a state and one event and returns the next state with the effects to perform.
The service saves both in one write, performs the effects and strikes them off; every effect may
be performed twice. Evidence is judged by `gate`; here the verdict is an event.

    Draft --Started--> Running(stage) --promote--> Running(next) --> Succeeded
    Draft --Scheduled--> Scheduled --Started--> Running
                       Running --halt--> Reverting --all back--> Reverted
                       Running --Paused/Resumed-- Paused;  Canceled;  RevertOrdered

What is not released yet (its signature is made on another machine) is scheduled, and starts by
itself once it is. A stage orders its devices at once, each under a deployment id of its own. The
candidate may be shadowed or split beside each device's incumbent on its way there. On a halt no
further stage begins, and every device that was ordered is ordered back to what it served before: a
canary may well have confirmed the sick version. The way back is a new deployment, taken at once,
which revokes the bundle that it leaves; the old one keeps its outcome. A device that served
nothing before has its order withdrawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeAlias, assert_never

import msgspec
from msgspec.structs import replace

from wherry.errors import Unsuitable
from wherry.messages import Shadow, Split, SwapPolicy
from wherry.names import AliasName, DeploymentId, DeviceId, Digest, RolloutName
from wherry.reasons import Reason, Status
from wherry_controller.core.gate import Decision, Gate, GateReason, Verdict

Serving: TypeAlias = Mapping[DeviceId, Digest | None]


class RolloutStatus(StrEnum):
    DRAFT = "draft"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    PAUSED = "paused"
    HALTED = "halted"
    REVERTING = "reverting"
    REVERTED = "reverted"
    SUCCEEDED = "succeeded"
    CANCELED = "canceled"

    @property
    def is_open(self) -> bool:
        """Say whether it may still order a device somewhere."""
        return self in _OPEN


_OPEN = (
    RolloutStatus.DRAFT,
    RolloutStatus.SCHEDULED,
    RolloutStatus.RUNNING,
    RolloutStatus.PAUSED,
    RolloutStatus.REVERTING,
)


class StoppedBy(StrEnum):
    """Who decided first that the version goes no further."""

    DEVICE = "device"
    GATE = "gate"
    OPERATOR = "operator"


class NotNow(Unsuitable):
    """A wish that the rollout's status does not allow."""

    def __init__(self, wish: str, status: RolloutStatus) -> None:
        super().__init__(wish, status)
        self.wish, self.status = wish, status

    def __str__(self) -> str:
        return (
            f"a rollout that is {self.status.value} cannot be {self.wish}: "
            "look at it with `wherry rollout status`, or create a new one."
        )


# What a rollout is made of


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One part: the devices it reaches, with the bundle of each, and the gate that ends it."""

    name: str
    bundles: dict[DeviceId, Digest]
    gate: Gate


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator asked for; it does not change once the rollout exists.

    `needs` is the least release of other aliases that a device must have.
    """

    name: RolloutName
    alias: AliasName
    stages: tuple[Stage, ...]
    probation_s: float = 60.0
    deadline_s: float = 3600.0
    needs: dict[AliasName, int] = {}
    policy: SwapPolicy = SwapPolicy.AUTO
    shadow: Shadow | None = None
    split: Split | None = None


class Journey(msgspec.Struct, frozen=True, kw_only=True):
    """One device's deployment in this rollout, there or back."""

    deployment: DeploymentId
    bundle: Digest
    before: Digest | None
    status: Status = Status.QUEUED
    reason: Reason | None = None
    detail: str = ""
    ended_s: float | None = None


class StageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """When a stage began and ended, and the last verdict on it."""

    began_s: float
    ended_s: float | None = None
    verdict: Verdict | None = None


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """The state. `records[i]` is of stage i; `ways_back` are the deployments of a revert.

    `reverts` counts how often it was ordered back: each time has deployments of its own.
    """

    plan: Plan
    status: RolloutStatus = RolloutStatus.DRAFT
    records: tuple[StageRecord, ...] = ()
    journeys: dict[DeviceId, Journey] = {}
    ways_back: dict[DeviceId, Journey] = {}
    stopped_by: StoppedBy | None = None
    why: str = ""
    reverting_since_s: float | None = None
    reverts: int = 0


# Events: what happened


class Scheduled(msgspec.Struct, frozen=True, tag=True):
    """It shall start as soon as it can; `why` says what it waits for."""

    why: str


class Started(msgspec.Struct, frozen=True, tag=True):
    at_s: float
    serving: Serving


class DeviceReported(msgspec.Struct, frozen=True, tag=True):
    device: DeviceId
    deployment: DeploymentId
    status: Status
    at_s: float
    reason: Reason | None = None
    detail: str = ""


class Judged(msgspec.Struct, frozen=True, tag=True):
    """The gate's verdict on the stage numbered `stage`; others than the current are late news."""

    stage: int
    verdict: Verdict
    at_s: float
    serving: Serving


class Paused(msgspec.Struct, frozen=True, tag=True):
    pass


class Resumed(msgspec.Struct, frozen=True, tag=True):
    pass


class Canceled(msgspec.Struct, frozen=True, tag=True):
    at_s: float


class RevertOrdered(msgspec.Struct, frozen=True, tag=True):
    at_s: float


class Tick(msgspec.Struct, frozen=True, tag=True):
    at_s: float


Event: TypeAlias = (
    Scheduled
    | Started
    | DeviceReported
    | Judged
    | Paused
    | Resumed
    | Canceled
    | RevertOrdered
    | Tick
)


# Effects: what to do; each may be done twice


class Order(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Want this bundle of the device under this deployment, and never again `revoked`."""

    device: DeviceId
    alias: AliasName
    deployment: DeploymentId
    bundle: Digest
    probation_s: float
    deadline_s: float
    revoked: Digest | None = None
    policy: SwapPolicy = SwapPolicy.AUTO
    shadow: Shadow | None = None
    split: Split | None = None

    @property
    def compares(self) -> bool:
        """Say whether the device shall run the bundle beside what it serves."""
        return self.shadow is not None or self.split is not None


class Withdraw(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Want nothing of the device under this alias any more."""

    device: DeviceId
    alias: AliasName


Effect: TypeAlias = Order | Withdraw
Effects: TypeAlias = tuple[Effect, ...]


def step(state: Rollout, event: Event) -> tuple[Rollout, Effects]:
    """Return the state that follows `event`, and what to do about it.

    Raises `NotNow` where an operator's wish does not fit the status.
    """
    match event:
        case Scheduled(why):
            _allow(state, "started", RolloutStatus.DRAFT)
            return replace(state, status=RolloutStatus.SCHEDULED, why=why), ()
        case Started(at_s, serving):
            _allow(state, "started", RolloutStatus.DRAFT, RolloutStatus.SCHEDULED)
            running = replace(state, status=RolloutStatus.RUNNING, why="")
            return _begin_stage(running, at_s, serving)
        case DeviceReported():
            return _note(state, event), ()
        case Judged(stage, verdict, at_s, serving):
            if state.status is RolloutStatus.RUNNING and stage == len(state.records) - 1:
                return _follow(state, verdict, at_s, serving)
            return state, ()
        case Paused():
            _allow(state, "paused", RolloutStatus.RUNNING)
            return replace(state, status=RolloutStatus.PAUSED), ()
        case Resumed():
            _allow(state, "resumed", RolloutStatus.PAUSED)
            return replace(state, status=RolloutStatus.RUNNING), ()
        case Canceled(at_s):
            return _cancel(state, at_s)
        case RevertOrdered(at_s):
            return _revert_by_operator(state, at_s)
        case Tick(at_s):
            return _settle_reverting(state, at_s), ()
        case _:
            assert_never(event)


def stage_devices(state: Rollout) -> tuple[DeviceId, ...]:
    """Return the devices of the stage that runs now, or ran last."""
    return tuple(state.plan.stages[len(state.records) - 1].bundles) if state.records else ()


def gate_of(plan: Plan, number: int) -> Gate:
    """Return the gate of a stage; its deadline begins when shadowing must be over."""
    gate = plan.stages[number].gate
    if plan.shadow is None:
        return gate
    return replace(gate, deadline_s=gate.deadline_s + plan.shadow.deadline_s)


def devices_of(plan: Plan) -> frozenset[DeviceId]:
    return frozenset(device for stage in plan.stages for device in stage.bundles)


def _begin_stage(state: Rollout, at_s: float, serving: Serving) -> tuple[Rollout, Effects]:
    plan, number = state.plan, len(state.records)
    journeys = {
        device: Journey(
            deployment=DeploymentId(f"{plan.name}:{device}"),
            bundle=bundle,
            before=serving.get(device),
        )
        for device, bundle in plan.stages[number].bundles.items()
    }
    begun = replace(
        state,
        records=(*state.records, StageRecord(began_s=at_s)),
        journeys={**state.journeys, **journeys},
    )
    return begun, tuple(_order_there(plan, device, one) for device, one in journeys.items())


def _order_there(plan: Plan, device: DeviceId, journey: Journey) -> Order:
    return replace(_order(plan, device, journey), shadow=plan.shadow, split=plan.split)


def _order(plan: Plan, device: DeviceId, journey: Journey) -> Order:
    return Order(
        device=device,
        alias=plan.alias,
        deployment=journey.deployment,
        bundle=journey.bundle,
        probation_s=plan.probation_s,
        deadline_s=plan.deadline_s,
        policy=plan.policy,
    )


def _note(state: Rollout, said: DeviceReported) -> Rollout:
    for name in ("journeys", "ways_back"):
        journeys: dict[DeviceId, Journey] = getattr(state, name)
        journey = journeys.get(said.device)
        if journey is None or journey.deployment != said.deployment or journey.status.is_final:
            continue
        noted = replace(
            journey,
            status=said.status,
            reason=said.reason,
            detail=said.detail,
            ended_s=said.at_s if said.status.is_final else None,
        )
        state = replace(state, **{name: {**journeys, said.device: noted}})
    return _settle_reverting(state, said.at_s)


def _follow(
    state: Rollout, verdict: Verdict, at_s: float, serving: Serving
) -> tuple[Rollout, Effects]:
    record = replace(state.records[-1], verdict=verdict)
    if verdict.decision is Decision.WAIT:
        return replace(state, records=(*state.records[:-1], record)), ()
    state = replace(state, records=(*state.records[:-1], replace(record, ended_s=at_s)))
    if verdict.decision is Decision.HALT:
        by = StoppedBy.DEVICE if _devices_decided(state, verdict) else StoppedBy.GATE
        return _go_back(state, by, verdict.sentence, at_s)
    if len(state.records) == len(state.plan.stages):
        return replace(state, status=RolloutStatus.SUCCEEDED), ()
    return _begin_stage(state, at_s, serving)


def _devices_decided(state: Rollout, verdict: Verdict) -> bool:
    """Say whether it halted because a device refused it, and not only beside one that did."""
    refused = (Status.REVERTED, Status.REJECTED, Status.FAILED)
    return verdict.reason is GateReason.DEVICES_FAILED and any(
        state.journeys[device].status in refused for device in stage_devices(state)
    )


def _cancel(state: Rollout, at_s: float) -> tuple[Rollout, Effects]:
    """End it where it stands: devices in progress go back, confirmed ones keep the version."""
    _allow(
        state,
        "canceled",
        RolloutStatus.DRAFT,
        RolloutStatus.SCHEDULED,
        RolloutStatus.RUNNING,
        RolloutStatus.PAUSED,
    )
    under_way = {d: j for d, j in state.journeys.items() if not j.status.is_final}
    ways_back = _ways_back(under_way)
    ended = replace(
        _end_stage(state, at_s),
        status=RolloutStatus.CANCELED,
        ways_back=ways_back,
        stopped_by=StoppedBy.OPERATOR,
        why="an operator canceled it",
    )
    return ended, _send_back(state.plan, under_way, ways_back)


def _revert_by_operator(state: Rollout, at_s: float) -> tuple[Rollout, Effects]:
    _allow(
        state,
        "reverted",
        RolloutStatus.RUNNING,
        RolloutStatus.PAUSED,
        RolloutStatus.HALTED,
        RolloutStatus.SUCCEEDED,
    )
    return _go_back(
        _end_stage(state, at_s), StoppedBy.OPERATOR, "an operator ordered it back", at_s
    )


def _go_back(state: Rollout, by: StoppedBy, why: str, at_s: float) -> tuple[Rollout, Effects]:
    """Order every device that was ordered, and is not back yet, to what it served before."""
    home = {d: way for d, way in state.ways_back.items() if way.status is Status.SUCCEEDED}
    away = {d: journey for d, journey in state.journeys.items() if d not in home}
    ways_back = _ways_back(away, state.reverts + 1)
    reverting = replace(
        state,
        status=RolloutStatus.REVERTING,
        ways_back=home | ways_back,
        reverts=state.reverts + 1,
        stopped_by=state.stopped_by or by,
        why=state.why or why,
        reverting_since_s=at_s,
    )
    effects = tuple(
        replace(effect, revoked=away[effect.device].bundle) if isinstance(effect, Order) else effect
        for effect in _send_back(state.plan, away, ways_back)
    )
    return _settle_reverting(reverting, at_s), effects


def _ways_back(journeys: Mapping[DeviceId, Journey], attempt: int = 1) -> dict[DeviceId, Journey]:
    """Return the ways back; a further attempt needs new ids, or devices would take it for done."""
    back = "back" if attempt == 1 else f"back:{attempt}"
    return {
        device: Journey(
            deployment=DeploymentId(f"{journey.deployment}:{back}"),
            bundle=journey.before,
            before=journey.bundle,
        )
        for device, journey in journeys.items()
        if journey.before is not None
    }


def _send_back(
    plan: Plan, journeys: Mapping[DeviceId, Journey], ways_back: Mapping[DeviceId, Journey]
) -> Effects:
    return tuple(
        _order(plan, device, ways_back[device])
        if device in ways_back
        else Withdraw(device=device, alias=plan.alias)
        for device in journeys
    )


def _settle_reverting(state: Rollout, at_s: float) -> Rollout:
    """End a revert when every device is back, or halt it when its deadline has passed."""
    if state.status is not RolloutStatus.REVERTING:
        return state
    away = [d for d, journey in state.ways_back.items() if journey.status is not Status.SUCCEEDED]
    if not away:
        return replace(state, status=RolloutStatus.REVERTED)
    if at_s - (state.reverting_since_s or at_s) < state.plan.deadline_s:
        return state
    why = f"{state.why}; {len(away)} devices have not gone back yet ({', '.join(sorted(away)[:5])})"
    return replace(state, status=RolloutStatus.HALTED, why=why)


def _end_stage(state: Rollout, at_s: float) -> Rollout:
    if not state.records or state.records[-1].ended_s is not None:
        return state
    return replace(state, records=(*state.records[:-1], replace(state.records[-1], ended_s=at_s)))


def _allow(state: Rollout, wish: str, *allowed: RolloutStatus) -> None:
    if state.status not in allowed:
        raise NotNow(wish, state.status)
