"""Advice beside orders: sources and pace for all, a site's share, deltas of what a device has."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.builders import a_digest, a_reported
from tests.controller.stores import a_store, add_devices
from wherry import codec
from wherry.blobs import digest_of
from wherry.messages import Delta, Desired, Pace, Slots
from wherry.names import AliasName, DeviceId, Digest, parse_device_id
from wherry_controller.services.delivery import LARGEST_DELTAS, Advisor
from wherry_controller.services.publisher import Beside, SignedOrder
from wherry_controller.services.shelving import Place, Shelved
from wherry_controller.settings import Delivery, Fleet, Site
from wherry_controller.store import devices
from wherry_controller.store.database import Store

ONE, TWO, THREE = (parse_device_id(name) for name in ("pi-1", "pi-2", "pi-3"))
NEW, OLD, OLDER = (a_digest(name) for name in ("new", "old", "older"))


@dataclass
class Deltas:
    """Knows a delta from each base to each bundle; `asked` are the pairs that were asked for."""

    asked: list[tuple[tuple[Digest, ...], Digest]] = field(default_factory=list)

    def offers(self, base_bundles: Collection[Digest], bundle: Digest) -> tuple[Delta, ...]:
        self.asked.append((tuple(base_bundles), bundle))
        return tuple(Delta(blob=bundle, base=base, index=base) for base in base_bundles)

    def chunks_of(self, delta: Delta) -> Shelved | None:
        if delta.index is None:
            return None
        return Shelved(b"index", {delta.index: Place(delta.index, 0, 5)})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = a_store(tmp_path)
    with store.transaction() as tx:
        add_devices(tx, ONE, TWO, THREE)
    return store


def change(store: Store, device: DeviceId, **facts: object) -> None:
    with store.transaction() as tx:
        record = devices.get_device(tx, device)
        assert record is not None
        devices.save_device(tx, replace(record, **facts))


def advice(store: Store, advisor: Advisor, device: DeviceId, *fetching: DeviceId) -> Beside:
    with store.reading() as tx:
        return advisor.begin(tx, frozenset(fetching))(device, frozenset({NEW}))


def test_sources_and_a_device_s_own_limits_are_for_every_device(store: Store) -> None:
    limits = Delivery(
        sources=("https://mirror/blobs",), device_bytes_per_s=500.0, device_bytes_per_day=7000
    )
    beside = advice(store, Advisor(limits), ONE)
    assert beside.sources == ("https://mirror/blobs",)
    assert beside.pace == Pace(bytes_per_s=500.0, bytes_per_day=7000)


def test_a_site_s_limits_are_divided_among_those_that_fetch_there(store: Store) -> None:
    for device, site in ((ONE, "harbour"), (TWO, "harbour"), (THREE, "hill")):
        change(store, device, tags={"site": site})
    limits = Delivery(site_bytes_per_s=1000.0, sites={"hill": Site(bytes_per_s=80.0)})
    advisor = Advisor(limits)
    everyone = (ONE, TWO, THREE)
    assert advice(store, advisor, ONE, *everyone).pace.bytes_per_s == 500.0
    assert advice(store, advisor, THREE, *everyone).pace.bytes_per_s == 80.0
    assert advice(store, advisor, ONE, ONE, THREE).pace.bytes_per_s == 1000.0


def test_a_device_without_a_site_shares_with_nobody(store: Store) -> None:
    advisor = Advisor(Delivery(site_bytes_per_s=1000.0))
    assert advice(store, advisor, ONE, ONE, TWO).pace == Pace()


def test_deltas_are_offered_from_what_a_device_reports(store: Store) -> None:
    deltas = Deltas()
    slots = {AliasName("default"): Slots(active=OLD, previous=OLDER)}
    change(store, ONE, reported=replace(a_reported(), slots=slots))
    beside = advice(store, Advisor(Delivery(), deltas), ONE)
    assert {delta.base for delta in beside.deltas} == {OLD, OLDER}
    assert advice(store, Advisor(Delivery(), deltas), TWO).deltas == ()


def test_a_bundle_that_is_there_already_needs_no_delta(store: Store) -> None:
    deltas = Deltas()
    slots = {AliasName("default"): Slots(active=NEW, previous=OLD)}
    change(store, ONE, reported=replace(a_reported(), slots=slots))
    assert advice(store, Advisor(Delivery(), deltas), ONE).deltas == ()
    assert deltas.asked == []


def test_no_order_carries_more_than_a_few_deltas(store: Store) -> None:
    many = {
        AliasName(f"a{n}"): Slots(active=digest_of(b"%d" % n)) for n in range(LARGEST_DELTAS + 3)
    }
    change(store, ONE, reported=replace(a_reported(), slots=many))
    beside = advice(store, Advisor(Delivery(), Deltas()), ONE)
    assert len(beside.deltas) == LARGEST_DELTAS


def test_only_deltas_that_are_made_take_room_on_the_broker() -> None:
    advisor = Advisor(Delivery(), Deltas())
    made = Delta(blob=NEW, base=OLD, index=OLD)
    assert set(advisor.shelved([made, Delta(blob=NEW, base=OLDER)])) == {OLD}
    assert Advisor(Delivery()).shelved([made]) == {}


def test_reconnects_are_spread_by_the_number_of_devices(store: Store) -> None:
    assert advice(store, Advisor(Delivery()), ONE).spread_s == 0.0
    assert (
        advice(store, Advisor(Delivery(), fleet=Fleet(reconnects_per_s=1.0)), ONE).spread_s == 4.0
    )


def test_what_lies_beside_an_order_travels_with_it() -> None:
    beside = Beside(
        packet="packet", sources=("https://mirror",), pace=Pace(bytes_per_s=1.0), spread_s=4.0
    )
    order = SignedOrder(b'{"signed":{},"signatures":[]}', frozenset(), beside)
    told = codec.decode(Desired, order.message)
    assert (told.packet, told.sources, told.pace, told.spread_s) == (
        "packet",
        ("https://mirror",),
        Pace(bytes_per_s=1.0),
        4.0,
    )
