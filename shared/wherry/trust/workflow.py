"""The client workflow of TUF 1.0 (section 5 of its specification), without I/O.

Bytes in, a new `TrustedSet` or `MetadataRefused` out; `now` is given, and the set that was there
stays as it is. Order: root, timestamp, snapshot, targets, delegated targets. What a client has
stored is taken back by `restore_…`: it was accepted once, so that only its signatures count, and
it serves to refuse what is older. Where to get bytes from, and what to keep, is the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from wherry.reasons import Reason
from wherry.trust import metadata
from wherry.trust.metadata import Root, Snapshot, Targets, Timestamp
from wherry.trust.refusals import MetadataRefused


@dataclass(frozen=True, slots=True)
class TrustedSet:
    """What is trusted so far; `targets` by role, the delegated ones too."""

    root: Root
    timestamp: Timestamp | None = None
    snapshot: Snapshot | None = None
    targets: Mapping[str, Targets] = field(default_factory=dict)


def begin(root: bytes) -> TrustedSet:
    """Trust `root`, which came by a way that is trusted and must at least be signed by itself."""
    document = metadata.parse(Root, "root", root)
    return TrustedSet(metadata.verify(document.signed, "root", document))


def update_root(trusted: TrustedSet, data: bytes) -> TrustedSet:
    """Take the next root (5.3), under which the other roles begin anew."""
    document = metadata.parse(Root, "root", data)
    root = metadata.verify(trusted.root, "root", document)
    if root.version <= trusted.root.version:
        raise MetadataRefused(Reason.ROOT_ROLLBACK, "root", _versions(root, trusted.root))
    if root.version != trusted.root.version + 1:
        raise MetadataRefused(Reason.UNTRUSTED_METADATA, "root", _versions(root, trusted.root))
    metadata.verify(root, "root", document)
    return TrustedSet(root)


def rotated(old: Root, new: Root, *roles: str) -> bool:
    """Say whether a key that one of `roles` had is one of its keys no more (5.3.11)."""
    return any(not set(old.roles[role].keyids) <= set(new.roles[role].keyids) for role in roles)


def restore_timestamp(trusted: TrustedSet, data: bytes) -> TrustedSet:
    """Take back the timestamp that was stored, expired or not."""
    document = metadata.parse(Timestamp, "timestamp", data)
    return replace(trusted, timestamp=metadata.verify(trusted.root, "timestamp", document))


def restore_snapshot(trusted: TrustedSet, data: bytes) -> TrustedSet:
    """Take back the snapshot that was stored, whatever the timestamp says by now."""
    document = metadata.parse(Snapshot, "snapshot", data)
    return replace(trusted, snapshot=metadata.verify(trusted.root, "snapshot", document))


def update_timestamp(trusted: TrustedSet, data: bytes, now: float) -> TrustedSet:
    """Take a newer timestamp (5.4); one of the same version changes nothing."""
    document = metadata.parse(Timestamp, "timestamp", data)
    timestamp = metadata.verify(trusted.root, "timestamp", document)
    now = max(now, metadata.issued_of(timestamp))
    check_root(trusted, now)
    if trusted.timestamp is not None:
        _refuse_older_timestamp(trusted.timestamp, timestamp)
        if timestamp.version == trusted.timestamp.version:
            return trusted
    _refuse_expired(timestamp, "timestamp", Reason.EXPIRED_TIMESTAMP, now)
    return replace(trusted, timestamp=timestamp)


def update_snapshot(trusted: TrustedSet, data: bytes, now: float) -> TrustedSet:
    """Take the snapshot that the timestamp names (5.5)."""
    timestamp = check_timestamp(trusted, now)
    metadata.check_bytes(timestamp.snapshot_meta, "snapshot", data)
    document = metadata.parse(Snapshot, "snapshot", data)
    snapshot = metadata.verify(trusted.root, "snapshot", document)
    _refuse_mixed("snapshot", snapshot.version, timestamp.snapshot_meta.version)
    if trusted.snapshot is not None:
        _refuse_older_targets(trusted.snapshot, snapshot)
    _refuse_expired(snapshot, "snapshot", Reason.EXPIRED_SNAPSHOT, now)
    return replace(trusted, snapshot=snapshot, targets={})


def update_targets(
    trusted: TrustedSet, role: str, data: bytes, now: float, *, delegator: str = "targets"
) -> TrustedSet:
    """Take targets, or targets that `delegator` delegates, as the snapshot names them (5.6)."""
    promised = _current_snapshot(trusted, now).meta.get(f"{role}.json")
    if promised is None:
        raise MetadataRefused(Reason.MIXED_METADATA, role, "the snapshot does not name it")
    metadata.check_bytes(promised, role, data)
    document = metadata.parse(Targets, role, data)
    vouching = trusted.root if role == "targets" else trusted.targets[delegator]
    targets = metadata.verify(vouching, role, document)
    _refuse_mixed(role, targets.version, promised.version)
    _refuse_expired(targets, role, Reason.EXPIRED_TARGETS, now)
    return replace(trusted, targets={**trusted.targets, role: targets})


def promised_version(trusted: TrustedSet, role: str) -> int:
    """Return the version of `role` that the snapshot names; 0 where it names none."""
    promised = trusted.snapshot.meta.get(f"{role}.json") if trusted.snapshot else None
    return promised.version if promised else 0


def check_root(trusted: TrustedSet, now: float) -> None:
    """Raise `MetadataRefused` where the last root is expired (5.3.10)."""
    _refuse_expired(trusted.root, "root", Reason.EXPIRED_ROOT, now)


def check_timestamp(trusted: TrustedSet, now: float) -> Timestamp:
    """Return the timestamp; raise `MetadataRefused` where it, or the root before it, is expired."""
    check_root(trusted, now)
    if trusted.timestamp is None:
        raise MetadataRefused(Reason.MIXED_METADATA, "timestamp", "there is none yet")
    _refuse_expired(trusted.timestamp, "timestamp", Reason.EXPIRED_TIMESTAMP, now)
    return trusted.timestamp


def _current_snapshot(trusted: TrustedSet, now: float) -> Snapshot:
    timestamp, snapshot = check_timestamp(trusted, now), trusted.snapshot
    if snapshot is None:
        raise MetadataRefused(Reason.MIXED_METADATA, "snapshot", "there is none yet")
    _refuse_mixed("snapshot", snapshot.version, timestamp.snapshot_meta.version)
    _refuse_expired(snapshot, "snapshot", Reason.EXPIRED_SNAPSHOT, now)
    return snapshot


def _refuse_older_timestamp(old: Timestamp, new: Timestamp) -> None:
    if new.version < old.version:
        raise MetadataRefused(Reason.TIMESTAMP_ROLLBACK, "timestamp", _versions(new, old))
    if new.snapshot_meta.version < old.snapshot_meta.version:
        problem = f"it names snapshot {new.snapshot_meta.version} after {old.snapshot_meta.version}"
        raise MetadataRefused(Reason.SNAPSHOT_ROLLBACK, "timestamp", problem)


def _refuse_older_targets(old: Snapshot, new: Snapshot) -> None:
    """Refuse a snapshot that leaves a role out or names an older version of one (5.5.5)."""
    for name, known in old.meta.items():
        named = new.meta.get(name)
        if named is None or named.version < known.version:
            what = "leaves it out" if named is None else f"names {named.version}"
            problem = f"{name} stood at {known.version} and it {what}"
            raise MetadataRefused(Reason.TARGETS_ROLLBACK, "snapshot", problem)


def _refuse_mixed(role: str, version: int, promised: int) -> None:
    if version != promised:
        problem = f"it is version {version} and {promised} was promised"
        raise MetadataRefused(Reason.MIXED_METADATA, role, problem)


def _refuse_expired(
    signed: Root | Timestamp | Snapshot | Targets, role: str, reason: Reason, now: float
) -> None:
    if metadata.expiry_of(signed) <= now:
        problem = f"it expired at {signed.expires:%Y-%m-%d %H:%M:%S} UTC"
        raise MetadataRefused(reason, role, problem)


def _versions(new: Root | Timestamp, old: Root | Timestamp) -> str:
    return f"it is version {new.version} and {old.version} is trusted"
