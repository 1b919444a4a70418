"""Builds over HTTP: order one or many, follow them, read their logs, cancel them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response, status
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from wherry.names import ProfileName, parse_model_name, parse_profile_name, parse_version_name
from wherry.reasons import Reason
from wherry_controller.api.context import PREFIX, Context, Here
from wherry_controller.api.models import Variant, variant
from wherry_controller.api.pages import Asked, Page, page
from wherry_controller.services.builds import Scope, build_of
from wherry_controller.services.missing import UnknownLog
from wherry_controller.store import models, records
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import BuildStatus
from wherry_controller.store.trials import trials_of_build

router = APIRouter(tags=["builds"])

PLAIN = "text/plain; charset=utf-8"


Profiles = Annotated[
    list[str],
    Field(
        max_length=100,
        description="All that are declared if none is named",
        examples=[["pi-int8", "x86-fp32"]],
    ),
]


MeasureOn = Annotated[
    str | None,
    Field(
        max_length=63,
        description="A group or a device: idle devices of each profile there measure candidates",
        examples=["lab"],
    ),
]


class BuildOrder(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: str = Field(examples=["digits"])
    version: str = Field(examples=["v1"])
    profiles: Profiles = []
    measure_on: MeasureOn = None


class BatchOrder(BaseModel):
    model_config = ConfigDict(extra="forbid")

    models: list[str] = Field(
        default=[], max_length=1000, description="All if none is named", examples=[["digits"]]
    )
    profiles: Profiles = []
    scope: Scope = Field(
        default=Scope.NEWEST,
        description="The newest version of each model that no build refused, or every such one",
    )
    measure_on: MeasureOn = None


class ProfileProgress(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    step: str = Field(examples=["quantizing"])
    done: int = Field(examples=[3])
    total: int = Field(examples=[9])


class Progress(BaseModel):
    """What the builder said last, and what it said last of each profile."""

    model_config = ConfigDict(from_attributes=True)

    step: str = Field(examples=["quantizing pi-int8"])
    done: int = Field(examples=[3])
    total: int = Field(examples=[9])
    profiles: dict[str, ProfileProgress]


class Build(BaseModel):
    """`reason` and `detail` say why it was refused or failed."""

    model_config = ConfigDict(from_attributes=True)

    id: str = Field(examples=["3f0c9a12b7de"])
    model: str = Field(examples=["digits"])
    version: str = Field(examples=["v1"])
    profiles: list[str] = Field(examples=[["pi-int8", "x86-fp32"]])
    status: BuildStatus
    reason: str = Field(examples=["output_not_finite"])
    detail: str
    progress: Progress
    attempts: int = Field(description="Runs that no orderly stop of the controller ended")
    measure_on: str | None = Field(examples=["lab"])
    created_at: float
    started_at: float | None
    ended_at: float | None


class TrialFigures(BaseModel):
    """One row's compute time, and the worker's memory: before the model, and at most."""

    model_config = ConfigDict(from_attributes=True)

    runtime_version: str
    runs: int
    p50_ms: float
    p99_ms: float
    load_ms: float
    memory_bytes: int
    base_bytes: int
    temperature_before_c: float | None
    temperature_after_c: float | None


class TrialResult(BaseModel):
    """A device that gives the golden outputs is faithful; null: it did not come so far."""

    model_config = ConfigDict(from_attributes=True)

    faithful: bool | None
    figures: TrialFigures | None
    reason: Reason | None
    detail: str


class Trial(BaseModel):
    """A candidate that one device was asked to measure; no result: it has not answered."""

    model_config = ConfigDict(from_attributes=True)

    device: str = Field(examples=["pi-1"])
    profile: str
    recipe: str
    bundle: str
    result: TrialResult | None
    ordered_at: float
    ended_at: float | None


class BuildDetail(Build):
    variants: list[Variant] = Field(description="Those of the build's profiles that stand so far")
    trials: list[Trial] = Field(description="What devices were asked to measure of its candidates")


@router.post("/builds", operation_id="order_build", status_code=status.HTTP_202_ACCEPTED)
def order_build(here: Here, order: BuildOrder, response: Response) -> BuildDetail:
    """Queue a build of a version for some profiles; follow it at the address in `Location`."""
    build = here.builds.order(
        parse_model_name(order.model),
        parse_version_name(order.version),
        [parse_profile_name(profile) for profile in order.profiles],
        measure_on=order.measure_on,
    )
    response.headers["Location"] = f"{PREFIX}/builds/{build.id}"
    with here.store.reading() as tx:
        return _detail(tx, build)


@router.post("/builds/batch", operation_id="order_builds", status_code=status.HTTP_202_ACCEPTED)
def order_builds(here: Here, order: BatchOrder) -> Page[Build]:
    """Queue a build of each version that no build refused, for all of some profiles."""
    builds = here.builds.order_all(
        [parse_model_name(model) for model in order.models],
        [parse_profile_name(profile) for profile in order.profiles],
        order.scope,
        measure_on=order.measure_on,
    )
    return Page(items=[Build.model_validate(build) for build in builds])


@router.get("/builds", operation_id="list_builds")
def list_builds(
    here: Here, asked: Asked, model: Annotated[str | None, Query()] = None
) -> Page[Build]:
    """List builds, the newest first; those of one model if it is given."""
    with here.store.reading() as tx:
        found = [one for one in models.list_builds(tx) if model in (None, one.model)]
    return page(found, asked, name=lambda one: one.id, show=Build.model_validate)


@router.get("/builds/{build}", operation_id="get_build")
def get_build(here: Here, build: str) -> BuildDetail:
    """Show one build: how far it is, or how it ended."""
    with here.store.reading() as tx:
        return _detail(tx, build_of(tx, build))


@router.post("/builds/{build}/cancel", operation_id="cancel_build")
def cancel_build(here: Here, build: str) -> BuildDetail:
    """Let a build never begin, or kill it; what it built so far stands."""
    canceled = here.builds.cancel(build)
    with here.store.reading() as tx:
        return _detail(tx, canceled)


@router.get(
    "/builds/{build}/log",
    operation_id="get_build_log",
    response_class=PlainTextResponse,
)
def get_build_log(here: Here, build: str) -> Response:
    """Give the end of what all profiles of a build share of its log."""
    return _log(here, build, None)


@router.get(
    "/builds/{build}/logs/{profile}",
    operation_id="get_profile_log",
    response_class=PlainTextResponse,
)
def get_profile_log(here: Here, build: str, profile: str) -> Response:
    """Give the end of the log of a profile's part of a build."""
    return _log(here, build, parse_profile_name(profile))


def _log(here: Context, build: str, profile: ProfileName | None) -> Response:
    with here.store.reading() as tx:
        found = build_of(tx, build)
    log = here.builds.log(found, profile)
    if log is None:
        raise UnknownLog(f"{build} {profile or ''}".strip())
    return Response(log, media_type=PLAIN)


def _detail(tx: Transaction, build: records.Build) -> BuildDetail:
    made = models.list_variants(tx, build.model, build.version)
    variants = [variant(tx, one) for one in made if one.profile in build.profiles]
    asked = [Trial.model_validate(one) for one in trials_of_build(tx, build.id)]
    known = Build.model_validate(build).model_dump()
    return BuildDetail(**known, variants=variants, trials=asked)
