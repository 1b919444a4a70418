"""The recorder loses nothing and counts nothing twice."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from wherry.histogram import Histogram, from_durations, merge
from wherry.measures import LARGEST_SUM, Feedback, Seen, ShadowCounts
from wherry.names import AliasName, Digest
from wherry_agent.asking import Compared
from wherry_agent.telemetry import TOTALS_KEPT, Recorder, WindowCounts

DEFAULT, OTHER = AliasName("default"), AliasName("other")
A, B = Digest("a" * 64), Digest("b" * 64)

DURATIONS = st.lists(st.tuples(st.sampled_from([A, B]), st.integers(0, 1 << 40)), max_size=40)


def answer(recorder: Recorder, bundle: Digest, latency_ns: int) -> None:
    recorder.answered(DEFAULT, bundle, latency_ns=latency_ns, compute_ns=latency_ns // 2)


def record_many(recorder: Recorder, count: int) -> None:
    for duration in range(count):
        answer(recorder, A, duration)


@given(DURATIONS, st.integers(0, 40))
def test_windows_add_up_to_all_that_was_recorded(
    durations: list[tuple[Digest, int]], cut: int
) -> None:
    recorder = Recorder()
    windows: list[WindowCounts] = []
    for at, (bundle, duration) in enumerate(durations):
        answer(recorder, bundle, duration)
        if at == cut:
            windows += recorder.take()
    windows += recorder.take()
    for bundle in (A, B):
        mine = [window for window in windows if window.bundle == bundle]
        expected = [duration for owner, duration in durations if owner == bundle]
        assert merge(window.latency for window in mine) == from_durations(expected)
        assert merge(w.compute for w in mine) == from_durations(d // 2 for d in expected)
        assert sum(window.requests for window in mine) == len(expected)


def test_a_window_is_taken_once() -> None:
    recorder = Recorder()
    answer(recorder, A, 5)
    assert len(recorder.take()) == 1
    assert recorder.take() == ()


def test_errors_are_counted_by_class_and_leave_the_histograms_alone() -> None:
    recorder = Recorder()
    for error in ("not_finite", "timed_out", "not_finite"):
        recorder.failed(DEFAULT, A, error)
    (window,) = recorder.take()
    assert (window.requests, window.errors) == (3, {"not_finite": 2, "timed_out": 1})
    assert window.latency == Histogram()


def test_aliases_and_bundles_are_kept_apart() -> None:
    recorder = Recorder()
    recorder.labelled(DEFAULT, A, Feedback(3, 2))
    recorder.labelled(OTHER, A, Feedback(1, 0))
    recorder.labelled(DEFAULT, A, Feedback(1, 1))
    feedback = {(window.alias, window.bundle): window.feedback for window in recorder.take()}
    assert feedback == {(DEFAULT, A): Feedback(4, 3), (OTHER, A): Feedback(1, 0)}


def test_nothing_is_lost_between_the_threads_that_record_and_take() -> None:
    recorder, taken = Recorder(), 0
    with ThreadPoolExecutor(2) as pool:
        recording = pool.submit(record_many, recorder, 20_000)
        while not recording.done():
            taken += sum(window.requests for window in recorder.take())
    assert taken + sum(window.requests for window in recorder.take()) == 20_000


def compared(rows: int = 2, agreed: int = 1, distance: float = 0.5) -> Compared:
    return Compared(
        B,
        rows=rows,
        agreed=agreed,
        distance=distance,
        largest_distance=distance / 2,
        compute_ns=1000,
    )


def test_what_a_candidate_showed_shadowing_is_counted_under_it() -> None:
    recorder = Recorder()
    recorder.shadowed(DEFAULT, compared(), incumbent_ns=2000)
    recorder.shadowed(DEFAULT, compared(rows=1, agreed=1, distance=0.25), incumbent_ns=500)
    recorder.failed_to_shadow(DEFAULT, B, "timed_out")
    for cause in ("busy", "too_hot", "busy"):
        recorder.skipped_shadowing(DEFAULT, B, cause)
    (window,) = recorder.take()
    assert (window.bundle, window.requests) == (B, 0)
    assert window.shadow == ShadowCounts(
        requests=3,
        rows=3,
        agreed=2,
        distance=0.75,
        largest_distance=0.25,
        compute=from_durations([1000, 1000]),
        incumbent_compute=from_durations([2000, 500]),
        errors={"timed_out": 1},
        skipped={"busy": 2, "too_hot": 1},
    )


def test_a_bundle_that_did_not_shadow_has_no_shadow_counts() -> None:
    recorder = Recorder()
    answer(recorder, A, 5)
    (window,) = recorder.take()
    assert window.shadow is None


def test_a_distance_without_end_is_told_as_the_largest_there_is() -> None:
    recorder = Recorder()
    recorder.shadowed(DEFAULT, compared(distance=math.inf), incumbent_ns=1)
    recorder.shadowed(DEFAULT, compared(distance=math.nan), incumbent_ns=1)
    (window,) = recorder.take()
    assert window.shadow is not None
    assert (window.shadow.distance, window.shadow.largest_distance) == (LARGEST_SUM, LARGEST_SUM)


def a_seen(name: str = "x") -> Seen:
    return Seen(name=name, rows=1, values=2, counts=(1, 1), zeros=0, not_finite=0)


def test_what_was_seen_adds_up_and_restarts_are_counted() -> None:
    recorder = Recorder()
    for _ in range(2):
        recorder.saw(DEFAULT, A, (a_seen(),), (a_seen("y"),))
        recorder.restarted(DEFAULT, A)
    (window,) = recorder.take()
    assert window.restarts == 2
    assert window.inputs == (a_seen() + a_seen(),)
    assert window.outputs == (a_seen("y") + a_seen("y"),)


def test_totals_are_of_everything_since_the_start() -> None:
    recorder = Recorder()
    answer(recorder, A, 100)
    recorder.take()
    answer(recorder, A, 50)
    recorder.failed(DEFAULT, B, "timed_out")
    for _ in range(2):
        by_bundle = {total.bundle: total for total in recorder.totals()}
        assert by_bundle[A].requests == 2
        assert (by_bundle[A].latency_ns, by_bundle[A].compute_ns) == (150, 75)
        assert by_bundle[A].latency == from_durations([100, 50])
        assert by_bundle[B].errors == {"timed_out": 1}
        recorder.take()


def test_totals_of_bundles_that_served_long_ago_are_let_go() -> None:
    recorder = Recorder()
    for number in range(TOTALS_KEPT + 3):
        recorder.failed(DEFAULT, A, "timed_out")
        recorder.failed(DEFAULT, Digest(f"{number:064}"), "timed_out")
        recorder.take()
    kept = {total.bundle: total.requests for total in recorder.totals()}
    assert len(kept) == TOTALS_KEPT
    assert kept[A] == TOTALS_KEPT + 3


def test_windows_of_one_bundle_add_up() -> None:
    recorder = Recorder()
    windows: list[WindowCounts] = []
    for _ in range(2):
        answer(recorder, B, 100)
        recorder.failed(DEFAULT, B, "timed_out")
        recorder.shadowed(DEFAULT, compared(), incumbent_ns=5)
        recorder.saw(DEFAULT, B, (a_seen(),), ())
        recorder.labelled(DEFAULT, B, Feedback(2, 1))
        recorder.restarted(DEFAULT, B)
        windows += recorder.take()
    first, second = (replace(window, worker_bytes=n) for n, window in enumerate(windows, 1))
    (total,) = recorder.totals()
    assert first + second == replace(total, worker_bytes=2)
    assert (total.requests, total.errors, total.restarts) == (4, {"timed_out": 2}, 2)
    assert (total.feedback, total.inputs) == (Feedback(4, 2), (a_seen() + a_seen(),))
    assert total.shadow == compared_twice()
    assert (first + replace(second, shadow=None)).shadow == first.shadow
    assert (replace(first, shadow=None) + second).shadow == second.shadow


def compared_twice() -> ShadowCounts:
    recorder = Recorder()
    for _ in range(2):
        recorder.shadowed(DEFAULT, compared(), incumbent_ns=5)
    (window,) = recorder.take()
    assert window.shadow is not None
    return window.shadow
