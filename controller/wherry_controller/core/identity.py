"""Who may become a device, stay one, and be one no more.

    token, or a key that an operator approved --> certificate --renewal--> certificate --> …
    enrolling again, or revoking ----------------> every certificate of the device is revoked

One live identity a device: an enrolment revokes all that were before and raises the epoch; a
renewal keeps the epoch, and the certificate before it lasts to its own end. A token serves one
request for a certificate, which may be sent again until the token ends: its answer may have been
lost. A certificate that ended may be renewed for a while, by whoever has its key.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from wherry.errors import Malformed, Untrusted
from wherry.names import DeviceId, Digest, ProfileName
from wherry.profile import Facts


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A token for enrolling one device; `digest` is the sha256 of its secret.

    `csr` is the digest of the one request that it served.
    """

    id: str
    digest: str
    device: DeviceId
    created_at: float
    expires_at: float
    used_at: float | None = None
    csr: Digest | None = None
    revoked_at: float | None = None


class TokenState(StrEnum):
    """What a token is good for; only an open one enrols."""

    OPEN = "open"
    USED = "used"
    EXPIRED = "expired"
    REVOKED = "revoked"


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate that was issued to a device; `renews` is the serial of the one before."""

    serial: str
    device: DeviceId
    epoch: int
    csr: Digest
    fingerprint: Digest
    pem: str
    not_before: float
    not_after: float
    issued_at: float
    renews: str | None = None
    revoked_at: float | None = None


class Decision(StrEnum):
    """What became of a key that waits."""

    WAITING = "waiting"
    APPROVED = "approved"
    REJECTED = "rejected"


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """A key that asked without a token; `device` and `profile` are wishes until it is approved."""

    fingerprint: Digest
    csr: Digest
    device: DeviceId | None
    profile: ProfileName | None
    facts: Facts | None
    address: str
    asked_at: float
    seen_at: float
    decision: Decision = Decision.WAITING
    decided_at: float | None = None


class UnknownToken(Untrusted):
    """A secret that belongs to no token."""

    def __str__(self) -> str:
        return "no such token was given out: make one with `wherry token create`."


class TokenUsed(Untrusted):
    """A token that served another request already."""

    def __init__(self, token: str, device: str) -> None:
        super().__init__(token, device)
        self.token, self.device = token, device

    def __str__(self) -> str:
        return (
            f"token {self.token} has enrolled {self.device} already: if that was not you, run "
            f"`wherry device revoke {self.device}`; make a new one with `wherry token create`."
        )


class TokenExpired(Untrusted):
    """A token whose time is over."""

    def __init__(self, token: str) -> None:
        super().__init__(token)
        self.token = token

    def __str__(self) -> str:
        return f"the time of token {self.token} is over: make a new one with `wherry token create`."


class TokenRevoked(Untrusted):
    """A token that an operator took back."""

    def __init__(self, token: str) -> None:
        super().__init__(token)
        self.token = token

    def __str__(self) -> str:
        return f"token {self.token} was revoked: make a new one with `wherry token create`."


class OtherDevice(Untrusted):
    """A token or an approval for another device than the one that asks."""

    def __init__(self, named: str, asked: str) -> None:
        super().__init__(named, asked)
        self.named, self.asked = named, asked

    def __str__(self) -> str:
        return (
            f"it enrols {self.named} and {self.asked} asks: "
            f"make a token for {self.asked}, or enrol in another home."
        )


class KeyRejected(Untrusted):
    """A key that an operator rejected."""

    def __init__(self, fingerprint: str) -> None:
        super().__init__(fingerprint)
        self.fingerprint = fingerprint

    def __str__(self) -> str:
        return f"the key {self.fingerprint[:16]} was rejected: ask the operator for a token."


class UnknownCertificate(Untrusted):
    """A certificate that this controller has not issued to that device."""

    def __init__(self, device: str, serial: str) -> None:
        super().__init__(device, serial)
        self.device, self.serial = device, serial

    def __str__(self) -> str:
        return f"{self.device} has no certificate {self.serial[:12]} here: enrol it again."


class CertificateRevoked(Untrusted):
    """A certificate that was revoked, by an operator or by a newer enrolment."""

    def __init__(self, device: str, serial: str) -> None:
        super().__init__(device, serial)
        self.device, self.serial = device, serial

    def __str__(self) -> str:
        return f"the certificate {self.serial[:12]} of {self.device} is revoked: enrol it again."


class GraceOver(Untrusted):
    """A certificate that ended too long ago to be renewed."""

    def __init__(self, device: str, ended_at: float) -> None:
        super().__init__(device, ended_at)
        self.device, self.ended_at = device, ended_at

    def __str__(self) -> str:
        return (
            f"the certificate of {self.device} ended too long ago to be renewed: enrol it again, "
            "or raise door.renew_grace_s in wherry.toml."
        )


class RenewedAlready(Untrusted):
    """A certificate that two newer ones have followed."""

    def __init__(self, device: str, serial: str) -> None:
        super().__init__(device, serial)
        self.device, self.serial = device, serial

    def __str__(self) -> str:
        return (
            f"the certificate {self.serial[:12]} of {self.device} was renewed and its successor "
            "too: if two machines have this identity, enrol the right one again."
        )


class BadProof(Untrusted):
    """A renewal that the key of the old certificate did not sign, or did not sign for this."""

    def __init__(self, device: str, problem: str) -> None:
        super().__init__(device, problem)
        self.device, self.problem = device, problem

    def __str__(self) -> str:
        return (
            f"the proof for {self.device} {self.problem}: sign with the key it was enrolled with."
        )


class BadLifetime(Malformed):
    """A lifetime that no token may have."""

    def __init__(self, lifetime_s: float, longest_s: float) -> None:
        super().__init__(lifetime_s, longest_s)
        self.lifetime_s, self.longest_s = lifetime_s, longest_s

    def __str__(self) -> str:
        return (
            f"a token cannot last {self.lifetime_s:.0f} s: "
            f"choose from 1 to {self.longest_s:.0f} seconds."
        )


def state_of(token: TokenRecord, now: float) -> TokenState:
    """Return what a token is good for now."""
    if token.revoked_at is not None:
        return TokenState.REVOKED
    if token.used_at is not None:
        return TokenState.USED
    return TokenState.EXPIRED if now >= token.expires_at else TokenState.OPEN


def judge_token(token: TokenRecord, csr: Digest, asked: DeviceId | None, now: float) -> None:
    """Let a token serve a request, a first time or the same again; raise where it may not."""
    if token.revoked_at is not None:
        raise TokenRevoked(token.id)
    if token.csr not in (None, csr):
        raise TokenUsed(token.id, token.device)
    if now >= token.expires_at:
        raise TokenExpired(token.id)
    judge_name(token.device, asked)


def judge_name(named: DeviceId, asked: DeviceId | None) -> None:
    """Let a device be the one that is named, or say no name; raise `OtherDevice`."""
    if asked not in (None, named):
        raise OtherDevice(named, asked)


def certificate_in(held: Iterable[Certificate], device: DeviceId, serial: str) -> Certificate:
    """Return the certificate with this serial, of all that `device` holds.

    Raises `UnknownCertificate`.
    """
    for one in held:
        if one.serial == serial:
            return one
    raise UnknownCertificate(device, serial)


def judge_renewal(
    held: Iterable[Certificate], old: Certificate, *, at: float, now: float, grace_s: float
) -> None:
    """Let `old`, one of all that its device holds, be renewed; raise where it may not be.

    `at` is when the proof was made by the device's time, which signed times have raised: one from
    before the certificate was made nobody honest has. A clock that runs ahead is no reason to
    lock a device out, so a later one is let be.
    """
    if old.revoked_at is not None:
        raise CertificateRevoked(old.device, old.serial)
    if now > old.not_after + grace_s:
        raise GraceOver(old.device, old.not_after)
    newest = newest_of(held)
    if newest is not None and old.serial not in (newest.serial, newest.renews):
        raise RenewedAlready(old.device, old.serial)
    if at < old.not_before:
        raise BadProof(old.device, "is from before the certificate was made")


def newest_of(held: Iterable[Certificate]) -> Certificate | None:
    """Return the certificate that no other one renews, of those that are not revoked."""
    live = live_of(held)
    renewed = {one.renews for one in live}
    return next((one for one in live if one.serial not in renewed), None)


def replaced_by_renewal(held: Iterable[Certificate], old: Certificate) -> tuple[Certificate, ...]:
    """Return what a renewal of `old` revokes: an earlier renewal of it, which never arrived.

    So no more than two certificates of a device are valid at once.
    """
    return tuple(one for one in held if one.renews == old.serial and one.revoked_at is None)


def live_of(held: Iterable[Certificate]) -> tuple[Certificate, ...]:
    """Return what revoking a device revokes: ended ones too, for those could be renewed."""
    return tuple(one for one in held if one.revoked_at is None)


def next_epoch(held: Iterable[Certificate]) -> int:
    """Return the epoch of the next enrolment, beyond all that a name ever had."""
    return 1 + max((one.epoch for one in held), default=0)
