"""Percentiles of what was timed, and how sure a ratio of two of them is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio, and the bounds between which 95 % of its resamples lie."""

    value: float
    low: float
    high: float


def pooled(windows: Sequence[Times], percentile: float) -> float:
    """Return a percentile of everything that was timed, in whichever window."""
    return float(np.percentile(np.concatenate(windows), percentile))


def ratio_of(over: Sequence[Times], under: Sequence[Times], percentile: float) -> Ratio:
    """Return the ratio of a pooled percentile of two sets of windows.

    Windows are resampled whole: the times of one window depend on one another.
    """
    chance = np.random.default_rng(5)
    ratios = [
        pooled(_resampled(over, chance), percentile) / pooled(_resampled(under, chance), percentile)
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(ratios, (2.5, 97.5))
    return Ratio(pooled(over, percentile) / pooled(under, percentile), float(low), float(high))


def _resampled(windows: Sequence[Times], chance: np.random.Generator) -> list[Times]:
    return [windows[number] for number in chance.integers(0, len(windows), len(windows))]
