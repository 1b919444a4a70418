"""The controller's root of trust over HTTP: how it stands, and what others sign for it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from wherry_controller.api.context import Here
from wherry_controller.services.standing import files_of, publish_files, standing_of

router = APIRouter(tags=["trust"])

MOST_FILES = 1024
LARGEST_FILE = 1 << 20
File = Annotated[str, Field(max_length=LARGEST_FILE)]


class RoleStanding(BaseModel):
    """Who may sign a role; `is_here`: the controller does by itself."""

    model_config = ConfigDict(from_attributes=True)

    role: str = Field(examples=["timestamp"])
    version: int
    expires_at: float
    sign_again_at: float
    keyids: list[str]
    threshold: int
    is_here: bool


class Waiting(BaseModel):
    """A changed bin that the bundle key has not signed yet."""

    model_config = ConfigDict(from_attributes=True)

    role: str = Field(examples=["bins-0f"])
    version: int
    since: float


class Release(BaseModel):
    """A version under an alias; below `minimum` no device takes it any more."""

    model_config = ConfigDict(from_attributes=True)

    alias: str
    model: str
    version: str
    counter: int
    minimum: int


class Trust(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    roles: list[RoleStanding]
    waiting: list[Waiting]
    releases: list[Release]


class TrustFiles(BaseModel):
    """TUF metadata by file name, each as it was signed."""

    files: dict[str, str] = Field(examples=[{"1.root.json": "{…}"}])


class SignedFiles(BaseModel):
    """TUF metadata; copies of one document may hold different signatures."""

    model_config = ConfigDict(extra="forbid")

    files: list[File] = Field(min_length=1, max_length=MOST_FILES)


class PublishedFiles(BaseModel):
    names: list[str] = Field(examples=[["root/2", "bins-0f/3"]])


@router.get("/trust", operation_id="get_trust")
def get_trust(here: Here) -> Trust:
    """Show each role with its keys and its end, what waits for a signature, and the releases."""
    with here.store.reading() as tx:
        return Trust.model_validate(standing_of(tx, here.trust))


@router.get("/trust/files", operation_id="get_trust_files")
def get_trust_files(here: Here) -> TrustFiles:
    """Give root, targets and the bins that wait, to be changed or signed on other machines."""
    with here.store.reading() as tx:
        return TrustFiles(files=files_of(tx, here.trust))


@router.post("/trust/files", operation_id="publish_trust_files")
def publish_trust_files(here: Here, signed: SignedFiles) -> PublishedFiles:
    """Publish root, targets or bins that were signed elsewhere: all of them, or none."""
    files = [file.encode() for file in signed.files]
    names = publish_files(here.store, here.trust, files, here.clock())
    here.decide(lambda desk: desk.fleet.publish(here.clock()))
    return PublishedFiles(names=list(names))
