"""Builds over HTTP: order one, and follow it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response, status
from pydantic import BaseModel, ConfigDict, Field

from wherry.names import parse_model_name, parse_profile_name, parse_version_name
from wherry_controller.api.context import PREFIX, Here
from wherry_controller.api.models import Variant, variant
from wherry_controller.api.pages import Asked, Page, page
from wherry_controller.services.builds import build_of
from wherry_controller.store import models, records
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import BuildStatus

router = APIRouter(tags=["builds"])


class BuildOrder(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: str = Field(examples=["digits"])
    version: str = Field(examples=["v1"])
    profiles: list[str] = Field(min_length=1, max_length=100, examples=[["pi-int8", "x86-fp32"]])


class Progress(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    step: str = Field(examples=["quantizing pi-int8"])
    done: int = Field(examples=[3])
    total: int = Field(examples=[9])


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
    created_at: float
    started_at: float | None
    ended_at: float | None


class BuildDetail(Build):
    variants: list[Variant] = Field(description="Those of the build's profiles that stand so far")


@router.post("/builds", operation_id="order_build", status_code=status.HTTP_202_ACCEPTED)
def order_build(here: Here, order: BuildOrder, response: Response) -> BuildDetail:
    """Queue a build of a version for some profiles; follow it at the address in `Location`."""
    build = here.builds.order(
        parse_model_name(order.model),
        parse_version_name(order.version),
        [parse_profile_name(profile) for profile in order.profiles],
    )
    response.headers["Location"] = f"{PREFIX}/builds/{build.id}"
    with here.store.reading() as tx:
        return _detail(tx, build)


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


def _detail(tx: Transaction, build: records.Build) -> BuildDetail:
    made = models.list_variants(tx, build.model, build.version)
    variants = [variant(tx, one) for one in made if one.profile in build.profiles]
    return BuildDetail(**Build.model_validate(build).model_dump(), variants=variants)
