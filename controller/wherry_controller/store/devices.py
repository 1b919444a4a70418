"""Devices, groups and what is wanted of each device, in the database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlmodel import col, delete, select

from wherry.names import AliasName, DeviceId, Digest, GroupName, RolloutName
from wherry_controller.store.convert import add, replace, to_record
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import Desired, Device, Group, Journey
from wherry_controller.store.refusals import Taken, Unknown
from wherry_controller.store.tables import (
    DeploymentRow,
    DesiredRow,
    DeviceRow,
    GroupRow,
    MemberRow,
    ProfileRow,
)


def add_device(tx: Transaction, device: Device) -> None:
    """Add a device; raise `Taken`, or `Unknown` for its profile."""
    if tx.get(DeviceRow, device.id) is not None:
        raise Taken("device", device.id)
    if tx.get(ProfileRow, device.profile) is None:
        raise Unknown("profile", device.profile)
    add(tx, DeviceRow, device)


def save_device(tx: Transaction, device: Device) -> None:
    """Replace what is known of a device; raise `Unknown`."""
    replace(_device_row(tx, device.id), device)


def remove_device(tx: Transaction, device: DeviceId) -> None:
    """Remove a device and everything that it sent; raise `Unknown`."""
    tx.delete(_device_row(tx, device))
    tx.flush()


def get_device(tx: Transaction, device: DeviceId) -> Device:
    """Return a device; raise `Unknown`."""
    return to_record(_device_row(tx, device), Device)


def find_device(tx: Transaction, device: DeviceId) -> Device | None:
    row = tx.get(DeviceRow, device)
    return None if row is None else to_record(row, Device)


def list_devices(tx: Transaction) -> Sequence[Device]:
    rows = tx.exec(select(DeviceRow).order_by(col(DeviceRow.id)))
    return [to_record(row, Device) for row in rows]


def save_group(tx: Transaction, name: GroupName, devices: Iterable[DeviceId]) -> None:
    """Make the group hold exactly `devices`, added where it was not there; raise `Unknown`."""
    members = sorted(set(devices))
    for device in members:
        _device_row(tx, device)
    if tx.get(GroupRow, name) is None:
        tx.add(GroupRow(name=name))
    tx.exec(delete(MemberRow).where(col(MemberRow.group) == name))
    tx.flush()
    tx.add_all(MemberRow(group=name, device=device) for device in members)
    tx.flush()


def remove_group(tx: Transaction, name: GroupName) -> None:
    """Remove a group, not its devices; raise `Unknown`."""
    row = tx.get(GroupRow, name)
    if row is None:
        raise Unknown("group", name)
    tx.delete(row)
    tx.flush()


def get_group(tx: Transaction, name: GroupName) -> Group:
    """Return a group with its devices in order; raise `Unknown`."""
    if tx.get(GroupRow, name) is None:
        raise Unknown("group", name)
    rows = tx.exec(select(MemberRow).where(MemberRow.group == name).order_by(col(MemberRow.device)))
    return Group(name, tuple(DeviceId(row.device) for row in rows))


def list_groups(tx: Transaction) -> Sequence[Group]:
    names = tx.exec(select(GroupRow.name).order_by(col(GroupRow.name))).all()
    return [get_group(tx, GroupName(name)) for name in names]


def get_desired(tx: Transaction, device: DeviceId) -> Desired:
    """Return what is wanted of a device: nothing, at generation 0, before its first order."""
    row = tx.get(DesiredRow, device)
    return Desired(device=device) if row is None else to_record(row, Desired)


def list_desired(tx: Transaction) -> Sequence[Desired]:
    """Return what is wanted of every device that was ever ordered anything."""
    rows = tx.exec(select(DesiredRow).order_by(col(DesiredRow.device)))
    return [to_record(row, Desired) for row in rows]


def save_desired(tx: Transaction, desired: Desired) -> None:
    row = tx.get(DesiredRow, desired.device)
    if row is None:
        add(tx, DesiredRow, desired)
    else:
        replace(row, desired)


def save_journey(tx: Transaction, journey: Journey) -> None:
    """Add a deployment, or replace what is known of it."""
    row = tx.get(DeploymentRow, journey.id)
    if row is None:
        add(tx, DeploymentRow, journey)
    else:
        replace(row, journey)


def find_journey(tx: Transaction, deployment: str) -> Journey | None:
    row = tx.get(DeploymentRow, deployment)
    return None if row is None else to_record(row, Journey)


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


def confirmed_bundle(tx: Transaction, device: DeviceId, alias: AliasName) -> Digest | None:
    """Return the bundle that the device says it serves under an alias, if any."""
    reported = get_device(tx, device).reported
    slots = reported.slots.get(alias) if reported else None
    return slots.active if slots else None


def _device_row(tx: Transaction, device: DeviceId) -> DeviceRow:
    row = tx.get(DeviceRow, device)
    if row is None:
        raise Unknown("device", device)
    return row
