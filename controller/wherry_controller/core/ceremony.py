"""Root and targets in the hands of their keys' holders: made, changed, and looked into.

Each change makes the next version of one document, unsigned: whoever holds a key signs a copy, on
whatever machine that key lives, and the copies together are published. Nothing here needs a
controller, a network, or a key that is not part of the change.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec.structs import replace

from wherry import signing
from wherry.errors import Unsuitable
from wherry.names import AliasName, KeyId
from wherry.trust import documents
from wherry.trust.documents import Bin, Key, Metadata, Role, Root, Targets, expiry, key_of
from wherry.trust.making import (
    LIFETIMES,
    Holders,
    Lifetimes,
    Signers,
    make_root,
    make_targets,
)

ROLES = ("root", "targets", "snapshot", "timestamp", "director", "bundle")


class NobodyFor(Unsuitable):
    """A founding without a key for one of the roles."""

    def __init__(self, role: str) -> None:
        super().__init__(role)
        self.role = role

    def __str__(self) -> str:
        return f"no key is for {self.role}: make one with `wherry keys init`, and give it along."


class TooFewKeys(Unsuitable):
    """A threshold that a role's keys cannot reach."""

    def __init__(self, role: str, threshold: int, keys: int) -> None:
        super().__init__(role, threshold, keys)
        self.role, self.threshold, self.keys = role, threshold, keys

    def __str__(self) -> str:
        return (
            f"{self.role} has {self.keys} keys, and {self.threshold} are to sign: "
            "add keys, or give a lower threshold."
        )


class NotItsKey(Unsuitable):
    """A key that a role does not have."""

    def __init__(self, role: str, keyid: str) -> None:
        super().__init__(role, keyid)
        self.role, self.keyid = role, keyid

    def __str__(self) -> str:
        return f"{self.keyid} is no key of {self.role}: see `wherry keys status` for those it has."


class OtherDocument(Unsuitable):
    """A role whose keys stand in another document."""

    def __init__(self, role: str, document: str) -> None:
        super().__init__(role, document)
        self.role, self.document = role, document

    def __str__(self) -> str:
        return f"the keys of {self.role} stand in {self.document}: give that one."


@dataclass(frozen=True, slots=True)
class Standing:
    """Who has signed a document by the rules of one version of root, and who could yet."""

    by: str
    signed: tuple[KeyId, ...]
    missing: tuple[KeyId, ...]
    threshold: int

    @property
    def is_met(self) -> bool:
        return len(self.signed) >= self.threshold


def founded(
    keys: Mapping[str, Sequence[Ed25519PublicKey]],
    thresholds: Mapping[str, int],
    now: float,
    *,
    lifetimes: Lifetimes = LIFETIMES,
) -> tuple[Root, Targets]:
    """Return the first root and targets; raise `NobodyFor` or `TooFewKeys`."""
    for role in ROLES:
        if not keys.get(role):
            raise NobodyFor(role)
    signers = {role: _signers(role, keys[role], thresholds.get(role, 1)) for role in ROLES}
    holders = Holders(
        root=signers["root"],
        targets=signers["targets"],
        snapshot=signers["snapshot"],
        timestamp=signers["timestamp"],
        director=signers["director"],
        bundle=signers["bundle"],
    )
    root = make_root(holders, now, version=1, lifetime_s=lifetimes.root_s)
    targets = make_targets(holders.bundle, now, version=1, lifetime_s=lifetimes.targets_s)
    return root, targets


def with_key(
    root: Root, role: str, key: Ed25519PublicKey, now: float, *, threshold: int | None = None
) -> Root:
    """Return the next root, with one more key in a role and, if given, another threshold."""
    before = role_of(root, role)
    keyid = signing.key_id(key)
    after = Role((*(known for known in before.keyids if known != keyid), keyid), before.threshold)
    return _next_root(root, role, after, {keyid: key_of(key)}, now, threshold)


def with_key_replaced(
    root: Root,
    role: str,
    old: KeyId,
    key: Ed25519PublicKey,
    now: float,
    *,
    threshold: int | None = None,
) -> Root:
    """Return the next root, with `key` in the place of `old`; raise `NotItsKey`."""
    before = role_of(root, role)
    if old not in before.keyids:
        raise NotItsKey(role, old)
    keyid = signing.key_id(key)
    kept = tuple(known for known in before.keyids if known not in (old, keyid))
    after = Role((*kept, keyid), before.threshold)
    return _next_root(root, role, after, {keyid: key_of(key)}, now, threshold)


def with_bundle_key(targets: Targets, key: Ed25519PublicKey, now: float) -> Targets:
    """Return the next targets, with one more key that may sign bins."""
    bins = targets.delegations.succinct_roles
    keyid = signing.key_id(key)
    keyids = (*(known for known in bins.keyids if known != keyid), keyid)
    return _next_targets(targets, keyids, {keyid: key_of(key)}, now)


def with_bundle_key_replaced(
    targets: Targets, old: KeyId, key: Ed25519PublicKey, now: float
) -> Targets:
    """Return the next targets, with `key` in the place of `old`; raise `NotItsKey`."""
    keyids = targets.delegations.succinct_roles.keyids
    if old not in keyids:
        raise NotItsKey("bundle", old)
    keyid = signing.key_id(key)
    kept = tuple(known for known in keyids if known not in (old, keyid))
    return _next_targets(targets, (*kept, keyid), {keyid: key_of(key)}, now)


def with_minima(targets: Targets, minima: Mapping[AliasName, int], now: float) -> Targets:
    """Return the next targets, with these least releases of aliases beside those it has."""
    part = replace(targets.wherry, min_release={**targets.wherry.min_release, **minima})
    return replace(renewed_targets(targets, now), wherry=part)


def renewed_root(root: Root, now: float) -> Root:
    """Return the next root, which says the same for another life."""
    return replace(root, version=root.version + 1, expires=expiry(now, LIFETIMES.root_s))


def renewed_targets(targets: Targets, now: float) -> Targets:
    """Return the next targets, which say the same for another life."""
    expires = expiry(now, LIFETIMES.targets_s)
    return replace(targets, version=targets.version + 1, expires=expires)


def role_of(root: Root, role: str) -> Role:
    """Return whose signatures a role needs; raise `OtherDocument` for the bundle key's."""
    if role == "director":
        return root.wherry.director
    if role == "bundle":
        raise OtherDocument(role, "targets")
    return root.roles[role]


def standings(
    document: Metadata[Root] | Metadata[Targets], roots: Sequence[Root]
) -> tuple[Standing, ...]:
    """Return how far a document is signed.

    A root is judged by itself and by the root before it, targets by the newest of `roots`.
    """
    if isinstance(document.signed, Root):
        before = [root for root in roots if root.version == document.signed.version - 1]
        judges, role = (*before, document.signed), "root"
    else:
        judges, role = tuple(sorted(roots, key=lambda one: one.version)[-1:]), "targets"
    return tuple(
        _standing(f"root/{judge.version}", document.data, judge.keys, judge.roles[role])
        for judge in judges
    )


def standing_of_bin(document: Metadata[Bin], targets: Targets) -> Standing:
    """Return how far a bin is signed by the rules of these targets."""
    keys, role = targets.delegations.keys, documents.bundle_role(targets)
    return _standing(f"targets/{targets.version}", document.data, keys, role)


def _standing(by: str, data: bytes, keys: Mapping[KeyId, Key], role: Role) -> Standing:
    signed = documents.signers(data, keys, role)
    return Standing(
        by=by,
        signed=tuple(sorted(signed)),
        missing=tuple(sorted(set(role.keyids) - signed)),
        threshold=role.threshold,
    )


def _signers(role: str, keys: Sequence[Ed25519PublicKey], threshold: int) -> Signers:
    unique = tuple({signing.key_id(key): key for key in keys}.values())
    _check_threshold(role, threshold, unique)
    return Signers(unique, threshold)


def _check_threshold(role: str, threshold: int, keys: Collection[object]) -> None:
    if not 1 <= threshold <= len(keys):
        raise TooFewKeys(role, threshold, len(keys))


def _next_root(
    root: Root,
    role: str,
    after: Role,
    keys: Mapping[KeyId, Key],
    now: float,
    threshold: int | None,
) -> Root:
    changed = replace(after, threshold=threshold or after.threshold)
    _check_threshold(role, changed.threshold, changed.keyids)
    roles = root.roles if role == "director" else {**root.roles, role: changed}
    director = changed if role == "director" else root.wherry.director
    used = {keyid for one in (*roles.values(), director) for keyid in one.keyids}
    known = {**root.keys, **keys}
    return replace(
        renewed_root(root, now),
        roles=roles,
        wherry=replace(root.wherry, director=director),
        keys={keyid: key for keyid, key in known.items() if keyid in used},
    )


def _next_targets(
    targets: Targets, keyids: tuple[KeyId, ...], keys: Mapping[KeyId, Key], now: float
) -> Targets:
    before = targets.delegations
    known = {**before.keys, **keys}
    delegations = replace(
        before,
        keys={keyid: known[keyid] for keyid in keyids},
        succinct_roles=replace(before.succinct_roles, keyids=keyids),
    )
    return replace(renewed_targets(targets, now), delegations=delegations)
