"""A log-linear histogram of durations: exact counts, 16 buckets an octave, mergeable by addition.

A duration falls into the bucket of its five leading bits, so a bucket is never wider than
1/16 of its lower bound: a quantile is off by 6.25 % at most. Buckets are the same on every
device and for ever, so histograms of windows, devices and groups add up without error (the
log-linear scheme of HdrHistogram, Tene 2013).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import msgspec

from wherry.errors import Malformed

BUCKETS_AN_OCTAVE = 16
LARGEST_NS = (1 << 44) - 1  # Nearly five hours; longer durations are counted as this.


class BadHistogram(Malformed):
    """Counts that no recording could have made."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"this is no histogram: {self.problem}; send the buckets as they were recorded."


class Histogram(msgspec.Struct, frozen=True):
    """Counts of durations: `counts[i]` durations fell into bucket `buckets[i]` (ascending)."""

    buckets: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.buckets) != len(self.counts):
            raise BadHistogram("there are not as many counts as buckets")
        if any(low >= high for low, high in zip(self.buckets, self.buckets[1:], strict=False)):
            raise BadHistogram("the buckets do not ascend")
        if self.buckets and not 0 <= self.buckets[0] <= self.buckets[-1] <= bucket(LARGEST_NS):
            raise BadHistogram("a bucket lies outside the range")
        if any(count <= 0 for count in self.counts):
            raise BadHistogram("a count is not positive")

    @property
    def total(self) -> int:
        return sum(self.counts)


def bucket(duration_ns: int) -> int:
    """Return the bucket of a duration in nanoseconds; below 0 counts as 0."""
    # Written for its speed: it is called twice a request.
    if duration_ns < 2 * BUCKETS_AN_OCTAVE:
        return max(duration_ns, 0)
    if duration_ns > LARGEST_NS:
        duration_ns = LARGEST_NS
    shift = duration_ns.bit_length() - 5
    return shift * BUCKETS_AN_OCTAVE + (duration_ns >> shift)


def lower_bound_ns(index: int) -> int:
    """Return the shortest duration, in nanoseconds, that falls into a bucket."""
    shift = max(index // BUCKETS_AN_OCTAVE - 1, 0)
    return (index - shift * BUCKETS_AN_OCTAVE) << shift


def from_counts(counts: Mapping[int, int]) -> Histogram:
    """Return the histogram with `counts[bucket]` durations in each bucket."""
    rows = sorted((index, count) for index, count in counts.items() if count)
    return Histogram(tuple(i for i, _ in rows), tuple(c for _, c in rows))


def from_durations(durations_ns: Iterable[int]) -> Histogram:
    counts: dict[int, int] = {}
    for duration in durations_ns:
        index = bucket(duration)
        counts[index] = counts.get(index, 0) + 1
    return from_counts(counts)


def merge(histograms: Iterable[Histogram]) -> Histogram:
    """Return the histogram of everything that any of them recorded."""
    counts: dict[int, int] = {}
    for histogram in histograms:
        for index, count in zip(histogram.buckets, histogram.counts, strict=True):
            counts[index] = counts.get(index, 0) + count
    return from_counts(counts)


def quantile_ms(histogram: Histogram, share: float) -> float | None:
    """Return the duration in milliseconds that `share` (0 to 1) do not exceed; None if empty.

    It is the middle of the bucket in which the nearest-rank quantile lies.
    """
    if not histogram.counts:
        return None
    rank = min(max(math.ceil(share * histogram.total), 1), histogram.total)
    seen = 0
    for index, count in zip(histogram.buckets, histogram.counts, strict=True):
        seen += count
        if seen >= rank:
            return (lower_bound_ns(index) + lower_bound_ns(index + 1)) / 2 / 1e6
    raise AssertionError("a rank lies within the total")
