"""Devices, groups and orders: what an operator or a rollout wants of the fleet.

An order is a device's whole desired state. It is saved first and published by difference, so
what a kill left unpublished is published at the next connect.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from wherry.errors import Unsuitable
from wherry.messages import Delta, Trial, Wanted
from wherry.names import AliasName, DeviceId, Digest, GroupName, ProfileName, RolloutName, TrialId
from wherry.reasons import Status
from wherry_controller.core import device as core
from wherry_controller.services import machines
from wherry_controller.services.missing import (
    Taken,
    UnknownBundle,
    UnknownDevice,
    UnknownGroup,
    UnknownProfile,
)
from wherry_controller.services.orders import Orders, bundles_of, order_of, save_order
from wherry_controller.services.publisher import Publisher, Shelved, shelve
from wherry_controller.store import devices, models
from wherry_controller.store.database import Store, Transaction
from wherry_controller.store.fetching import Ordered, fetching_devices, ordered_bundles
from wherry_controller.store.records import Device, Group, Journey

ShelveDeltas = Callable[[Collection[Delta]], Mapping[Digest, Shelved]]


class InARollout(Unsuitable):
    """A device that an open rollout reaches."""

    def __init__(self, device: str, rollout: str) -> None:
        super().__init__(device, rollout)
        self.device, self.rollout = device, rollout

    def __str__(self) -> str:
        return (
            f"device {self.device!r} is in the open rollout {self.rollout!r}: "
            "wait until that has ended, or cancel it."
        )


def no_deltas(_: Collection[Delta]) -> Mapping[Digest, Shelved]:
    return {}


class Fleet:
    """The devices of this controller; one thread calls it."""

    def __init__(
        self,
        store: Store,
        publisher: Publisher,
        orders: Orders,
        *,
        deltas: ShelveDeltas = no_deltas,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._orders = orders
        self._deltas = deltas
        self._shelved: dict[Digest, Shelved] = {}

    def add_device(
        self, device: DeviceId, profile: ProfileName, tags: Mapping[str, str], *, now: float
    ) -> Device:
        """Add a device; raise `Taken` or `UnknownProfile`."""
        record = Device(id=device, profile=profile, tags=dict(tags), registered_at=now)
        with self._store.transaction() as tx:
            if devices.get_device(tx, device) is not None:
                raise Taken("device", device)
            if models.get_profile(tx, profile) is None:
                raise UnknownProfile(profile, [one.name for one in models.list_profiles(tx)])
            devices.save_device(tx, record)
        return record

    def remove_device(self, device: DeviceId, *, now: float) -> None:
        """Remove a device and clear its topics; raise `UnknownDevice` or `InARollout`."""
        with self._store.transaction() as tx:
            device_of(tx, device)
            rollout = machines.rollout_of_device(tx, device)
            if rollout is not None:
                raise InARollout(device, rollout)
            devices.remove_device(tx, device)
        self._publisher.forget(device)
        self.publish(now)

    def set_group(self, name: GroupName, members: Iterable[DeviceId]) -> Group:
        """Make a group hold exactly these devices; raise `UnknownDevice`."""
        group = Group(name, tuple(sorted(set(members))))
        with self._store.transaction() as tx:
            for device in group.devices:
                device_of(tx, device)
            devices.save_group(tx, group)
        return group

    def remove_group(self, name: GroupName) -> None:
        """Remove a group, not its devices; raise `UnknownGroup`."""
        with self._store.transaction() as tx:
            group_of(tx, name)
            devices.remove_group(tx, name)

    def note_silent(self, before: float) -> None:
        """Count as offline who was last heard of before a time: a will may never come."""
        with self._store.transaction() as tx:
            devices.note_silent(tx, before)

    def publish(self, now: float) -> None:
        """Have the broker retain trust metadata, every order, and the bundles devices may need."""
        retained = self._orders.retained(now)
        orders = retained.orders
        with self._store.reading() as tx:
            ways_back = machines.bundles_of_ways_back(tx)
            needed = ways_back.union(*(order.bundles for order in orders.values()))
            newest = ordered_bundles(tx)
            bundles = {digest: self.shelved(tx, digest) for digest in _in_order(needed, newest)}
            fetching = fetching_devices(tx)
        # A delta is the shorter way of who fetches: it is held as long as one does.
        offered = {d for device in fetching & orders.keys() for d in orders[device].beside.deltas}
        deltas = self._deltas(offered)
        self._publisher.want(
            orders,
            {**bundles, **deltas},
            now,
            must=ways_back.union(_in_progress(needed, newest), deltas),
            trust=retained.trust,
        )

    def shelved(self, tx: Transaction, digest: Digest) -> Shelved:
        """Return what a bundle takes on the broker; raise `UnknownBundle`."""
        if digest not in self._shelved:
            envelope = models.get_envelope(tx, digest)
            if envelope is None:
                raise UnknownBundle(digest)
            self._shelved[digest] = shelve(envelope)
        return self._shelved[digest]


def needed_bundles(tx: Transaction) -> frozenset[Digest]:
    """Return what the broker must hold: of open deployments, trials and ways back.

    The others that orders name are held as long as there is room.
    """
    orders = (order_of(desired) for desired in devices.list_desired(tx))
    named = frozenset[Digest]().union(*map(bundles_of, orders))
    return machines.bundles_of_ways_back(tx) | _in_progress(named, ordered_bundles(tx))


def _in_progress(named: frozenset[Digest], newest: Mapping[Digest, Ordered]) -> frozenset[Digest]:
    """Return the bundles of open deployments, and of trials, which are no deployments."""
    return frozenset(one for one in named if one not in newest or newest[one].is_open)


def _in_order(named: Iterable[Digest], newest: Mapping[Digest, Ordered]) -> Sequence[Digest]:
    """Return bundles as they were ordered, the newest first."""
    return sorted(named, key=lambda one: (-newest[one].ordered_at if one in newest else 0.0, one))


def device_of(tx: Transaction, device: DeviceId) -> Device:
    """Return a device; raise `UnknownDevice`."""
    record = devices.get_device(tx, device)
    if record is None:
        raise UnknownDevice(device)
    return record


def group_of(tx: Transaction, name: GroupName) -> Group:
    """Return a group; raise `UnknownGroup`."""
    group = devices.get_group(tx, name)
    if group is None:
        raise UnknownGroup(name)
    return group


def order(
    tx: Transaction,
    device: DeviceId,
    alias: AliasName,
    wanted: Wanted,
    *,
    rollout: RolloutName | None,
    now: float,
    revoked: Digest | None = None,
) -> None:
    """Want a bundle of a device from now on, and not `revoked`; twice is the same as once."""
    before = order_of(devices.get_desired(tx, device))
    after = core.want(before, alias, wanted, revoked=revoked)
    if after == before:
        return
    save_order(tx, after)
    if devices.get_journey(tx, wanted.deployment) is None:
        journey = Journey(
            id=wanted.deployment,
            device=device,
            rollout=rollout,
            alias=alias,
            bundle=wanted.bundle,
            ordered_at=now,
        )
        devices.save_journey(tx, journey)


def withdraw(tx: Transaction, device: DeviceId, alias: AliasName) -> None:
    """Want nothing of a device under an alias from now on."""
    before = order_of(devices.get_desired(tx, device))
    after = core.withdraw(before, alias)
    if after != before:
        save_order(tx, after)


def order_trials(tx: Transaction, device: DeviceId, trials: Collection[Trial]) -> None:
    """Want that a device measures bundles; twice is the same as once."""
    before = order_of(devices.get_desired(tx, device))
    after = core.order_trials(before, trials)
    if after != before:
        save_order(tx, after)


def end_trials(tx: Transaction, device: DeviceId, trials: Collection[TrialId]) -> None:
    """Want these trials of a device no more."""
    before = order_of(devices.get_desired(tx, device))
    after = core.end_trials(before, trials)
    if after != before:
        save_order(tx, after)


def outrun(tx: Transaction, device: DeviceId, generation: int) -> bool:
    """Make the device's order newer than one that it has accepted; say whether that was needed."""
    before = order_of(devices.get_desired(tx, device))
    after = core.outrun(before, generation)
    if after != before:
        save_order(tx, after)
    return after != before


def serving(
    tx: Transaction, members: Sequence[DeviceId], alias: AliasName
) -> Mapping[DeviceId, Digest | None]:
    """Return the bundle that each device serves under an alias, None where it is none.

    It is what the device reports, unless a later deployment has succeeded since: its event may
    overtake the report.
    """
    return {device: _serving(tx, device, alias) for device in members}


def _serving(tx: Transaction, device: DeviceId, alias: AliasName) -> Digest | None:
    record = devices.get_device(tx, device)
    reported = record.reported if record else None
    slots = reported.slots.get(alias) if reported else None
    told = reported.deployments.get(alias) if reported else None
    for journey in devices.journeys_of_device(tx, device):
        if journey.alias == alias and told is not None and told.deployment == journey.id:
            break
        if journey.alias == alias and journey.status is Status.SUCCEEDED:
            return journey.bundle
    return slots.active if slots else None
