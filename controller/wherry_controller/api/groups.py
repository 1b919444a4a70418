"""Groups over HTTP: named sets of devices."""

from __future__ import annotations

from fastapi import APIRouter, status
from pydantic import BaseModel, ConfigDict, Field

from wherry.names import parse_device_id, parse_group_name
from wherry_controller.api.context import Here
from wherry_controller.api.pages import Asked, Page, page
from wherry_controller.services.fleet import group_of
from wherry_controller.store import devices

router = APIRouter(tags=["groups"])


class Members(BaseModel):
    model_config = ConfigDict(extra="forbid")

    devices: list[str] = Field(max_length=100_000, examples=[["pi-1", "pi-2"]])


class Group(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    name: str = Field(examples=["canary"])
    devices: list[str] = Field(examples=[["pi-1", "pi-2"]])


@router.put("/groups/{group}", operation_id="put_group")
def put_group(here: Here, group: str, members: Members) -> Group:
    """Make a group hold exactly these devices; rollouts that run are not changed by it."""
    name = parse_group_name(group)
    ids = [parse_device_id(device) for device in members.devices]
    return Group.model_validate(here.decide(lambda desk: desk.fleet.set_group(name, ids)))


@router.get("/groups", operation_id="list_groups")
def list_groups(here: Here, asked: Asked) -> Page[Group]:
    """List the groups by name."""
    with here.store.reading() as tx:
        found = devices.list_groups(tx)
    return page(found, asked, name=lambda group: group.name, show=Group.model_validate)


@router.get("/groups/{group}", operation_id="get_group")
def get_group(here: Here, group: str) -> Group:
    """Show a group."""
    with here.store.reading() as tx:
        return Group.model_validate(group_of(tx, parse_group_name(group)))


@router.delete(
    "/groups/{group}", operation_id="remove_group", status_code=status.HTTP_204_NO_CONTENT
)
def remove_group(here: Here, group: str) -> None:
    """Remove a group, not its devices."""
    name = parse_group_name(group)
    here.decide(lambda desk: desk.fleet.remove_group(name))
