"""How a device gets its identity: what it and the controller's device door say to one another.

    device --EnrolRequest(csr, token)--> door --Enrolled(certificate, root of trust)--> device
    device --EnrolRequest(csr)---------> door --Waiting(fingerprint)--> device asks again later
    device --RenewRequest(new csr, proof by the old key)--> door --Enrolled--> device

The same request may be sent again until it is answered: its answer is the same. The name in the
certificate is the token's, or the one that an operator approved, whatever the request says. A
token's text carries the fingerprint of the controller's CA, so that a device knows its door
before it trusts anything. Requests and certificates are PEM; this module reads neither.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Annotated

import msgspec

from wherry.errors import Malformed
from wherry.measures import Count
from wherry.names import DeviceId, Digest, ProfileName
from wherry.profile import Facts

LARGEST_REQUEST_BYTES = 32 << 10
LARGEST_ANSWER_BYTES = 1 << 20

ENROL_PATH = "/v1/enrol"
RENEW_PATH = "/v1/renew"
CA_PATH = "/v1/ca"
BLOBS_PATH = "/v1/blobs"

_TOKEN = re.compile(r"wt1\.([A-Za-z0-9_-]{43})\.([A-Za-z0-9_-]{43})")
_Pem = Annotated[str, msgspec.Meta(max_length=8192)]
_Signature = Annotated[str, msgspec.Meta(max_length=512)]


class BadToken(Malformed):
    """A text that is no token for enrolling."""

    def __str__(self) -> str:
        return "this is no token: copy the whole text that `wherry token create` printed."


class BadFingerprint(Malformed):
    """A text that is no fingerprint."""

    def __str__(self) -> str:
        return (
            "this is no fingerprint: copy the 64 digits that `wherry token ca` or "
            "`wherry device pending` printed."
        )


@dataclass(frozen=True, slots=True)
class Token:
    """`secret` is for the door alone; `ca` is the fingerprint of the door's CA."""

    secret: str
    ca: Digest


class EnrolRequest(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.enrol/1"
):
    """`token` is the secret of one. `device` and `profile` are wishes: the controller decides."""

    csr: _Pem
    token: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    device: DeviceId | None = None
    profile: ProfileName | None = None
    facts: Facts | None = None
    critical: tuple[str, ...] = ()


class Renewal(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.renewal/1"
):
    """What the old key signs: a new request, for whom, with which certificate, and when."""

    device: DeviceId
    serial: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{1,40}\Z")]
    csr: _Pem
    at: Count
    critical: tuple[str, ...] = ()


class RenewRequest(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.renew/1"
):
    """`signature` is ECDSA (P-256, SHA-256) in hexadecimal over the bytes of `renewal`."""

    renewal: msgspec.Raw
    signature: _Signature
    critical: tuple[str, ...] = ()


class Enrolled(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.enrolled/1"
):
    """A device's new identity, and where it finds the controller; `root` is TUF's root.

    Times are UNIX seconds; `at` is the controller's clock.
    """

    device: DeviceId
    profile: ProfileName
    epoch: Count
    serial: str
    not_before: float
    not_after: float
    at: float
    certificate: _Pem
    ca: _Pem
    root: msgspec.Raw
    broker: str
    fetch_broker: str | None = None
    blobs: str | None = None
    critical: tuple[str, ...] = ()


class Waiting(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.waiting/1"
):
    """An operator is to approve the key with this fingerprint; ask again in `poll_s`."""

    fingerprint: Digest
    poll_s: Annotated[float, msgspec.Meta(gt=0, le=3600)]
    critical: tuple[str, ...] = ()


def token_text(token: Token) -> str:
    """Return what an operator copies to the device."""
    ca = base64.urlsafe_b64encode(bytes.fromhex(token.ca)).decode().rstrip("=")
    return f"wt1.{token.secret}.{ca}"


def parse_token(text: str) -> Token:
    """Return the token that an operator copied; raise `BadToken`."""
    found = _TOKEN.fullmatch(text.strip())
    if found is None:
        raise BadToken
    try:
        ca = base64.urlsafe_b64decode(found[2] + "=")
    except (binascii.Error, ValueError) as error:
        raise BadToken from error
    return Token(found[1], Digest(ca.hex()))


def parse_fingerprint(text: str) -> Digest:
    """Return a fingerprint as a person copies it, with colons or capitals or without."""
    plain = text.strip().replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", plain):
        raise BadFingerprint
    return Digest(plain)


def fingerprint_of(der: bytes) -> Digest:
    """Return the fingerprint of a certificate or a public key in DER: its sha256."""
    return Digest(hashlib.sha256(der).hexdigest())


def secret_digest(secret: str) -> str:
    """Return the form in which a secret is kept: it is random and long, one sha256 is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()
