"""Threats that the controller meets by what it knows of its fleet."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import a_device_id, a_reported, a_store_id, an_alias
from tests.controller.services.test_orders import Bench as Orders
from tests.controller.services.test_rollouts import PI_1, PI_2, PI_3
from tests.controller.services.test_rollouts import Bench as Rollouts
from tests.controller.stores import a_store, add_devices
from wherry import codec
from wherry.names import parse_rollout_name
from wherry.trust.documents import expires_at
from wherry.trust.making import DAY_S
from wherry.trust.repository import Repository
from wherry_controller.core.audit import Entry, Kind
from wherry_controller.core.rollout import RolloutStatus
from wherry_controller.services.fleet import device_of
from wherry_controller.services.ingest import Ingest, Message
from wherry_controller.store.audit import list_entries
from wherry_controller.store.database import Store
from wherry_controller.store.records import Device, Flag

DEVICE = a_device_id()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = a_store(tmp_path)
    with store.transaction() as tx:
        add_devices(tx, DEVICE)
    return store


def device(store: Store) -> Device:
    with store.reading() as tx:
        return device_of(tx, DEVICE)


def audited(store: Store) -> list[Entry]:
    with store.reading() as tx:
        return [codec.decode(Entry, body.encode()) for body in list_entries(tx)]


def published(bench: Orders | Rollouts) -> Repository:
    with bench.store.reading() as tx:
        return bench.trust.repository(tx)


def hear(store: Store, *said: tuple[int, int]) -> None:
    """Take reports, each of a store and its number, one after another."""
    for number, (seed, seq) in enumerate(said):
        reported = a_reported(store_id=a_store_id(seed), report_seq=seq)
        Ingest(store).take([Message(DEVICE, reported, live=True)], now=float(number))


def test_two_live_devices_with_one_identity_are_flagged_and_audited_once(store: Store) -> None:
    hear(store, (1, 1), (1, 2), (2, 1), (1, 3), (2, 2), (1, 4))
    assert device(store).flagged is Flag.TWO_LIVE
    (entry,) = audited(store)
    assert (entry.kind, entry.at) == (Kind.FLAGGED, 3.0)
    assert entry.facts == {
        "device": DEVICE,
        "flag": "two_live",
        "epoch": "0",
        "stores": f"{a_store_id(2)}, {a_store_id(1)}",
    }


def test_a_device_that_was_made_anew_is_not_flagged(store: Store) -> None:
    hear(store, (1, 1), (1, 2), (2, 1), (1, 2), (1, 1), (2, 2), (3, 1))
    assert device(store).flagged is None
    assert device(store).store_id == a_store_id(3)
    assert audited(store) == []


def test_a_controller_that_was_down_for_ten_days_signs_anew_and_goes_on(tmp_path: Path) -> None:
    bench = Orders(tmp_path)
    bench.order(PI_1)
    bench.follow(PI_1)
    before, told = published(bench), bench.told(PI_1)
    bench.sent()
    bench.now += 10 * DAY_S
    assert expires_at(before.timestamp.signed) < bench.now
    with bench.store.transaction() as tx:
        assert bench.trust.resign(tx, bench.now)
    bench.restart()
    after = published(bench)
    assert expires_at(after.timestamp.signed) > bench.now + 3 * DAY_S
    assert bench.sent() == ["TimestampTopic"]
    assert (bench.told(PI_1), after.targets, after.snapshot) == (
        told,
        before.targets,
        before.snapshot,
    )


def test_a_revert_needs_the_key_of_the_director_and_no_other(tmp_path: Path) -> None:
    bench = Rollouts(tmp_path)
    good, sick = bench.release("v1"), bench.release("v2")
    before = published(bench)
    bench.bundle_key = None  # As are the offline keys all along: on another machine.
    bench.restart()
    bench.rollouts.revert(parse_rollout_name("v2"), bench.now)
    bench.answer()
    for device in (PI_1, PI_2, PI_3):
        order = bench.order_for(device)
        assert order is not None
        assert order.aliases[an_alias()].bundle == good.digest
        assert order.revoked == (sick.digest,)
        bench.follow_order(device)
    bench.tick()
    assert bench.state("v2").status is RolloutStatus.REVERTED
    assert published(bench) == before
    with bench.store.reading() as tx:
        assert not bench.trust.waiting(tx)
        assert bench.trust.unpublished(tx, an_alias(), [good.digest]) == ()
