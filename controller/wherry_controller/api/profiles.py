"""Profiles over HTTP: declare them as TOML or JSON, and read them back."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from wherry import codec
from wherry.errors import Malformed
from wherry.names import parse_profile_name
from wherry.profile import Profile
from wherry_controller.api.context import Here
from wherry_controller.api.documents import ProfileDocument, json_of, schema_of
from wherry_controller.api.pages import Asked, Page, page
from wherry_controller.core.written import LARGEST_FILE_BYTES, parse_profile
from wherry_controller.services.models import known_profiles
from wherry_controller.store import models

router = APIRouter(tags=["profiles"])

TOML = "application/toml"
EXAMPLE = """\
name = "pi-int8"
arch = "aarch64"
runtime = "onnxruntime"
runtime_floor = "1.23"
runtime_below = "2"
precisions = ["int8"]
"""


class OtherName(Malformed):
    """A profile that was put under another name than it has."""

    def __init__(self, address: str, name: str) -> None:
        super().__init__(address, name)
        self.address, self.name = address, name

    def __str__(self) -> str:
        return (
            f"the profile says that its name is {self.name!r} and was sent as {self.address!r}: "
            "make the two agree."
        )


async def _sent(request: Request) -> Profile:
    body = await request.body()
    if request.headers.get("content-type", "").startswith("application/json"):
        return codec.decode(Profile, body, limit_bytes=LARGEST_FILE_BYTES)
    return parse_profile(body)


@router.put(
    "/profiles/{profile}",
    operation_id="put_profile",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                TOML: {"schema": {"type": "string"}, "example": EXAMPLE},
                "application/json": {"schema": schema_of(Profile)},
            },
        }
    },
)
def put_profile(
    here: Here, profile: str, sent: Annotated[Profile, Depends(_sent)]
) -> ProfileDocument:
    """Declare a profile, or replace it; what was built for it stays as it is."""
    if parse_profile_name(profile) != sent.name:
        raise OtherName(profile, sent.name)
    with here.store.transaction() as tx:
        models.save_profile(tx, sent)
    return json_of(sent)


@router.get("/profiles", operation_id="list_profiles")
def list_profiles(here: Here, asked: Asked) -> Page[ProfileDocument]:
    """List the profiles by name."""
    with here.store.reading() as tx:
        found = models.list_profiles(tx)
    return page(found, asked, name=lambda profile: profile.name, show=json_of)


@router.get("/profiles/{profile}", operation_id="get_profile")
def get_profile(here: Here, profile: str) -> ProfileDocument:
    """Show one profile."""
    with here.store.reading() as tx:
        (found,) = known_profiles(tx, [parse_profile_name(profile)])
    return json_of(found)
