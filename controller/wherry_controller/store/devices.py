"""Devices, groups and what is wanted of each device, in the database.

`get_` returns None where there is nothing, `save_` adds or replaces, `list_` is in order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import select as select_columns
from sqlmodel import col, delete, func, or_, select, update

from wherry.names import DeploymentId, DeviceId, Digest, GroupName, RolloutName
from wherry_controller.core.device import Term
from wherry_controller.store.convert import get, save, to_record
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import (
    Desired,
    Device,
    Enclosure,
    Group,
    Journey,
    Outline,
)
from wherry_controller.store.tables import (
    DeploymentRow,
    DesiredRow,
    DeviceRow,
    EnclosureRow,
    GroupRow,
    MemberRow,
)

AT_ONCE = 500  # Names in one statement: databases bound how many it may hold.


def get_device(tx: Transaction, device: DeviceId) -> Device | None:
    return get(tx, DeviceRow, device, Device)


def save_device(tx: Transaction, device: Device) -> None:
    save(tx, DeviceRow, device)


def remove_device(tx: Transaction, device: DeviceId) -> None:
    """Remove a device with all that it sent and all that was wanted of it."""
    tx.exec(delete(DeviceRow).where(col(DeviceRow.id) == device))


def count_devices(tx: Transaction) -> int:
    return tx.exec(select(func.count()).select_from(DeviceRow)).one()


def live_epochs(tx: Transaction) -> Mapping[DeviceId, int]:
    """Return every device that was added, and which enrolment of it is live."""
    rows = tx.exec(select(DeviceRow.id, DeviceRow.epoch))
    return {DeviceId(device): epoch for device, epoch in rows}


def note_alive(tx: Transaction, devices: Collection[DeviceId], now: float) -> None:
    """Note that devices were heard of now: whatever their presence says, they are online."""
    tx.exec(
        update(DeviceRow)
        .where(col(DeviceRow.id).in_(devices))
        .values(last_seen_at=now, online=True)
    )


def note_silent(tx: Transaction, before: float) -> Sequence[DeviceId]:
    """Count as offline, and return, the devices that were last heard of before a time."""
    is_silent = or_(col(DeviceRow.last_seen_at).is_(None), col(DeviceRow.last_seen_at) < before)
    silent = tx.exec(select(DeviceRow.id).where(col(DeviceRow.online), is_silent)).all()
    tx.exec(update(DeviceRow).where(col(DeviceRow.id).in_(silent)).values(online=False))
    return [DeviceId(device) for device in silent]


def list_devices(tx: Transaction) -> Sequence[Device]:
    rows = tx.exec(select(DeviceRow).order_by(col(DeviceRow.id)))
    return [to_record(row, Device) for row in rows]


def get_group(tx: Transaction, name: GroupName) -> Group | None:
    """Return a group with its devices in order."""
    if tx.get(GroupRow, name) is None:
        return None
    rows = tx.exec(select(MemberRow).where(MemberRow.group == name).order_by(col(MemberRow.device)))
    return Group(name, tuple(DeviceId(row.device) for row in rows))


def save_group(tx: Transaction, group: Group) -> None:
    """Make the group hold exactly these devices, which must be there."""
    tx.merge(GroupRow(name=group.name))
    tx.exec(delete(MemberRow).where(col(MemberRow.group) == group.name))
    tx.add_all(MemberRow(group=group.name, device=device) for device in group.devices)
    tx.flush()


def remove_group(tx: Transaction, name: GroupName) -> None:
    """Remove a group, not its devices."""
    tx.exec(delete(GroupRow).where(col(GroupRow.name) == name))


def list_groups(tx: Transaction) -> Sequence[Group]:
    names = tx.exec(select(GroupRow.name).order_by(col(GroupRow.name))).all()
    groups = (get_group(tx, GroupName(name)) for name in names)
    return [group for group in groups if group is not None]


def get_desired(tx: Transaction, device: DeviceId) -> Desired:
    """Return what is wanted of a device: nothing, at generation 0, before its first order."""
    return get(tx, DesiredRow, device, Desired) or Desired(device=device)


def list_desired(tx: Transaction) -> Sequence[Desired]:
    """Return what is wanted of every device that was ever ordered anything."""
    rows = tx.exec(select(DesiredRow).order_by(col(DesiredRow.device)))
    return [to_record(row, Desired) for row in rows]


def some_desired(tx: Transaction, members: Sequence[DeviceId]) -> Sequence[Desired]:
    """Return what is wanted of these devices, of those that were ever ordered anything."""
    found: list[Desired] = []
    for at in range(0, len(members), AT_ONCE):
        some = col(DesiredRow.device).in_(members[at : at + AT_ONCE])
        found += [to_record(row, Desired) for row in tx.exec(select(DesiredRow).where(some))]
    return found


def save_desired(tx: Transaction, desired: Desired) -> None:
    save(tx, DesiredRow, desired)


def list_outlines(tx: Transaction) -> Sequence[Outline]:
    """Return the outline of every order, in the order of their devices."""
    rows = tx.connection().execute(
        select_columns(
            col(DesiredRow.device),
            col(DesiredRow.generation),
            col(DesiredRow.epoch),
            col(DesiredRow.issued_at),
            col(DesiredRow.expires_at),
            col(DesiredRow.snapshot),
            col(DesiredRow.enclosure),
            col(DeviceRow.epoch),
            col(DeviceRow.generation),
            col(DeviceRow.root),
        )
        .join(DeviceRow, col(DeviceRow.id) == col(DesiredRow.device))
        .order_by(col(DesiredRow.device))
    )
    return [Outline._make(row) for row in rows]


def enclose(tx: Transaction, members: Sequence[DeviceId], enclosure: Enclosure) -> None:
    """Have the orders of these devices travel with `enclosure` from now on."""
    save(tx, EnclosureRow, enclosure)
    for at in range(0, len(members), AT_ONCE):
        tx.exec(
            update(DesiredRow)
            .where(col(DesiredRow.device).in_(members[at : at + AT_ONCE]))
            .values(enclosure=enclosure.digest)
        )


def issue_orders(tx: Transaction, terms: Mapping[DeviceId, Term]) -> None:
    """Give orders their terms."""
    rows = [
        {
            "device": device,
            "generation": term.generation,
            "epoch": term.epoch,
            "issued_at": term.issued,
            "expires_at": term.expires,
            "snapshot": term.snapshot,
        }
        for device, term in terms.items()
    ]
    tx.execute(update(DesiredRow), rows)


def get_enclosure(tx: Transaction, digest: Digest) -> Enclosure | None:
    return get(tx, EnclosureRow, digest, Enclosure)


def drop_loose_enclosures(tx: Transaction) -> None:
    """Remove what no order travels with any more."""
    used = select(DesiredRow.enclosure).where(col(DesiredRow.enclosure).is_not(None))
    tx.exec(delete(EnclosureRow).where(col(EnclosureRow.digest).not_in(used)))


def get_journey(tx: Transaction, deployment: DeploymentId) -> Journey | None:
    return get(tx, DeploymentRow, deployment, Journey)


def save_journey(tx: Transaction, journey: Journey) -> None:
    save(tx, DeploymentRow, journey)


def open_journeys(tx: Transaction, device: DeviceId) -> Sequence[Journey]:
    """Return the device's deployments that have not ended."""
    rows = tx.exec(
        select(DeploymentRow).where(
            DeploymentRow.device == device, col(DeploymentRow.ended_at).is_(None)
        )
    )
    return [to_record(row, Journey) for row in rows]


def journeys_of_device(tx: Transaction, device: DeviceId) -> Sequence[Journey]:
    """Return the device's deployments, the newest first."""
    rows = tx.exec(
        select(DeploymentRow)
        .where(DeploymentRow.device == device)
        .order_by(col(DeploymentRow.ordered_at).desc())
    )
    return [to_record(row, Journey) for row in rows]


def journeys_of_rollout(tx: Transaction, rollout: RolloutName) -> Sequence[Journey]:
    """Return the deployments that a rollout ordered, the oldest first."""
    rows = tx.exec(
        select(DeploymentRow)
        .where(DeploymentRow.rollout == rollout)
        .order_by(col(DeploymentRow.ordered_at), col(DeploymentRow.id))
    )
    return [to_record(row, Journey) for row in rows]
