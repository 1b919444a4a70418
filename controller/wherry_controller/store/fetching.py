"""Who is on the way to which bundle, in the database: what decides what the broker holds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from sqlalchemy import func
from sqlalchemy import select as select_columns
from sqlmodel import col, or_, select

from wherry.names import DeviceId, Digest
from wherry.reasons import Phase
from wherry_controller.store.database import Transaction
from wherry_controller.store.tables import DeploymentRow, DeviceRow

AT_ONCE = 500  # Names in one statement: databases bound how many it may hold.


class Ordered(NamedTuple):
    """A bundle's deployments: whether one of them is open, and when the newest was ordered."""

    is_open: bool
    ordered_at: float


def ordered_bundles(tx: Transaction) -> Mapping[Digest, Ordered]:
    """Return every bundle that a device was ever ordered."""
    is_open = func.count() > func.count(col(DeploymentRow.ended_at))
    newest = func.max(col(DeploymentRow.ordered_at))
    rows = tx.execute(
        select_columns(col(DeploymentRow.bundle), is_open, newest).group_by(
            col(DeploymentRow.bundle)
        )
    )
    return {Digest(bundle): Ordered(bool(open_), at) for bundle, open_, at in rows}


def fetching_devices(tx: Transaction) -> frozenset[DeviceId]:
    """Return the devices with a deployment that has yet to come past fetching."""
    phase = col(DeploymentRow.phase)
    rows = tx.exec(
        select(DeploymentRow.device).where(
            col(DeploymentRow.ended_at).is_(None),
            or_(phase.is_(None), phase == Phase.FETCHING.value),
        )
    )
    return frozenset(map(DeviceId, rows))


def tags_of(tx: Transaction, members: Collection[DeviceId]) -> Mapping[DeviceId, Mapping[str, str]]:
    """Return the tags of some devices."""
    names = sorted(members)
    tags: dict[DeviceId, Mapping[str, str]] = {}
    for at in range(0, len(names), AT_ONCE):
        some = col(DeviceRow.id).in_(names[at : at + AT_ONCE])
        rows = tx.execute(select_columns(col(DeviceRow.id), col(DeviceRow.tags)).where(some))
        tags |= {DeviceId(device): own for device, own in rows}
    return tags
