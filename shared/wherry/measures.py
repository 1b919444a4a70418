"""What devices measure, as counts and sums that add up over windows, devices and groups.

All but `TrialFigures`, which are one worker's, and `HostFacts`, which are of one instant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated

import msgspec

from wherry.histogram import Histogram, merge

LARGEST_ERROR_CLASSES = 64
LARGEST_CLASSES = 1024
LARGEST_BINS = 64
LARGEST_SUM = 1e300  # Of errors and distances: JSON has no infinity, and sums must add up to none.

# What every JSON reader takes exactly, and a database's integer holds.
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)]
Sum = Annotated[float, msgspec.Meta(ge=0, le=LARGEST_SUM)]


class ClassCounts(msgspec.Struct, frozen=True):
    """Rows of one class: those that it is true of, those answered with it, those that are both."""

    true: Count = 0
    answered: Count = 0
    right: Count = 0

    def __add__(self, more: ClassCounts) -> ClassCounts:
        return ClassCounts(
            self.true + more.true, self.answered + more.answered, self.right + more.right
        )


class Feedback(msgspec.Struct, frozen=True):
    """How many answers were labelled, and how many of them were right.

    `classes` are by index as text, for F1. For models that give numbers, `values` of `answers`
    answers were compared, and the errors are sums over the values.
    """

    labelled: Count = 0
    right: Count = 0
    classes: Annotated[dict[str, ClassCounts], msgspec.Meta(max_length=LARGEST_CLASSES)] = {}
    values: Count = 0
    absolute_error: Sum = 0.0
    squared_error: Sum = 0.0
    answers: Count = 0

    def __add__(self, more: Feedback) -> Feedback:
        """Add up; of classes beyond `LARGEST_CLASSES` only the labels are counted."""
        return Feedback(
            self.labelled + more.labelled,
            self.right + more.right,
            _sum_classes(self.classes, more.classes),
            self.values + more.values,
            capped(self.absolute_error + more.absolute_error),
            capped(self.squared_error + more.squared_error),
            self.answers + more.answers,
        )


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What values of one tensor a window held, in the bins of the bundle's reference; all counts.

    Of `rows` rows `values` values were looked at: `zeros` of them are zero, `not_finite` NaN or
    infinite. `classes[i]` answers were of class i, where the tensor is the class output.
    """

    name: str
    rows: Count
    values: Count
    counts: Annotated[tuple[Count, ...], msgspec.Meta(max_length=LARGEST_BINS)]
    zeros: Count
    not_finite: Count
    classes: Annotated[tuple[Count, ...], msgspec.Meta(max_length=LARGEST_CLASSES)] = ()

    def __add__(self, more: Seen) -> Seen:
        """Add up what was counted in the same bins; counts of fewer bins miss the last ones."""
        return Seen(
            name=self.name,
            rows=self.rows + more.rows,
            values=self.values + more.values,
            counts=_sum_counts(self.counts, more.counts),
            zeros=self.zeros + more.zeros,
            not_finite=self.not_finite + more.not_finite,
            classes=_sum_counts(self.classes, more.classes),
        )


class ShadowCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What came of the requests that a shadowing candidate got copies of, in one window.

    A row agrees where the class outputs' classes are the same, or all outputs lie within the golden
    tolerance where there are none. `distance` is the sum over rows of the outputs' distance over
    the incumbent's norm (L2). `compute` and `incumbent_compute` are of the same requests. `skipped`
    counts by cause those that were sampled and not copied.
    """

    requests: Count = 0
    rows: Count = 0
    agreed: Count = 0
    distance: Sum = 0.0
    largest_distance: Sum = 0.0
    compute: Histogram = Histogram()
    incumbent_compute: Histogram = Histogram()
    errors: Annotated[dict[str, Count], msgspec.Meta(max_length=LARGEST_ERROR_CLASSES)] = {}
    skipped: Annotated[dict[str, Count], msgspec.Meta(max_length=LARGEST_ERROR_CLASSES)] = {}

    def __add__(self, more: ShadowCounts) -> ShadowCounts:
        return ShadowCounts(
            requests=self.requests + more.requests,
            rows=self.rows + more.rows,
            agreed=self.agreed + more.agreed,
            distance=capped(self.distance + more.distance),
            largest_distance=capped(max(self.largest_distance, more.largest_distance)),
            compute=merge((self.compute, more.compute)),
            incumbent_compute=merge((self.incumbent_compute, more.incumbent_compute)),
            errors=sum_by_class(self.errors, more.errors),
            skipped=sum_by_class(self.skipped, more.skipped),
        )


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The machine at the end of a window; what it cannot tell is None."""

    cpu_percent: float | None = None
    memory_available_bytes: Count | None = None
    memory_total_bytes: Count | None = None
    disk_free_bytes: Count | None = None
    temperature_c: float | None = None
    uptime_s: float | None = None
    agent_rss_bytes: Count | None = None
    load_1m: float | None = None
    throttled: bool | None = None


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes at the device's sockets to the broker since its store was made.

    What came between the last window and a kill is missing.
    """

    sent_bytes: Count = 0
    received_bytes: Count = 0

    def __add__(self, more: Traffic) -> Traffic:
        return Traffic(
            sent_bytes=self.sent_bytes + more.sent_bytes,
            received_bytes=self.received_bytes + more.received_bytes,
        )


class TrialFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What a device measured of a bundle: one row's compute time, and the worker's memory.

    `memory_bytes` is the worker's peak and `base_bytes` what it had before it loaded the model.
    """

    runtime_version: str
    runs: Count
    p50_ms: float
    p99_ms: float
    load_ms: float
    memory_bytes: Count
    base_bytes: Count
    temperature_before_c: float | None = None
    temperature_after_c: float | None = None


def macro_f1(feedback: Feedback) -> float | None:
    """Return the mean F1 over the classes that were labelled or answered; None without any.

    F1 of a class is 2 right / (true + answered) (van Rijsbergen 1979, chapter 7, with beta 1).
    """
    seen = [one for one in feedback.classes.values() if one.true + one.answered]
    if not seen:
        return None
    return sum(2 * one.right / (one.true + one.answered) for one in seen) / len(seen)


def capped(total: float) -> float:
    """Return a sum that JSON can say: what is no number or too large is `LARGEST_SUM`."""
    return min(LARGEST_SUM, total)  # In this order NaN is not the least.


def sum_by_class(some: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    """Return the counts of errors added up, class by class."""
    return dict(Counter(some) + Counter(more))


def sum_seen(parts: Iterable[tuple[Seen, ...]]) -> tuple[Seen, ...]:
    """Return what was seen in all parts, tensor by tensor."""
    found: dict[str, Seen] = {}
    for part in parts:
        for seen in part:
            known = found.get(seen.name)
            found[seen.name] = seen if known is None else known + seen
    return tuple(found.values())


def _sum_counts(some: tuple[int, ...], more: tuple[int, ...]) -> tuple[int, ...]:
    short, long = sorted((some, more), key=len)
    return (*(a + b for a, b in zip(short, long, strict=False)), *long[len(short) :])


def _sum_classes(
    some: Mapping[str, ClassCounts], more: Mapping[str, ClassCounts]
) -> dict[str, ClassCounts]:
    found = dict(some)
    for name, counts in more.items():
        if name in found:
            found[name] += counts
        elif len(found) < LARGEST_CLASSES:
            found[name] = counts
    return found
