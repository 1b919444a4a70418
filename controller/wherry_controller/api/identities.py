"""Who may become a device, over HTTP: tokens, keys that wait for approval, and revocation."""

from __future__ import annotations

from fastapi import APIRouter, Response, status
from pydantic import BaseModel, ConfigDict, Field

from wherry.names import DeviceId, parse_device_id, parse_profile_name
from wherry_controller.api.context import PREFIX, Here
from wherry_controller.api.documents import FactsDocument, json_of
from wherry_controller.core.identity import Certificate, Pending, TokenRecord, TokenState, state_of
from wherry_controller.services.fleet import device_of
from wherry_controller.store import devices, identities

router = APIRouter(tags=["identities"])


class TokenWish(BaseModel):
    """`profile` adds a device that is not there yet; a token lasts an hour unless it is said."""

    model_config = ConfigDict(extra="forbid")

    device: str = Field(examples=["pi-1"])
    profile: str | None = Field(default=None, examples=["pi-int8"])
    lifetime_s: float | None = Field(default=None, examples=[3600.0])


class EnrolmentToken(BaseModel):
    """A token without its secret; it serves one request for a certificate."""

    id: str = Field(examples=["5f0c9a1e"])
    device: str
    state: TokenState
    created_at: float
    expires_at: float
    used_at: float | None
    revoked_at: float | None


class GivenToken(EnrolmentToken):
    token: str = Field(description="What the device is given; it is told this once")
    controller: str = Field(description="The door", examples=["https://controller.example:8322"])


class PendingKey(BaseModel):
    """A key that asks to become a device; all but the fingerprint and the address is its word."""

    fingerprint: str
    device: str | None = Field(description="The name that it wishes for")
    profile: str | None
    facts: FactsDocument | None
    address: str
    asked_at: float
    seen_at: float


class Approval(BaseModel):
    """`profile` adds a device that is not there yet."""

    model_config = ConfigDict(extra="forbid")

    device: str = Field(examples=["pi-1"])
    profile: str | None = Field(default=None, examples=["pi-int8"])


class DeviceCertificate(BaseModel):
    """A certificate that a device was issued; `epoch` counts its enrolments."""

    serial: str
    epoch: int
    not_before: float
    not_after: float
    revoked_at: float | None


class Revoked(BaseModel):
    device: str
    certificates: int = Field(description="How many were revoked now")


class Authority(BaseModel):
    """The CA that devices pin, and the list of what it has revoked."""

    fingerprint: str = Field(description="The sha256 of its certificate")
    controller: str = Field(description="The door", examples=["https://controller.example:8322"])
    crl_number: int | None
    crl_ends_at: float | None


@router.post("/tokens", operation_id="create_token", status_code=status.HTTP_201_CREATED)
def create_token(here: Here, wish: TokenWish, response: Response) -> GivenToken:
    """Give out a token for one device."""
    device, now = parse_device_id(wish.device), here.clock()
    _add_device(here, device, wish.profile, now)
    given = here.decide(
        lambda desk: desk.identities.admission.create_token(
            device, lifetime_s=wish.lifetime_s, now=now
        )
    )
    response.headers["Location"] = f"{PREFIX}/tokens/{given.record.id}"
    return GivenToken(
        **_token(given.record, now).model_dump(), token=given.text, controller=here.door_url
    )


@router.get("/tokens", operation_id="list_tokens")
def list_tokens(here: Here) -> list[EnrolmentToken]:
    """List the tokens, the newest first."""
    now = here.clock()
    with here.store.reading() as tx:
        return [_token(one, now) for one in identities.list_tokens(tx)]


@router.delete(
    "/tokens/{token}", operation_id="revoke_token", status_code=status.HTTP_204_NO_CONTENT
)
def revoke_token(here: Here, token: str) -> None:
    """Take a token back."""
    here.decide(lambda desk: desk.identities.admission.revoke_token(token, now=here.clock()))


@router.get("/pending", operation_id="list_pending")
def list_pending(here: Here) -> list[PendingKey]:
    """List the keys that wait for approval, the oldest first."""
    with here.store.reading() as tx:
        return [_pending(one) for one in identities.list_pending(tx)]


@router.post("/pending/{fingerprint}/approval", operation_id="approve_key")
def approve_key(here: Here, fingerprint: str, approval: Approval) -> PendingKey:
    """Let a key that waits become a device; the fingerprint may be cut to 16 digits."""
    device, now = parse_device_id(approval.device), here.clock()
    _add_device(here, device, approval.profile, now)
    return _pending(
        here.decide(lambda desk: desk.identities.admission.approve(fingerprint, device, now=now))
    )


@router.delete("/pending/{fingerprint}", operation_id="reject_key")
def reject_key(here: Here, fingerprint: str) -> PendingKey:
    """Let a key that waits become no device."""
    now = here.clock()
    return _pending(
        here.decide(lambda desk: desk.identities.admission.reject(fingerprint, now=now))
    )


@router.get("/devices/{device}/certificates", operation_id="list_certificates")
def list_certificates(here: Here, device: str) -> list[DeviceCertificate]:
    """List the certificates that a device was issued, the newest first."""
    with here.store.reading() as tx:
        known = device_of(tx, parse_device_id(device)).id
        return [_certificate(one) for one in reversed(identities.certificates_of(tx, known))]


@router.post("/devices/{device}/revocation", operation_id="revoke_device")
def revoke_device(here: Here, device: str) -> Revoked:
    """Revoke a device's identity and cut it off; enrolling it again gives it a new one."""
    known = parse_device_id(device)
    count = here.decide(lambda desk: desk.identities.revoke(known, now=here.clock()))
    return Revoked(device=known, certificates=count)


@router.get("/authority", operation_id="get_authority")
def get_authority(here: Here) -> Authority:
    """Say which CA devices pin, and until when its list of revoked certificates is good."""
    crl = here.revocations.newest
    return Authority(
        fingerprint=here.ca,
        controller=here.door_url,
        crl_number=crl.number if crl else None,
        crl_ends_at=crl.ends_at if crl else None,
    )


def _add_device(here: Here, device: DeviceId, profile: str | None, now: float) -> None:
    """Add a device that is not there yet, where a profile is named for it."""
    if profile is None:
        return
    known = parse_profile_name(profile)
    with here.store.reading() as tx:
        is_there = devices.get_device(tx, device) is not None
    if not is_there:
        here.decide(lambda desk: desk.fleet.add_device(device, known, {}, now=now))


def _token(record: TokenRecord, now: float) -> EnrolmentToken:
    return EnrolmentToken(
        id=record.id,
        device=record.device,
        state=state_of(record, now),
        created_at=record.created_at,
        expires_at=record.expires_at,
        used_at=record.used_at,
        revoked_at=record.revoked_at,
    )


def _pending(pending: Pending) -> PendingKey:
    return PendingKey(
        fingerprint=pending.fingerprint,
        device=pending.device,
        profile=pending.profile,
        facts=json_of(pending.facts) if pending.facts else None,
        address=pending.address,
        asked_at=pending.asked_at,
        seen_at=pending.seen_at,
    )


def _certificate(one: Certificate) -> DeviceCertificate:
    return DeviceCertificate(
        serial=one.serial,
        epoch=one.epoch,
        not_before=one.not_before,
        not_after=one.not_after,
        revoked_at=one.revoked_at,
    )
