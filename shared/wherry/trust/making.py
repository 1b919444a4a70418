"""The documents of the TUF repository, each made from what it shall say.

Signing them is `documents`' part, keeping them together `repository`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from wherry import codec, signing
from wherry.blobs import digest_of
from wherry.manifest import Manifest
from wherry.names import AliasName, Digest, KeyId, RoleName, parse_role_name
from wherry.trust.documents import (
    Bin,
    Custom,
    Delegations,
    Entry,
    Hashes,
    Key,
    Metadata,
    MetaFile,
    Role,
    Root,
    RootPart,
    Snapshot,
    SuccinctRoles,
    Targets,
    TargetsPart,
    Timestamp,
    TimestampPart,
    expiry,
    key_of,
)
from wherry.trust.target import Target

DAY_S = 86400.0
Seconds = Annotated[float, msgspec.Meta(gt=0)]

ROOT = parse_role_name("root")
TARGETS = parse_role_name("targets")
SNAPSHOT = parse_role_name("snapshot")
TIMESTAMP = parse_role_name("timestamp")


class Lifetimes(msgspec.Struct, frozen=True, kw_only=True):
    """How long what each role signs is good for; at half of it, it is signed anew."""

    root_s: Seconds = 365 * DAY_S
    targets_s: Seconds = 365 * DAY_S
    bins_s: Seconds = 365 * DAY_S
    snapshot_s: Seconds = 30 * DAY_S
    timestamp_s: Seconds = 7 * DAY_S
    order_s: Seconds = 90 * DAY_S


LIFETIMES = Lifetimes()


@dataclass(frozen=True, slots=True)
class Signers:
    """The public keys of a role, and how many of them must sign."""

    keys: tuple[Ed25519PublicKey, ...]
    threshold: int = 1


def only(key: Ed25519PrivateKey) -> Signers:
    """Return the role that this one key signs for."""
    return Signers((key.public_key(),))


@dataclass(frozen=True, slots=True)
class Holders:
    """Who holds each role: what root and targets name."""

    root: Signers
    targets: Signers
    snapshot: Signers
    timestamp: Signers
    director: Signers
    bundle: Signers


@dataclass(frozen=True, slots=True)
class Listing:
    """What the repository shall say of one bundle; `length` is of its signed manifest."""

    length: int
    target: Target


def make_root(holders: Holders, now: float, *, version: int, lifetime_s: float) -> Root:
    """Return the root that names `holders`; the director stands in a field of its own."""
    roles = {
        "root": holders.root,
        "targets": holders.targets,
        "snapshot": holders.snapshot,
        "timestamp": holders.timestamp,
    }
    return Root(
        version=version,
        expires=expiry(now, lifetime_s),
        keys=_keys(*roles.values(), holders.director),
        roles={name: _role(signers) for name, signers in roles.items()},
        wherry=RootPart(_role(holders.director)),
    )


def make_targets(
    bundle: Signers,
    now: float,
    *,
    version: int,
    lifetime_s: float,
    min_release: Mapping[AliasName, int] = MappingProxyType({}),
) -> Targets:
    """Return the targets role that delegates all bundles to the bins that `bundle` signs."""
    role = _role(bundle)
    bins = SuccinctRoles(keyids=role.keyids, threshold=role.threshold)
    return Targets(
        version=version,
        expires=expiry(now, lifetime_s),
        delegations=Delegations(_keys(bundle), bins),
        wherry=TargetsPart(dict(min_release)),
    )


def listing_of_manifest(manifest: Manifest) -> Listing:
    """Return what the repository says of a bundle that has just been sealed: no release yet."""
    target = Target(
        model=manifest.model,
        version=manifest.version,
        profile=manifest.profile.name,
        measuring=manifest.measuring,
    )
    return Listing(len(codec.encode(manifest)), target)


def make_bin(
    listings: Mapping[Digest, Listing], now: float, *, version: int, lifetime_s: float
) -> Bin:
    entries = {digest: _entry(digest, listing) for digest, listing in listings.items()}
    return Bin(version=version, expires=expiry(now, lifetime_s), targets=entries)


def make_snapshot(
    versions: Mapping[RoleName, int], now: float, *, version: int, lifetime_s: float
) -> Snapshot:
    """Return the snapshot of these versions of targets and bins."""
    meta = {f"{role}.json": MetaFile(number) for role, number in versions.items()}
    return Snapshot(version=version, expires=expiry(now, lifetime_s), meta=meta)


def make_timestamp(
    snapshot: Metadata[Snapshot], now: float, *, version: int, lifetime_s: float
) -> Timestamp:
    """Return the timestamp that vouches for `snapshot` by version, length and digest."""
    file = MetaFile(snapshot.signed.version, len(snapshot.data), Hashes(digest_of(snapshot.data)))
    return Timestamp(
        version=version,
        expires=expiry(now, lifetime_s),
        meta={"snapshot.json": file},
        wherry=TimestampPart(int(now)),
    )


def _role(signers: Signers) -> Role:
    return Role(tuple(signing.key_id(key) for key in signers.keys), signers.threshold)


def _keys(*holders: Signers) -> dict[KeyId, Key]:
    return {signing.key_id(key): key_of(key) for signers in holders for key in signers.keys}


def _entry(digest: Digest, listing: Listing) -> Entry:
    return Entry(listing.length, Hashes(digest), Custom(listing.target))
