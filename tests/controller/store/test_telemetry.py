"""Events and windows: idempotent, in any order, acknowledged without a gap."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.builders import a_digest, a_histogram, a_store_id, an_alias
from tests.controller.stores import a_store, add_devices
from wherry.messages import Ack
from wherry.names import DeviceId
from wherry_controller.store import telemetry
from wherry_controller.store.records import EventRecord, Window

DEVICE = DeviceId("pi-1")


def an_event_record(seq: int, *, store: int = 1) -> EventRecord:
    return EventRecord(
        device=DEVICE, store_id=a_store_id(store), seq=seq, body=f"{seq}", received_at=0.0
    )


def a_window(seq: int, *, received_at: float = 0.0) -> Window:
    return Window(
        device=DEVICE,
        store_id=a_store_id(),
        seq=seq,
        alias=an_alias(),
        bundle=a_digest("bundle"),
        received_at=received_at,
        window_s=5.0,
        requests=10,
        errors=1,
        latency=a_histogram(1.0),
        compute=a_histogram(1.0, 2.0),
        labelled=4,
        right=3,
        sent_bytes=100,
        received_bytes=200,
    )


def longest_run(seqs: Sequence[int]) -> int:
    run = 0
    while run + 1 in seqs:
        run += 1
    return run


@settings(max_examples=40, deadline=None)
@given(batches=st.lists(st.lists(st.integers(1, 12), max_size=6), max_size=6))
@example(batches=[[3], [2], [1]])
@example(batches=[[1, 1, 2], [4], [3, 4]])
def test_an_ack_covers_exactly_what_has_no_gap_below_it(batches: list[list[int]]) -> None:
    came: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        store = a_store(Path(folder))
        with store.transaction() as tx:
            add_devices(tx, "pi-1")
        for batch in batches:
            came += batch
            with store.transaction() as tx:
                acks = telemetry.add_events(tx, map(an_event_record, batch))
            if batch:
                assert acks == {DEVICE: [Ack(store_id=a_store_id(), seq=longest_run(came))]}
        with store.reading() as tx:
            stored = {event.seq for event in telemetry.list_events(tx, DEVICE)}
        assert stored == set(came)
        store.close()


def test_a_device_made_anew_begins_at_one_again(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    with store.transaction() as tx:
        add_devices(tx, "pi-1")
        telemetry.add_events(tx, [an_event_record(1), an_event_record(2)])
        acks = telemetry.add_events(tx, [an_event_record(1, store=2)])
        assert acks == {DEVICE: [Ack(store_id=a_store_id(2), seq=1)]}
        assert telemetry.covered(tx, DEVICE, a_store_id(1)).seq == 2


def test_a_window_that_comes_twice_counts_once(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    with store.transaction() as tx:
        add_devices(tx, "pi-1")
        telemetry.add_windows(tx, [a_window(1), a_window(1)])
        telemetry.add_windows(tx, [a_window(2), a_window(1)])
        sums = telemetry.sums(tx, DEVICE, a_digest("bundle"), since=0.0, until=1.0)
    assert (sums.requests, sums.errors, sums.labelled, sums.right) == (20, 2, 8, 6)
    assert sums.compute.total == 4


def test_sums_are_of_the_span_and_the_bundle_that_were_asked_for(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    with store.transaction() as tx:
        add_devices(tx, "pi-1")
        telemetry.add_windows(tx, [a_window(seq, received_at=float(seq)) for seq in range(1, 9)])
        some = telemetry.sums(tx, DEVICE, a_digest("bundle"), since=3.0, until=6.0)
        none = telemetry.sums(tx, DEVICE, a_digest("another"), since=0.0, until=9.0)
    assert (some.requests, none.requests) == (30, 0)
