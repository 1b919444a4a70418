"""The recorder loses nothing and counts nothing twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from wherry.histogram import Histogram, from_durations, merge
from wherry.measures import Feedback
from wherry.names import AliasName, Digest
from wherry_agent.telemetry import Recorder, WindowCounts

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
