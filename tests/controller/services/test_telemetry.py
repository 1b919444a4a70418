"""Evidence that grows by reading on."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.builders import a_device_id, a_histogram, a_telemetry
from tests.controller.stores import a_store, add_devices
from wherry.histogram import merge
from wherry.measures import Feedback, ShadowCounts
from wherry_controller.services.telemetry import Sides, window_of
from wherry_controller.store import telemetry

DEVICE = a_device_id()
BUNDLE = a_telemetry().bundle


@settings(max_examples=15, deadline=None)
@given(counts=st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_reading_on_after_each_batch_is_reading_everything_once(counts: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = a_store(Path(folder))
        sides, seq = Sides(), 0
        with store.transaction() as tx:
            add_devices(tx, DEVICE)
            for now, count in enumerate(counts, 1):
                said = [a_telemetry(seq + number) for number in range(1, count + 1)]
                telemetry.add_windows(tx, [window_of(DEVICE, one, float(now)) for one in said])
                seq += count
                candidate = sides.candidate(tx, DEVICE, BUNDLE, since=0.5, until=float(now))
                incumbent = sides.incumbent(tx, DEVICE, BUNDLE, since=0.0, until=float(now))
            candidate = sides.candidate(tx, DEVICE, BUNDLE, since=0.5, until=99.0)
            incumbent = sides.incumbent(tx, DEVICE, BUNDLE, since=0.0, until=99.0)
        store.close()
    assert candidate.feedback == incumbent.feedback == Feedback(labelled=2 * seq, right=seq)
    assert candidate.compute == (a_histogram(0.5, 1, 2),) * seq
    assert incumbent.compute == (merge(candidate.compute),)


def test_a_span_leaves_out_what_came_before_it(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    with store.transaction() as tx:
        add_devices(tx, DEVICE)
        early, late = (window_of(DEVICE, a_telemetry(seq), seq * 10.0) for seq in (1, 2))
        telemetry.add_windows(tx, [early, late])
        side = Sides().candidate(tx, DEVICE, BUNDLE, since=15.0, until=30.0)
    assert side.feedback.labelled == 2


def test_what_a_candidate_showed_shadowing_is_added_up(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    with store.transaction() as tx:
        add_devices(tx, DEVICE)
        counts = ShadowCounts(requests=10, rows=20, agreed=19)
        for seq in (1, 2):
            window = replace(window_of(DEVICE, a_telemetry(seq), 1.0), shadow=counts)
            telemetry.add_windows(tx, [window])
        side = Sides().candidate(tx, DEVICE, BUNDLE, since=0.0, until=9.0)
    assert (side.shadow.rows, side.shadow.agreed) == (40, 38)
