"""Threats that the controller meets by what it knows of its fleet."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import a_device_id, a_reported, a_store_id
from tests.controller.stores import a_store, add_devices
from wherry import codec
from wherry_controller.core.audit import Entry, Kind
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
