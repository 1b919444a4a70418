"""What a device keeps of its trust, and the words of what verifying an order comes to.

`Trust` is one value that the agent stores whole. Nothing here looks at a signature, so that who
only keeps, shows or reports what is trusted loads none of what that takes: `device` does.

Time is the clock, or the highest floor where that is later: signed times that were accepted, each
under its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import msgspec
from msgspec.structs import replace

from wherry.codec import learned
from wherry.measures import Count
from wherry.messages import Order, TrustReport
from wherry.names import AliasName, DeviceId, Digest, ProfileName, TrialId
from wherry.trust.packet import piece_name
from wherry.trust.target import Verdict

ORDER, ROOT, CERTIFICATE = "order", "root", "certificate"
TIMESTAMP, SNAPSHOT, TARGETS = "timestamp", "snapshot", "targets"


class Trust(msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.trust/1"):
    """What a device has accepted: metadata as texts, the last order, floors of time by source.

    `order_digest` is of the signed bytes of the order of `generation`; None: it has followed none.
    """

    root: str
    epoch: Count
    timestamp: str = ""
    snapshot: str = ""
    targets: str = ""
    bins: dict[str, str] = msgspec.field(default_factory=dict)
    floors: dict[str, float] = msgspec.field(default_factory=dict)
    generation: Count = 0
    order_digest: Digest | None = None
    critical: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Offer:
    """What came for a device: a signed order, and pieces of metadata by name (`packet`)."""

    order: bytes
    pieces: Mapping[str, bytes]
    device: DeviceId
    profile: ProfileName


@dataclass(frozen=True, slots=True)
class Followed:
    """The order is the device's now; each bundle it names is one of targets, or denied."""

    trust: Trust
    order: Order
    verdicts: Mapping[AliasName, Verdict]
    trials: Mapping[TrialId, Verdict]


@dataclass(frozen=True, slots=True)
class Lacking:
    """Without these pieces nothing can be said yet; `timestamp` has no version."""

    trust: Trust
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Repeated:
    """The order is the one that is followed."""

    trust: Trust


Outcome: TypeAlias = Followed | Lacking | Repeated


class _Signed(msgspec.Struct, frozen=True):
    version: Count


class _Versioned(msgspec.Struct, frozen=True):
    signed: _Signed


class Verifier(Protocol):
    """Who looks at signatures: `device`, in this process or in another.

    Each call returns what is trusted then, or raises as `device` says; from another process also
    `Unavailable`, and then nothing was judged.
    """

    def begin(self, root: bytes, *, epoch: int) -> Trust: ...
    def take_roots(self, trust: Trust, pieces: Mapping[str, bytes]) -> Trust: ...
    def take_timestamp(self, trust: Trust, data: bytes, clock: float) -> Trust: ...
    def follow(self, trust: Trust, offer: Offer, clock: float) -> Outcome: ...


def now_of(trust: Trust, clock: float) -> float:
    """Return the time to go by."""
    return max(clock, *trust.floors.values(), 0.0)


def raise_floor(trust: Trust, source: str, signed_time: float) -> Trust:
    """Let it be no earlier than `signed_time`, which `source` vouches for."""
    if trust.floors.get(source, 0.0) >= signed_time:
        return trust
    return replace(trust, floors={**trust.floors, source: float(signed_time)})


def proved_by_certificates(trust: Trust) -> float:
    """Return the latest time that certificates of the controller's authority have proved.

    Others' certificates are judged by it alone: a stolen online key may push the other floors, and
    a device that took its broker for expired could never hear of the root that takes the key away.
    """
    return trust.floors.get(CERTIFICATE, 0.0)


def next_root(trust: Trust) -> str:
    """Return the name of the root that would come next."""
    return piece_name(ROOT, version_of(trust.root) + 1)


def report_of(trust: Trust, clock: float) -> TrustReport:
    """Return how far the device's trust has come."""
    return TrustReport(
        epoch=trust.epoch,
        root=version_of(trust.root),
        timestamp=version_of(trust.timestamp),
        snapshot=version_of(trust.snapshot),
        targets=version_of(trust.targets),
        now_s=now_of(trust, clock),
    )


def version_of(text: str) -> int:
    """Return the version of metadata that was accepted before; 0 where there is none."""
    return msgspec.json.decode(text, type=learned(_Versioned)).signed.version if text else 0
