"""The rule by which a bundle is slow: by ratio and difference, in several windows in a row."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.histogram import Histogram, from_durations, merge
from wherry.latency import LatencyRule, compare, compare_beside

RULE = LatencyRule(window_requests=100)
QUICK, SLOW = 1.0, 4.0


def a_window(median_ms: float, requests: int = 100) -> Histogram:
    return from_durations([round(median_ms * 1e6)] * requests)


def is_slow(*medians_ms: float, rule: LatencyRule = RULE, incumbent_ms: float = QUICK) -> bool:
    windows = [a_window(median) for median in medians_ms]
    return compare(windows, a_window(incumbent_ms), rule).is_slow


def test_one_slow_window_says_nothing() -> None:
    assert not is_slow(SLOW)
    assert not is_slow(QUICK, SLOW, QUICK)


def test_two_slow_windows_in_a_row_are_slow() -> None:
    assert is_slow(SLOW, SLOW)
    assert is_slow(QUICK, SLOW, SLOW)


def test_what_was_slow_stays_slow() -> None:
    assert is_slow(SLOW, SLOW, QUICK, QUICK)


def test_slow_windows_that_are_not_neighbours_do_not_add_up() -> None:
    assert not is_slow(SLOW, QUICK, SLOW, QUICK, SLOW)


def test_as_many_windows_are_needed_as_the_rule_says() -> None:
    three = LatencyRule(window_requests=100, successive_windows=3)
    assert not is_slow(SLOW, SLOW, rule=three)
    assert is_slow(SLOW, SLOW, SLOW, rule=three)


def test_a_large_ratio_of_a_small_difference_is_not_slow() -> None:
    assert not is_slow(0.4, 0.4, incumbent_ms=0.1)


def test_a_large_difference_of_a_small_ratio_is_not_slow() -> None:
    assert not is_slow(18.0, 18.0, incumbent_ms=10.0)


def test_ratio_and_difference_have_the_defaults_of_the_rule() -> None:
    assert is_slow(2.3, 2.3, incumbent_ms=1.0)
    assert not is_slow(1.8, 1.8, incumbent_ms=1.0)
    assert is_slow(0.9, 0.9, incumbent_ms=0.3)
    assert not is_slow(0.7, 0.7, incumbent_ms=0.3)


def test_exactly_the_ratio_is_not_slow() -> None:
    # Twice a duration falls twice as high, to the last digit.
    assert not is_slow(8.0, 8.0, incumbent_ms=4.0)


def test_exactly_the_difference_is_not_slow() -> None:
    base, median = (compare([a_window(ms)], Histogram(), RULE).candidate_ms for ms in (1.0, 4.0))
    assert base is not None
    assert median is not None
    rule = LatencyRule(window_requests=100, difference_ms=median - base)
    assert not is_slow(4.0, 4.0, incumbent_ms=1.0, rule=rule)


def test_an_incumbent_with_too_few_requests_makes_nothing_slow() -> None:
    few, enough = a_window(QUICK, 99), a_window(QUICK, 100)
    assert not compare([a_window(SLOW)] * 5, few, RULE).is_slow
    assert compare([a_window(SLOW)] * 5, few, RULE).incumbent_ms is None
    assert not compare([a_window(SLOW)] * 5, Histogram(), RULE).is_slow
    assert compare([a_window(SLOW)] * 5, enough, RULE).is_slow


def test_small_histograms_are_added_to_windows() -> None:
    tenths = [a_window(SLOW, 10)] * 19
    assert not compare(tenths, a_window(QUICK), RULE).is_slow
    assert compare([*tenths, a_window(SLOW, 10)], a_window(QUICK), RULE).is_slow


def test_a_rest_with_too_few_requests_is_left_out() -> None:
    comparison = compare([a_window(QUICK), a_window(SLOW, 99)], a_window(QUICK), RULE)
    assert comparison.windows == 1
    assert comparison.candidate_ms == comparison.incumbent_ms


def test_a_window_begins_anew_after_each_that_is_full() -> None:
    # Were the slow requests still in the second window, its median would be slow as well.
    comparison = compare([a_window(SLOW, 150), a_window(QUICK, 100)], a_window(QUICK), RULE)
    assert comparison.windows == 2
    assert comparison.candidate_ms == comparison.incumbent_ms
    assert not comparison.is_slow


def test_nothing_measured_is_nothing_slow() -> None:
    comparison = compare([], Histogram(), RULE)
    assert (comparison.windows, comparison.is_slow) == (0, False)
    assert comparison.candidate_ms is comparison.incumbent_ms is None


def test_the_medians_are_told_in_milliseconds() -> None:
    comparison = compare([a_window(QUICK), a_window(SLOW)], a_window(QUICK), RULE)
    assert comparison.candidate_ms == pytest.approx(SLOW, rel=1 / 32)
    assert comparison.incumbent_ms == pytest.approx(QUICK, rel=1 / 32)


@given(st.lists(st.integers(1, 10**7), min_size=100, max_size=300))
def test_a_bundle_is_never_slower_than_itself(durations: list[int]) -> None:
    itself = from_durations(durations)
    assert not compare([itself] * 4, itself, RULE).is_slow


@given(st.lists(st.sampled_from([QUICK, SLOW]), max_size=8))
def test_slow_means_two_neighbours_somewhere(medians_ms: list[float]) -> None:
    neighbours = list(pairwise(medians_ms))
    assert is_slow(*medians_ms) == ((SLOW, SLOW) in neighbours)


@given(st.lists(st.integers(1, 250), max_size=12))
def test_every_window_is_full(sizes: list[int]) -> None:
    parts = [a_window(QUICK, size) for size in sizes]
    windows = compare(parts, a_window(QUICK), RULE).windows
    assert windows <= merge(parts).total // 100
    assert windows >= sum(size >= 100 for size in sizes)


# Windows of the same time


def is_slow_beside(*medians_ms: tuple[float, float], requests: int = 100) -> bool:
    pairs = [(a_window(ours), a_window(theirs, requests)) for ours, theirs in medians_ms]
    return compare_beside(pairs, RULE).is_slow


def test_what_slows_both_sides_makes_neither_slow() -> None:
    assert not is_slow_beside((SLOW, SLOW), (SLOW, SLOW))
    assert is_slow_beside((SLOW, QUICK), (SLOW, QUICK))
    assert is_slow_beside((QUICK, QUICK), (SLOW, QUICK), (SLOW, QUICK))


def test_two_slow_windows_beside_the_incumbent_have_to_follow_one_another() -> None:
    assert not is_slow_beside((SLOW, QUICK))
    assert not is_slow_beside((SLOW, QUICK), (SLOW, SLOW), (SLOW, QUICK))


def test_a_pair_with_too_few_requests_on_a_side_says_nothing() -> None:
    assert not is_slow_beside((SLOW, QUICK), (SLOW, QUICK), requests=99)
    found = compare_beside([(a_window(SLOW), a_window(QUICK, 99))], RULE)
    assert (found.windows, found.candidate_ms, found.incumbent_ms) == (0, None, None)


def test_the_newest_pair_is_told() -> None:
    found = compare_beside([(a_window(9.0), a_window(9.0)), (a_window(SLOW), a_window(2.0))], RULE)
    assert found.windows == 2
    assert found.candidate_ms is not None and 3.8 < found.candidate_ms < 4.2
    assert found.incumbent_ms is not None and 1.9 < found.incumbent_ms < 2.1
