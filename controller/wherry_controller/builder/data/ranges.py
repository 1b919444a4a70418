"""Whether calibration rows look prepared like the rows that a version is judged by.

A row's span is from its smallest value to its largest; the range of an input is from the 0.1 %
quantile of its rows' least values to the 99.9 % quantile of their largest. Calibration strays if
what covers both ranges is more than `LARGEST_RANGE_FACTOR` times as wide as the narrower of the
two, so an offset counts as a factor does. A few rows of honest data, heavy in their tails, may
do that by chance: it is refused only if the rows' reaches (how far each is at most from the
narrower input's centre) differ by more than chance, by the two-sample test of Kolmogorov and
Smirnov at one in eight thousand. States are left out: they start at zero and move.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wherry.signature import Signature
from wherry_controller.builder.data.rows import NUMPY, Array, Rows
from wherry_controller.builder.data.wanted import states_of
from wherry_controller.core.fault import LARGEST_RANGE_FACTOR, BuildReason, Fault

QUANTILES = (0.001, 0.999)
CHANCE = 2.2  # The test's critical value for one in eight thousand.
SAME = 1e-6  # Widths below this share of the values themselves are rounding.

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spans:
    """The smallest and the largest value of each row."""

    low: Floats
    high: Floats

    @property
    def range(self) -> tuple[float, float]:
        low, high = np.quantile(self.low, QUANTILES[0]), np.quantile(self.high, QUANTILES[1])
        return float(low), float(high)

    @property
    def centre(self) -> float:
        return float(np.median((self.low + self.high) / 2))

    def reaches(self, centre: float) -> Floats:
        return np.maximum(np.abs(self.low - centre), np.abs(self.high - centre))


def stray(signature: Signature, calibration: Rows, search: Rows) -> Fault | None:
    """Return the fault of calibration rows whose range is another than that of the search rows."""
    for tensor in signature.inputs:
        if NUMPY[tensor.datatype].kind != "f" or tensor.name in states_of(signature):
            continue
        ours, theirs = spans_of(calibration, tensor.name), spans_of(search, tensor.name)
        if range_factor(ours, theirs) > LARGEST_RANGE_FACTOR and differ(ours, theirs):
            problem = (
                f"{tensor.name!r} is {_words(ours)} to calibrate and {_words(theirs)} to evaluate"
            )
            return Fault(BuildReason.CALIBRATION_STRAYS, problem)
    return None


def spans_of(rows: Rows, name: str) -> Spans:
    """Return the spans of an input's rows, read a few megabytes at a time."""
    parts = [_ends(part[name]) for part in rows.parts()]
    return Spans(*(np.concatenate(ends) for ends in zip(*parts, strict=True)))


def range_factor(one: Spans, other: Spans) -> float:
    """Return how much wider than the narrower range it takes to cover both."""
    ends = (*one.range, *other.range)
    widths = [one.range[1] - one.range[0], other.range[1] - other.range[0]]
    covering = max(ends) - min(ends)
    if covering <= SAME * max(abs(end) for end in ends):
        return 1.0
    return covering / min(widths) if min(widths) > 0 else math.inf


def differ(one: Spans, other: Spans) -> bool:
    """Say whether rows reach differently far, by more than chance."""
    narrower = min(one, other, key=lambda spans: spans.range[1] - spans.range[0])
    reaches = one.reaches(narrower.centre), other.reaches(narrower.centre)
    ours, theirs = len(reaches[0]), len(reaches[1])
    return _distance(*reaches) > CHANCE * math.sqrt((ours + theirs) / (ours * theirs))


def _distance(one: Floats, other: Floats) -> float:
    """Return the largest distance of two samples' cumulative shares."""
    points = np.concatenate([one, other])
    shares = (
        np.searchsorted(np.sort(sample), points, side="right") / len(sample)
        for sample in (one, other)
    )
    return float(np.max(np.abs(np.subtract(*shares))))


def _ends(array: Array) -> tuple[Floats, Floats]:
    rows = array.reshape(len(array), -1)
    return rows.min(axis=1).astype(np.float64), rows.max(axis=1).astype(np.float64)


def _words(spans: Spans) -> str:
    low, high = spans.range
    return f"from {low:.4g} to {high:.4g}"
