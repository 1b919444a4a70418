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
    windows = [quantile_ms(window, 0.5) or 0.0 for window in _windows(candidate, rule)]
    base = quantile_ms(incumbent, 0.5) if incumbent.total >= rule.window_requests else None
    slow_in_a_row = 0
    is_slow = False
    for median in windows if base is not None else []:
        slow_in_a_row = slow_in_a_row + 1 if _exceeds(median, base, rule) else 0
        is_slow = is_slow or slow_in_a_row >= rule.successive_windows
    last = windows[-1] if windows else None
    return Comparison(windows=len(windows), is_slow=is_slow, candidate_ms=last, incumbent_ms=base)


def _windows(histograms: Iterable[Histogram], rule: LatencyRule) -> Iterator[Histogram]:
    gathered = Histogram()
    for histogram in histograms:
        gathered = merge((gathered, histogram))
        if gathered.total >= rule.window_requests:
            yield gathered
            gathered = Histogram()


def _exceeds(median_ms: float, base_ms: float | None, rule: LatencyRule) -> bool:
    if base_ms is None:
        return False
    return median_ms > rule.ratio * base_ms and median_ms - base_ms > rule.difference_ms
