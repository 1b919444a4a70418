"""Trust metadata and releases in the database.

Of a role there is the version that is published and, above it, those that wait for a signature;
of root every version stays, for a device may have been off for long.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec
from sqlalchemy import func
from sqlmodel import col, delete, select

from wherry.errors import Unavailable
from wherry.names import AliasName, Digest, ModelName, RoleName, VersionName
from wherry.trust.making import ROOT
from wherry_controller.store.convert import save, to_record
from wherry_controller.store.database import Transaction, take_turn
from wherry_controller.store.tables import BundleRow, MetadataRow, ReleaseRow


class NoRoot(Unavailable):
    """A controller that has no root of trust yet."""

    def __str__(self) -> str:
        return "the controller has no root of trust yet: run `wherry init`, then serve it."


class MetadataRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a role; without `published_at` it waits for a signature."""

    role: RoleName
    version: int
    data: bytes
    made_at: float
    published_at: float | None = None


class ReleaseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Which release of an alias a version is."""

    alias: AliasName
    model: ModelName
    version: VersionName
    counter: int
    released_at: float


def take_trust(tx: Transaction) -> None:
    """Wait until nobody else changes metadata or releases."""
    take_turn(tx, "trust")


def list_roots(tx: Transaction) -> Sequence[MetadataRecord]:
    """Return every root, the first one first."""
    rows = select(MetadataRow).where(MetadataRow.role == ROOT).order_by(col(MetadataRow.version))
    return [to_record(row, MetadataRecord) for row in tx.exec(rows)]


def newest_root(tx: Transaction) -> bytes:
    """Return the newest root that is published: what a device is enrolled with; raise `NoRoot`."""
    published = [one.data for one in list_roots(tx) if one.published_at is not None]
    if not published:
        raise NoRoot
    return published[-1]


def list_published(tx: Transaction, roles: Collection[RoleName]) -> dict[RoleName, MetadataRecord]:
    """Return what is published of these roles."""
    rows = select(MetadataRow).where(
        col(MetadataRow.role).in_(roles), col(MetadataRow.published_at).is_not(None)
    )
    found = (to_record(row, MetadataRecord) for row in tx.exec(rows))
    return {record.role: record for record in sorted(found, key=lambda one: one.version)}


def list_made_before(tx: Transaction, time: float) -> Sequence[RoleName]:
    """Return the roles whose published version was made before a time."""
    rows = select(MetadataRow.role).where(col(MetadataRow.published_at).is_not(None))
    return [RoleName(role) for role in tx.exec(rows.where(col(MetadataRow.made_at) <= time))]


def list_waiting(tx: Transaction) -> Sequence[MetadataRecord]:
    """Return all that waits for a signature, each role's oldest version first."""
    rows = select(MetadataRow).where(col(MetadataRow.published_at).is_(None))
    ordered = rows.order_by(col(MetadataRow.role), col(MetadataRow.version))
    return [to_record(row, MetadataRecord) for row in tx.exec(ordered)]


def save_waiting(tx: Transaction, role: RoleName, version: int, data: bytes, now: float) -> None:
    """Keep a version that waits, in the place of what had that version while it waited."""
    record = MetadataRecord(role=role, version=version, data=data, made_at=now)
    save(tx, MetadataRow, record)


def save_published(tx: Transaction, role: RoleName, version: int, data: bytes, now: float) -> None:
    """Publish a version of a role; older ones go, except of root."""
    waited = tx.get(MetadataRow, (role, version))
    made_at = now if waited is None else waited.made_at
    if role != ROOT:
        older = delete(MetadataRow).where(col(MetadataRow.role) == role)
        tx.exec(older.where(col(MetadataRow.version) <= version))
    record = MetadataRecord(
        role=role, version=version, data=data, made_at=made_at, published_at=now
    )
    save(tx, MetadataRow, record)


def list_envelopes(tx: Transaction) -> Sequence[tuple[Digest, bytes]]:
    """Return the signed manifest of every bundle there is."""
    rows = tx.exec(select(BundleRow.digest, BundleRow.envelope).order_by(col(BundleRow.digest)))
    return [(Digest(digest), envelope) for digest, envelope in rows]


def get_release(
    tx: Transaction, alias: AliasName, model: ModelName, version: VersionName
) -> ReleaseRecord | None:
    row = tx.get(ReleaseRow, (alias, model, version))
    return None if row is None else to_record(row, ReleaseRecord)


def save_release(tx: Transaction, release: ReleaseRecord) -> None:
    save(tx, ReleaseRow, release)


def latest_counter(tx: Transaction, alias: AliasName) -> int:
    """Return the highest release counter of an alias; 0 where there is none."""
    counter = tx.exec(select(func.max(ReleaseRow.counter)).where(ReleaseRow.alias == alias)).one()
    return counter or 0


def releases_of(tx: Transaction, model: ModelName, version: VersionName) -> dict[AliasName, int]:
    """Return a version's release counter under each alias that it was released under."""
    rows = tx.exec(
        select(ReleaseRow.alias, ReleaseRow.counter)
        .where(ReleaseRow.model == model, ReleaseRow.version == version)
        .order_by(col(ReleaseRow.alias))
    )
    return {AliasName(alias): counter for alias, counter in rows}


def list_releases(tx: Transaction) -> Sequence[ReleaseRecord]:
    """Return every release, by alias and counter."""
    rows = select(ReleaseRow).order_by(col(ReleaseRow.alias), col(ReleaseRow.counter))
    return [to_record(row, ReleaseRecord) for row in tx.exec(rows)]
