"""What lies beside a device's order: deltas, sources, pace, and a spread for its reconnects."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from wherry.errors import REFUSALS
from wherry.messages import Delta, Pace
from wherry.names import DeviceId, Digest
from wherry_controller.core.pacing import SITE_TAG, count_sites, pace_of, spread_of
from wherry_controller.services.publisher import Beside, Shelved
from wherry_controller.settings import Delivery as Limits
from wherry_controller.settings import Fleet as FleetLimits
from wherry_controller.store import devices, fetching
from wherry_controller.store.database import Transaction

FLEET = FleetLimits()
LARGEST_DELTAS = 8  # Of one order: desired stays short.

Advise = Callable[[DeviceId, frozenset[Digest]], Beside]


class Deltas(Protocol):
    """What knows the deltas between bundles, and has them made; see `services.deltas`."""

    def offers(self, base_bundles: Collection[Digest], bundle: Digest) -> tuple[Delta, ...]: ...

    def chunks_of(self, delta: Delta) -> Shelved | None: ...


class Advisor:
    """Advises the devices of this controller; one thread calls it."""

    def __init__(
        self, limits: Limits, deltas: Deltas | None = None, *, fleet: FleetLimits = FLEET
    ) -> None:
        self._limits = limits
        self._fleet = fleet
        self._deltas = deltas
        self._shelved: dict[Digest, Shelved] = {}

    def begin(self, tx: Transaction, fetching_now: Collection[DeviceId]) -> Advise:
        """Return what advises a device within one reading of the database."""
        tags = fetching.tags_of(tx, fetching_now) if self._knows_sites() else {}
        at_sites = count_sites(tags)
        spread_s = spread_of(devices.count_devices(tx), self._fleet.reconnects_per_s)

        def advise(device: DeviceId, bundles: frozenset[Digest]) -> Beside:
            site = tags.get(device, {}).get(SITE_TAG)
            pace = self._pace(site, at_sites.get(site, 1) if site else 1)
            deltas = self._offers(tx, device, bundles)
            sources = self._limits.sources
            return Beside(deltas=deltas, sources=sources, pace=pace, spread_s=spread_s)

        return advise

    def shelved(self, deltas: Collection[Delta]) -> Mapping[Digest, Shelved]:
        """Return what the deltas that are made take on the broker, by their indexes."""
        if self._deltas is None:
            return {}
        made = {delta.index: delta for delta in deltas if delta.index is not None}
        for index in sorted(made.keys() - self._shelved.keys()):
            with contextlib.suppress(*REFUSALS):  # A lost one is fetched by nobody: whole instead.
                if (shelved := self._deltas.chunks_of(made[index])) is not None:
                    self._shelved[index] = shelved
        return {index: self._shelved[index] for index in sorted(made) if index in self._shelved}

    def _knows_sites(self) -> bool:
        limits = self._limits
        return bool(limits.sites) or limits.site_pace != Pace()

    def _pace(self, site: str | None, fetching_there: int) -> Pace:
        if site is None:
            return self._limits.device_pace
        of_site = self._limits.pace_of(site)
        return pace_of(self._limits.device_pace, of_site, fetching_there)

    def _offers(
        self, tx: Transaction, device: DeviceId, bundles: frozenset[Digest]
    ) -> tuple[Delta, ...]:
        record = devices.get_device(tx, device) if self._deltas is not None else None
        if self._deltas is None or record is None or record.reported is None:
            return ()
        slots = record.reported.slots.values()
        there = {one for slot in slots for one in (slot.active, slot.previous) if one is not None}
        offers = [
            delta
            for bundle in sorted(bundles - there)
            for delta in self._deltas.offers(sorted(there), bundle)
        ]
        return tuple(offers[:LARGEST_DELTAS])
