"""Rollouts over HTTP: create, start, follow and stop one version's way to some groups."""

from __future__ import annotations

from enum import StrEnum

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from wherry.messages import Reason, Status
from wherry.names import parse_rollout_name
from wherry_controller.api.context import Here
from wherry_controller.api.documents import GateDocument, VerdictDocument, json_of
from wherry_controller.api.pages import Asked, Page, page
from wherry_controller.core import rollout as core
from wherry_controller.core.gate import Decision
from wherry_controller.core.rollout import RolloutStatus, StoppedBy
from wherry_controller.services.machines import state_of
from wherry_controller.services.missing import UnknownRollout
from wherry_controller.store import records, rollouts
from wherry_controller.store.database import Transaction

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


class StageStatus(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    PASSED = "passed"
    HALTED = "halted"
    ENDED = "ended"


class Journey(BaseModel):
    """One device's part: `before` is what it served until then, null where that was nothing."""

    device: str = Field(examples=["pi-1"])
    deployment: str | None
    bundle: str
    before: str | None
    status: Status | None = Field(description="null before the stage begins")
    reason: Reason | None
    detail: str
    ended_at: float | None


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
    """`stopped_by` says who decided first that it goes no further, `why` is the sentence."""

    name: str = Field(examples=["digits-v2"])
    model: str = Field(examples=["digits"])
    version: str = Field(examples=["v2"])
    alias: str = Field(examples=["default"])
    groups: list[str]
    status: RolloutStatus
    stopped_by: StoppedBy | None
    why: str
    created_at: float
    ended_at: float | None


class RolloutDetail(Rollout):
    probation_s: float
    deadline_s: float
    stages: list[Stage]
    ways_back: list[Journey] = Field(description="Of the devices that were ordered back")


class Action(StrEnum):
    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    REVERT = "revert"


@router.get("/rollouts", operation_id="list_rollouts")
def list_rollouts(here: Here, asked: Asked) -> Page[Rollout]:
    """List the rollouts, the newest first."""
    with here.store.reading() as tx:
        found = rollouts.list_rollouts(tx)
    return page(found, asked, name=lambda rollout: rollout.name, show=_rollout)


@router.get("/rollouts/{rollout}", operation_id="get_rollout")
def get_rollout(here: Here, rollout: str) -> RolloutDetail:
    """Show a rollout: its stages with verdicts, evidence and devices."""
    with here.store.reading() as tx:
        return _detail(_record_of(tx, rollout))


def _record_of(tx: Transaction, rollout: str) -> records.RolloutRecord:
    record = rollouts.get_rollout(tx, parse_rollout_name(rollout))
    if record is None:
        raise UnknownRollout(rollout)
    return record


def _rollout(record: records.RolloutRecord) -> Rollout:
    state = state_of(record)
    return Rollout(
        name=record.name,
        model=record.model,
        version=record.version,
        alias=record.alias,
        groups=list(record.groups),
        status=state.status,
        stopped_by=state.stopped_by,
        why=state.why,
        created_at=record.created_at,
        ended_at=record.ended_at,
    )


def _detail(record: records.RolloutRecord) -> RolloutDetail:
    state = state_of(record)
    plan = state.plan
    return RolloutDetail(
        **_rollout(record).model_dump(),
        probation_s=plan.probation_s,
        deadline_s=plan.deadline_s,
        stages=[_stage(state, number, group) for number, group in enumerate(record.groups)],
        ways_back=[_journey(device, journey) for device, journey in state.ways_back.items()],
    )


def _stage(state: core.Rollout, number: int, group: str) -> Stage:
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
            _journey(device, state.journeys[device])
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


def _journey(device: str, journey: core.Journey) -> Journey:
    return Journey(
        device=device,
        deployment=journey.deployment,
        bundle=journey.bundle,
        before=journey.before,
        status=journey.status,
        reason=journey.reason,
        detail=journey.detail,
        ended_at=journey.ended_s,
    )


def _waiting(device: str, bundle: str) -> Journey:
    return Journey(
        device=device,
        deployment=None,
        bundle=bundle,
        before=None,
        status=None,
        reason=None,
        detail="",
        ended_at=None,
    )
