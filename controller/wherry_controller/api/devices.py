"""Devices over HTTP: add one, see what it says and was told, see what it did, remove it."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Response, status
from pydantic import BaseModel, ConfigDict, Field

from wherry.names import DeviceId, parse_device_id, parse_profile_name
from wherry.reasons import Phase, Reason, Status
from wherry_controller.api.context import PREFIX, Desk, Here
from wherry_controller.api.documents import EventDocument, ReportedDocument, json_of
from wherry_controller.api.pages import Asked, Page, page
from wherry_controller.api.receipts import Receipt, receipt_of
from wherry_controller.services import receipts
from wherry_controller.services.fleet import device_of
from wherry_controller.store import devices, identities, records, telemetry
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import Flag

router = APIRouter(tags=["devices"])

MOST_DEPLOYMENTS_SHOWN = 20
MOST_RECEIPTS_SHOWN = 20


class DeviceWish(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: str = Field(examples=["pi-1"])
    profile: str = Field(examples=["pi-int8"])
    tags: dict[str, str] = Field(default_factory=dict, max_length=50, examples=[{"site": "oslo"}])


class Device(BaseModel):
    """`reported` is what the device last said of itself, `generation` what was last ordered.

    `epoch` counts its enrolments, 0 before the first; `flagged` says what is wrong with its
    identity until it is enrolled again. `order_ends_at` is when its order ends, unless renewed.
    """

    id: str = Field(examples=["pi-1"])
    profile: str = Field(examples=["pi-int8"])
    tags: dict[str, str]
    registered_at: float
    online: bool
    last_seen_at: float | None
    generation: int
    order_ends_at: float | None
    epoch: int
    flagged: Flag | None
    reported: ReportedDocument | None


class Deployment(BaseModel):
    """One journey of the device to one bundle."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    rollout: str | None
    alias: str = Field(examples=["default"])
    bundle: str
    status: Status
    phase: Phase | None
    reason: Reason | None
    detail: str
    ordered_at: float
    started_at: float | None
    ended_at: float | None


class DeviceDetail(Device):
    """`certificate_ends_at` and `revoked_at` are of its newest certificate: None where none is."""

    certificate_ends_at: float | None
    revoked_at: float | None
    deployments: list[Deployment] = Field(
        description=f"The newest {MOST_DEPLOYMENTS_SHOWN}, the newest first"
    )
    receipts: list[Receipt] = Field(
        description=f"What it attested: the newest {MOST_RECEIPTS_SHOWN}, the newest first"
    )


class Happened(BaseModel):
    event: EventDocument
    received_at: float


@router.post("/devices", operation_id="add_device", status_code=status.HTTP_201_CREATED)
def add_device(here: Here, wish: DeviceWish, response: Response) -> Device:
    """Add a device; a token lets it enrol."""
    device, profile = parse_device_id(wish.id), parse_profile_name(wish.profile)
    added = here.decide(
        lambda desk: desk.fleet.add_device(device, profile, wish.tags, now=here.clock())
    )
    response.headers["Location"] = f"{PREFIX}/devices/{device}"
    with here.store.reading() as tx:
        return _device(tx, added)


@router.get("/devices", operation_id="list_devices")
def list_devices(here: Here, asked: Asked) -> Page[Device]:
    """List the devices by id."""
    with here.store.reading() as tx:
        return page(
            devices.list_devices(tx),
            asked,
            name=lambda device: device.id,
            show=lambda device: _device(tx, device),
        )


@router.get("/devices/{device}", operation_id="get_device")
def get_device(here: Here, device: str) -> DeviceDetail:
    """Show a device with its newest deployments."""
    with here.store.reading() as tx:
        found = device_of(tx, parse_device_id(device))
        journeys = devices.journeys_of_device(tx, found.id)[:MOST_DEPLOYMENTS_SHOWN]
        attested = receipts.of_device(tx, found.id)[:MOST_RECEIPTS_SHOWN]
        newest = next(reversed(identities.certificates_of(tx, found.id)), None)
        return DeviceDetail(
            **_device(tx, found).model_dump(),
            certificate_ends_at=newest.not_after if newest else None,
            revoked_at=newest.revoked_at if newest else None,
            deployments=[Deployment.model_validate(journey) for journey in journeys],
            receipts=[receipt_of(one) for one in attested],
        )


@router.get("/devices/{device}/events", operation_id="list_events")
def list_events(here: Here, device: str) -> list[Happened]:
    """List the device's newest events, the newest first: its history, refusals and flips too."""
    with here.store.reading() as tx:
        found = telemetry.list_events(tx, device_of(tx, parse_device_id(device)).id)
    return [
        Happened(received_at=one.received_at, event=msgspec.json.decode(one.body)) for one in found
    ]


@router.delete(
    "/devices/{device}", operation_id="remove_device", status_code=status.HTTP_204_NO_CONTENT
)
def remove_device(here: Here, device: str) -> None:
    """Remove a device and everything that is known of it."""
    known: DeviceId = parse_device_id(device)
    now = here.clock()

    def work(desk: Desk) -> None:
        desk.fleet.remove_device(known, now=now)
        desk.identities.forget(known, now=now)

    here.decide(work)


def _device(tx: Transaction, device: records.Device) -> Device:
    desired = devices.get_desired(tx, device.id)
    return Device(
        id=device.id,
        profile=device.profile,
        tags=device.tags,
        registered_at=device.registered_at,
        online=device.online,
        last_seen_at=device.last_seen_at,
        generation=desired.generation,
        order_ends_at=desired.expires_at or None,
        epoch=device.epoch,
        flagged=device.flagged,
        reported=json_of(device.reported) if device.reported else None,
    )
