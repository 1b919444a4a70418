"""Rollouts over HTTP: create, start, follow and stop one version's way to some groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, TypeAlias

from fastapi import APIRouter, Response, status
from pydantic import BaseModel, ConfigDict, Field

from wherry.messages import Shadow, Split, SwapPolicy
from wherry.names import (
    DeploymentId,
    RolloutName,
    parse_alias_name,
    parse_group_name,
    parse_model_name,
    parse_rollout_name,
    parse_version_name,
)
from wherry.reasons import Phase, Reason, Status
from wherry_controller.api.context import PREFIX, Context, Here
from wherry_controller.api.documents import (
    GateDocument,
    ShadowDocument,
    SplitDocument,
    VerdictDocument,
    exact_struct_of,
    json_of,
    struct_of,
)
from wherry_controller.api.pages import Asked, Page, page
from wherry_controller.api.receipts import Receipt, receipt_of
from wherry_controller.core import rollout as core
from wherry_controller.core.gate import Decision, Gate
from wherry_controller.core.rollout import RolloutStatus, StoppedBy
from wherry_controller.services import plan as service
from wherry_controller.services import receipts
from wherry_controller.services.machines import state_of
from wherry_controller.services.plan import Wish
from wherry_controller.services.rollouts import Rollouts, rollout_of
from wherry_controller.store import devices, records, rollouts
from wherry_controller.store.database import Transaction
from wherry_controller.store.trust import get_release

router = APIRouter(tags=["rollouts"])


class StageWish(BaseModel):
    """A part of a rollout; without a gate of its own it has the rollout's."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=63, examples=["canary"])
    group: str = Field(examples=["canary"])
    gate: GateDocument | None = None


class RolloutWish(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(examples=["digits-v2"])
    model: str = Field(examples=["digits"])
    version: str = Field(examples=["v2"])
    alias: str = Field(default="default", examples=["default"])
    stages: list[StageWish] = Field(min_length=1, max_length=100)
    gate: GateDocument = Field(default_factory=dict, description="What every stage must show")
    probation_s: float = Field(default=60.0, ge=0, le=86_400)
    deadline_s: float = Field(default=3600.0, gt=0, le=30 * 86_400)
    needs: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict,
        max_length=64,
        description="The least release of other aliases that a device must have",
        examples=[{"detector": 3}],
    )
    policy: SwapPolicy = Field(
        default=SwapPolicy.AUTO, description="What is resident while one bundle follows another"
    )
    shadow: ShadowDocument | None = Field(
        default=None, description="Give the version copies of live requests before it answers any"
    )
    split: SplitDocument | None = Field(
        default=None, description="Let it answer a share of the requests as long as it is watched"
    )


class StageStatus(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    PASSED = "passed"
    HALTED = "halted"
    ENDED = "ended"


class Journey(BaseModel):
    """One device's part: `before` is what it served until then, null where that was nothing.

    `phase` is what a deployment in progress is at, `receipt` what the device attested of it.
    """

    device: str = Field(examples=["pi-1"])
    deployment: str | None
    bundle: str
    before: str | None
    status: Status | None = Field(description="null before the stage begins")
    phase: Phase | None
    reason: Reason | None
    detail: str
    ended_at: float | None
    receipt: Receipt | None


class Stage(BaseModel):
    """`verdict` is the last judgement, with the evidence of each device."""

    name: str
    group: str
    status: StageStatus
    gate: GateDocument
    began_at: float | None
    ended_at: float | None
    verdict: VerdictDocument | None
    devices: list[Journey]


class Rollout(BaseModel):
    """`stopped_by` says who decided first that it goes no further, `why` is the sentence.

    `release` counts the versions that were released under the alias.
    """

    name: str = Field(examples=["digits-v2"])
    model: str = Field(examples=["digits"])
    version: str = Field(examples=["v2"])
    alias: str = Field(examples=["default"])
    release: int | None
    groups: list[str]
    status: RolloutStatus
    stopped_by: StoppedBy | None
    why: str
    created_at: float
    ended_at: float | None


class RolloutDetail(Rollout):
    probation_s: float
    deadline_s: float
    needs: dict[str, int]
    policy: SwapPolicy
    shadow: ShadowDocument | None
    split: SplitDocument | None
    stages: list[Stage]
    ways_back: list[Journey] = Field(description="Of the devices that were ordered back")


Action: TypeAlias = Callable[[Rollouts, RolloutName, float], records.RolloutRecord]


@router.post("/rollouts", operation_id="create_rollout", status_code=status.HTTP_201_CREATED)
def create_rollout(here: Here, wish: RolloutWish, response: Response) -> RolloutDetail:
    """Create a rollout; it orders nothing before it is started."""
    wanted = _wish(wish)
    record = here.decide(lambda desk: desk.rollouts.create(wanted, here.clock()))
    response.headers["Location"] = f"{PREFIX}/rollouts/{record.name}"
    with here.store.reading() as tx:
        return _detail(tx, record)


@router.post("/rollouts/{rollout}/start", operation_id="start_rollout")
def start_rollout(here: Here, rollout: str) -> RolloutDetail:
    """Begin the first stage."""
    return _act(here, rollout, Rollouts.start)


@router.post("/rollouts/{rollout}/pause", operation_id="pause_rollout")
def pause_rollout(here: Here, rollout: str) -> RolloutDetail:
    """Begin no further stage until it is resumed."""
    return _act(here, rollout, Rollouts.pause)


@router.post("/rollouts/{rollout}/resume", operation_id="resume_rollout")
def resume_rollout(here: Here, rollout: str) -> RolloutDetail:
    """Go on where it was paused."""
    return _act(here, rollout, Rollouts.resume)


@router.post("/rollouts/{rollout}/cancel", operation_id="cancel_rollout")
def cancel_rollout(here: Here, rollout: str) -> RolloutDetail:
    """End it where it stands: devices under way go back, confirmed ones keep the version."""
    return _act(here, rollout, Rollouts.cancel)


@router.post("/rollouts/{rollout}/revert", operation_id="revert_rollout")
def revert_rollout(here: Here, rollout: str) -> RolloutDetail:
    """Order every device that it reached back to what it served before."""
    return _act(here, rollout, Rollouts.revert)


@router.get("/rollouts", operation_id="list_rollouts")
def list_rollouts(here: Here, asked: Asked) -> Page[Rollout]:
    """List the rollouts, the newest first."""
    with here.store.reading() as tx:
        return page(
            rollouts.list_rollouts(tx),
            asked,
            name=lambda rollout: rollout.name,
            show=lambda rollout: _rollout(tx, rollout),
        )


@router.get("/rollouts/{rollout}", operation_id="get_rollout")
def get_rollout(here: Here, rollout: str) -> RolloutDetail:
    """Show a rollout: its stages with verdicts, evidence and devices."""
    with here.store.reading() as tx:
        return _detail(tx, rollout_of(tx, parse_rollout_name(rollout)))


def _wish(wish: RolloutWish) -> Wish:
    return Wish(
        name=parse_rollout_name(wish.name),
        model=parse_model_name(wish.model),
        version=parse_version_name(wish.version),
        alias=parse_alias_name(wish.alias),
        stages=tuple(_stage_wish(stage) for stage in wish.stages),
        gate=struct_of(Gate, wish.gate),
        probation_s=wish.probation_s,
        deadline_s=wish.deadline_s,
        needs={parse_alias_name(alias): least for alias, least in wish.needs.items()},
        policy=wish.policy,
        shadow=None if wish.shadow is None else exact_struct_of(Shadow, wish.shadow),
        split=None if wish.split is None else exact_struct_of(Split, wish.split),
    )


def _stage_wish(stage: StageWish) -> service.StageWish:
    return service.StageWish(
        name=stage.name,
        group=parse_group_name(stage.group),
        gate=None if stage.gate is None else struct_of(Gate, stage.gate),
    )


def _act(here: Context, rollout: str, action: Action) -> RolloutDetail:
    name = parse_rollout_name(rollout)
    record = here.decide(lambda desk: action(desk.rollouts, name, here.clock()))
    with here.store.reading() as tx:
        return _detail(tx, record)


def _rollout(tx: Transaction, record: records.RolloutRecord) -> Rollout:
    state = state_of(record)
    release = get_release(tx, record.alias, record.model, record.version)
    return Rollout(
        name=record.name,
        model=record.model,
        version=record.version,
        alias=record.alias,
        release=None if release is None else release.counter,
        groups=list(record.groups),
        status=state.status,
        stopped_by=state.stopped_by,
        why=state.why,
        created_at=record.created_at,
        ended_at=record.ended_at,
    )


@dataclass(frozen=True, slots=True)
class Known:
    """What the database knows of a rollout's deployments, and its machine does not."""

    phases: Mapping[DeploymentId, Phase | None]
    receipts: Mapping[DeploymentId, Receipt]


def _known(tx: Transaction, rollout: RolloutName) -> Known:
    attested = receipts.of_rollout(tx, rollout)
    return Known(
        phases={one.id: one.phase for one in devices.journeys_of_rollout(tx, rollout)},
        receipts={one.says.deployment: receipt_of(one) for one in attested},
    )


def _detail(tx: Transaction, record: records.RolloutRecord) -> RolloutDetail:
    state = state_of(record)
    plan = state.plan
    known = _known(tx, record.name)
    return RolloutDetail(
        **_rollout(tx, record).model_dump(),
        probation_s=plan.probation_s,
        deadline_s=plan.deadline_s,
        needs={str(alias): least for alias, least in plan.needs.items()},
        policy=plan.policy,
        shadow=json_of(plan.shadow) if plan.shadow else None,
        split=json_of(plan.split) if plan.split else None,
        stages=[_stage(state, known, number, group) for number, group in enumerate(record.groups)],
        ways_back=[_journey(device, one, known) for device, one in state.ways_back.items()],
    )


def _stage(state: core.Rollout, known: Known, number: int, group: str) -> Stage:
    stage = state.plan.stages[number]
    record = state.records[number] if number < len(state.records) else None
    verdict = record.verdict if record else None
    return Stage(
        name=stage.name,
        group=group,
        status=_stage_status(record),
        gate=json_of(stage.gate),
        began_at=record.began_s if record else None,
        ended_at=record.ended_s if record else None,
        verdict=json_of(verdict) if verdict else None,
        devices=[
            _journey(device, state.journeys[device], known)
            if device in state.journeys
            else _waiting(device, bundle)
            for device, bundle in stage.bundles.items()
        ],
    )


def _stage_status(record: core.StageRecord | None) -> StageStatus:
    if record is None:
        return StageStatus.WAITING
    if record.ended_s is None:
        return StageStatus.RUNNING
    decision = record.verdict.decision if record.verdict else None
    if decision is Decision.PROMOTE:
        return StageStatus.PASSED
    return StageStatus.HALTED if decision is Decision.HALT else StageStatus.ENDED


def _journey(device: str, journey: core.Journey, known: Known) -> Journey:
    return Journey(
        device=device,
        deployment=journey.deployment,
        bundle=journey.bundle,
        before=journey.before,
        status=journey.status,
        phase=known.phases.get(journey.deployment),
        reason=journey.reason,
        detail=journey.detail,
        ended_at=journey.ended_s,
        receipt=known.receipts.get(journey.deployment),
    )


def _waiting(device: str, bundle: str) -> Journey:
    return Journey(
        device=device,
        deployment=None,
        bundle=bundle,
        before=None,
        status=None,
        phase=None,
        reason=None,
        detail="",
        ended_at=None,
        receipt=None,
    )
