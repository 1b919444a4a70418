"""How the trust of this controller stands, for people, and what they bring to change it.

What is refused is noted in the audit log too, in a transaction of its own: the one that refused
is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wherry.errors import REFUSALS
from wherry.names import AliasName, KeyId, ModelName, RoleName, VersionName
from wherry.trust.documents import Document, Role, expires_at
from wherry.trust.repository import Repository
from wherry_controller.core.audit import Kind
from wherry_controller.services import audit
from wherry_controller.services.trust import Trust
from wherry_controller.store import trust as kept
from wherry_controller.store.database import Store, Transaction


@dataclass(frozen=True, slots=True)
class RoleStanding:
    """One role: its published version, until when, and who may sign it."""

    role: str
    version: int
    expires_at: float
    sign_again_at: float
    keyids: tuple[KeyId, ...]
    threshold: int
    is_here: bool


@dataclass(frozen=True, slots=True)
class Waiting:
    """A bin that waits for the bundle key's signature."""

    role: RoleName
    version: int
    since: float


@dataclass(frozen=True, slots=True)
class Release:
    alias: AliasName
    model: ModelName
    version: VersionName
    counter: int
    minimum: int


@dataclass(frozen=True, slots=True)
class TrustStanding:
    roles: tuple[RoleStanding, ...]
    waiting: tuple[Waiting, ...]
    releases: tuple[Release, ...]


def standing_of(tx: Transaction, trust: Trust) -> TrustStanding:
    """Return how everything stands; raise `NotFounded`."""
    held = trust.repository(tx)
    minima = held.targets.signed.wherry.min_release
    releases = [
        Release(one.alias, one.model, one.version, one.counter, minima.get(one.alias, 0))
        for one in kept.list_releases(tx)
    ]
    waiting = [Waiting(one.role, one.version, one.made_at) for one in trust.waiting(tx)]
    roles = _roles(held, trust.held())
    return TrustStanding(tuple(roles), tuple(waiting), tuple(releases))


def files_of(tx: Transaction, trust: Trust) -> dict[str, str]:
    """Return what the holders of offline keys work on, by file name: root, targets, bins."""
    held = trust.repository(tx)
    files = {f"{root.signed.version}.root.json": root.data for root in held.roots}
    files[f"{held.targets.signed.version}.targets.json"] = held.targets.data
    files |= {f"{one.version}.{one.role}.json": one.data for one in trust.waiting(tx)}
    return {name: data.decode() for name, data in files.items()}


def publish_files(store: Store, trust: Trust, files: Sequence[bytes], now: float) -> Sequence[str]:
    """Publish what was signed elsewhere; what is refused is noted, and raised again."""
    try:
        with store.transaction() as tx:
            names = trust.publish(tx, files, now)
            audit.note(tx, Kind.PUBLISHED, {"files": ", ".join(names)}, now)
    except REFUSALS as error:
        with store.transaction() as tx:
            audit.note(tx, Kind.REFUSED, {"what": "metadata", "why": error}, now)
        raise
    return names


def _roles(held: Repository, here: frozenset[KeyId]) -> list[RoleStanding]:
    root, lives = held.root.signed, held.lifetimes
    bins = held.targets.signed.delegations.succinct_roles
    targets = held.targets.signed
    documents: dict[str, tuple[Document, float]] = {
        "root": (root, lives.root_s),
        "targets": (targets, lives.targets_s),
        "snapshot": (held.snapshot.signed, lives.snapshot_s),
        "timestamp": (held.timestamp.signed, lives.timestamp_s),
    }
    found = [
        _standing(name, document, root.roles[name], life_s, here)
        for name, (document, life_s) in documents.items()
    ]
    director = _standing("director", root, root.wherry.director, lives.root_s, here)
    bundle = _standing("bundle", targets, Role(bins.keyids, bins.threshold), lives.targets_s, here)
    return [*found, director, bundle]


def _standing(
    name: str, document: Document, role: Role, life_s: float, here: frozenset[KeyId]
) -> RoleStanding:
    expires = expires_at(document)
    return RoleStanding(
        role=name,
        version=document.version,
        expires_at=expires,
        sign_again_at=expires - life_s / 2,
        keyids=role.keyids,
        threshold=role.threshold,
        is_here=len(here & set(role.keyids)) >= role.threshold,
    )
