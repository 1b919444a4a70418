"""When one bundle is slower than another: the rule that the device and the gate both judge by.

An unchanged model's median strays by half between windows of a hundred requests on a busy
machine, so one slow window says nothing. A bundle is slow when its median exceeds the
incumbent's by a ratio *and* by a difference, in several windows one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec

from wherry.histogram import Histogram, merge, quantile_ms


class LatencyRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`window_requests` is the smallest number of requests on each side that is compared."""

    window_requests: Annotated[int, msgspec.Meta(ge=0)]
    ratio: Annotated[float, msgspec.Meta(ge=1)] = 2.0
    difference_ms: Annotated[float, msgspec.Meta(ge=0)] = 0.5
    successive_windows: Annotated[int, msgspec.Meta(ge=1)] = 2


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Medians in milliseconds; `is_slow` once enough slow windows came one after the other."""

    windows: int
    is_slow: bool
    candidate_ms: float | None
    incumbent_ms: float | None


def compare(candidate: Iterable[Histogram], incumbent: Histogram, rule: LatencyRule) -> Comparison:
    """Judge the candidate's histograms, in the order of time, against all of the incumbent's.

    Neighbouring histograms are added until a window has enough requests; a rest that has too
    few is left out. An incumbent with too few requests makes nothing slow.
    """
    windows = [_median_ms(window) for window in _windows(candidate, rule)]
    base = quantile_ms(incumbent, 0.5) if incumbent.total >= rule.window_requests else None
    return Comparison(
        windows=len(windows),
        is_slow=base is not None and _is_slow(((median, base) for median in windows), rule),
        candidate_ms=windows[-1] if windows else None,
        incumbent_ms=base,
    )


def compare_beside(pairs: Iterable[tuple[Histogram, Histogram]], rule: LatencyRule) -> Comparison:
    """Judge windows of the candidate, each against the incumbent's window of the same time.

    What slows the whole device slows both. A pair with too few requests on a side is left out.
    """
    enough = [pair for pair in pairs if min(side.total for side in pair) >= rule.window_requests]
    medians = [(_median_ms(ours), _median_ms(theirs)) for ours, theirs in enough]
    candidate, incumbent = medians[-1] if medians else (None, None)
    return Comparison(
        windows=len(medians),
        is_slow=_is_slow(medians, rule),
        candidate_ms=candidate,
        incumbent_ms=incumbent,
    )


def _is_slow(medians_ms: Iterable[tuple[float, float]], rule: LatencyRule) -> bool:
    """Say whether enough windows in a row exceed; each is the candidate's and its base."""
    slow_in_a_row = 0
    for median, base in medians_ms:
        slow_in_a_row = slow_in_a_row + 1 if _exceeds(median, base, rule) else 0
        if slow_in_a_row >= rule.successive_windows:
            return True
    return False


def _windows(histograms: Iterable[Histogram], rule: LatencyRule) -> Iterator[Histogram]:
    gathered = Histogram()
    for histogram in histograms:
        gathered = merge((gathered, histogram))
        if gathered.total >= rule.window_requests:
            yield gathered
            gathered = Histogram()


def _median_ms(window: Histogram) -> float:
    return quantile_ms(window, 0.5) or 0.0


def _exceeds(median_ms: float, base_ms: float, rule: LatencyRule) -> bool:
    return median_ms > rule.ratio * base_ms and median_ms - base_ms > rule.difference_ms
