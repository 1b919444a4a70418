"""The histogram: buckets are narrow, sums are exact, quantiles are near."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.builders import a_histogram
from wherry.codec import decode, encode
from wherry.histogram import (
    BUCKETS_AN_OCTAVE,
    LARGEST_NS,
    BadHistogram,
    Histogram,
    bucket,
    from_counts,
    from_durations,
    lower_bound_ns,
    merge,
    quantile_ms,
)

DURATIONS = st.integers(0, LARGEST_NS) | st.integers(0, 44).map(lambda octave: (1 << octave) - 1)
RECORDINGS = st.lists(DURATIONS, max_size=30)
LAST = bucket(LARGEST_NS)


@given(DURATIONS)
@example(0)
@example(15)
@example(16)
@example(31)
@example(32)
@example(LARGEST_NS)
def test_a_duration_lies_within_the_bounds_of_its_bucket(duration: int) -> None:
    index = bucket(duration)
    assert lower_bound_ns(index) <= duration < lower_bound_ns(index + 1)


def test_buckets_follow_one_another_and_are_never_wider_than_a_sixteenth() -> None:
    bounds = [lower_bound_ns(index) for index in range(LAST + 2)]
    for index, (low, high) in enumerate(pairwise(bounds)):
        assert low < high
        assert high - low <= max(1, low / BUCKETS_AN_OCTAVE)
        assert bucket(low) == bucket(high - 1) == index


@given(DURATIONS, DURATIONS)
def test_a_longer_duration_falls_into_no_lower_bucket(one: int, other: int) -> None:
    assert (bucket(one) <= bucket(other)) or one > other


@pytest.mark.parametrize(("octave", "low"), [(0, 16), (1, 32), (10, 16 << 10)])
def test_an_octave_has_sixteen_buckets(octave: int, low: int) -> None:
    assert bucket(2 * low) - bucket(low) == 16
    assert bucket(low) == 16 * (octave + 1)


def test_what_lies_outside_the_range_is_counted_at_its_end() -> None:
    assert bucket(-1) == bucket(0) == 0
    assert bucket(LARGEST_NS + 1) == bucket(1 << 80) == LAST


@given(st.lists(RECORDINGS, max_size=4))
def test_a_sum_of_histograms_is_the_histogram_of_everything(parts: list[list[int]]) -> None:
    everything = from_durations(duration for part in parts for duration in part)
    assert merge(from_durations(part) for part in parts) == everything
    assert everything.total == sum(len(part) for part in parts)


@given(RECORDINGS, RECORDINGS, RECORDINGS)
def test_it_does_not_matter_in_which_order_histograms_are_added(
    one: list[int], two: list[int], three: list[int]
) -> None:
    a, b, c = from_durations(one), from_durations(two), from_durations(three)
    assert merge([a, b]) == merge([b, a])
    assert merge([merge([a, b]), c]) == merge([a, merge([b, c])])
    assert merge([a, Histogram()]) == a


@given(st.lists(DURATIONS, min_size=1, max_size=60), st.floats(0, 1))
@example([1, 2, 3, 4], 0.5)
@example([1000], 0.0)
@example([1000, 5000], 1.0)
def test_a_quantile_is_off_by_less_than_a_thirtieth(durations: list[int], share: float) -> None:
    exact_ns = sorted(durations)[max(math.ceil(share * len(durations)), 1) - 1]
    found_ms = quantile_ms(from_durations(durations), share)
    assert found_ms is not None
    assert abs(found_ms * 1e6 - exact_ns) <= max(0.5, exact_ns / 32) * (1 + 1e-9)


@given(st.lists(DURATIONS, min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_quantile_is_no_shorter(durations: list[int], one: float, other: float) -> None:
    low, high = sorted((one, other))
    histogram = from_durations(durations)
    assert (quantile_ms(histogram, low) or 0) <= (quantile_ms(histogram, high) or 0)


def test_an_empty_histogram_has_no_quantile() -> None:
    assert quantile_ms(Histogram(), 0.5) is None
    assert Histogram().total == 0


@given(RECORDINGS)
def test_a_recording_passes_the_wire(durations: list[int]) -> None:
    histogram = from_durations(durations)
    assert decode(Histogram, encode(histogram)) == histogram


def test_buckets_without_counts_are_left_out() -> None:
    assert from_counts({5: 0, 7: 2, 3: 1}) == Histogram((3, 7), (1, 2))


@pytest.mark.parametrize(
    ("buckets", "counts", "problem"),
    [
        ((1, 2), (1,), "not as many counts"),
        ((1,), (1, 1), "not as many counts"),
        ((2, 1), (1, 1), "do not ascend"),
        ((1, 1), (1, 1), "do not ascend"),
        ((-1, 1), (1, 1), "outside the range"),
        ((LAST + 1,), (1,), "outside the range"),
        ((1, 2), (1, 0), "not positive"),
        ((1, 2), (-1, 2), "not positive"),
    ],
)
def test_counts_that_no_recording_made_are_refused(
    buckets: tuple[int, ...], counts: tuple[int, ...], problem: str
) -> None:
    with pytest.raises(BadHistogram, match=problem):
        Histogram(buckets, counts)
    with pytest.raises(BadHistogram, match=problem):
        decode(Histogram, encode({"buckets": buckets, "counts": counts}))


def test_the_last_bucket_is_within_the_range() -> None:
    assert Histogram((0, LAST), (1, 1)) == from_durations([0, LARGEST_NS])


def test_a_millisecond_is_a_million_nanoseconds() -> None:
    assert quantile_ms(a_histogram(10, 20, 30), 0.5) == pytest.approx(20, rel=1 / 32)
