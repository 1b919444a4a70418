"""The ranges of a float model's tensors, found from rows that stream through it.

One run finds the ranges of every method. Of each tensor the extremes are kept, and a histogram of
fixed length whose span doubles when a value falls outside of it: two neighbouring bins become one,
so nothing that was counted is counted elsewhere, and memory does not grow with the rows.

Entropy is the method of "8-bit Inference with TensorRT" (S. Migacz, GTC 2017): the threshold whose
quantized distribution has the least divergence from the given one. Spikes in a distribution (the
one value of a flat background) mislead it, so it may cut off a hundredth of the values at most.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from wherry.profile import CPU_PROVIDER
from wherry_controller.builder.faults import refuse, refusing
from wherry_controller.builder.passes.onnx_fold import quiet_options
from wherry_controller.builder.passes.onnx_prepared import Prepared, copy
from wherry_controller.core.fault import BuildReason
from wherry_controller.core.recipe import Calibration

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]
Range = tuple[float, float]
Ranges = Mapping[str, Mapping[Calibration, Range]]

BINS = 8192  # At least half of them lie within the extremes.
VALUES_A_ROW = 8192  # Of a tensor that the histogram looks at, evenly spread; extremes are of all.
PERCENTILE = 99.99
LEVELS = 128
THRESHOLDS = 128
LARGEST_CUT = 0.01
LEAST_SHARE = 1e-9  # Stands for the probability of what the quantized distribution has not.
LEAST_SPAN = 2.0**-60  # Below it float32 cannot tell the bins.
LARGEST = 1e9  # Beyond it stand masks, which no eight bits can hold beside anything else.


def write_ranges(
    prepared: Prepared, rows: Iterable[Mapping[str, npt.NDArray[np.generic]]], to: Path
) -> Path:
    """Run the rows one by one and write each float tensor's ranges to `to` as JSON."""
    names = sorted(prepared.floats)
    session = _session(prepared, names)
    seen = {name: _Seen() for name in names}
    ran = 0
    for row in rows:
        with refusing(BuildReason.MALFORMED_DATA, "the net does not take a calibration row"):
            found = session.run(names, dict(row))
        for name, values in zip(names, found, strict=True):
            seen[name].add(np.asarray(values))
        ran += 1
    if not ran:
        refuse(BuildReason.CALIBRATION_MISSING, "there is no calibration row")
    ranges = {name: one.ranges() for name, one in seen.items()}
    document = {name: found for name, found in ranges.items() if found}
    to.write_text(json.dumps(document, sort_keys=True, indent=0))
    return to


def read_ranges(file: Path) -> Ranges:
    """Return what `write_ranges` wrote."""
    document = json.loads(file.read_text())
    return {
        name: {Calibration(how): (float(low), float(high)) for how, (low, high) in found.items()}
        for name, found in document.items()
    }


@dataclass(slots=True)
class _Seen:
    """What flowed through one tensor: its extremes, and counts over `-span` to `span`."""

    low: float = math.inf
    high: float = -math.inf
    span: float = 0.0
    counts: Counts = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, values: npt.NDArray[np.generic]) -> None:
        flat = values.reshape(-1)
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        self.low, self.high = _least(self.low, low), -_least(-self.high, -high)
        if max(-self.low, self.high) < LARGEST:
            self._count(flat[:: max(1, flat.size // VALUES_A_ROW)].astype(np.float32))

    def ranges(self) -> dict[str, Range]:
        """Return the range by each method; nothing where eight bits cannot hold the values."""
        if not max(-self.low, self.high) < LARGEST:
            return {}
        return {
            Calibration.MIN_MAX.value: (self.low, self.high),
            Calibration.PERCENTILE.value: self._percentile(),
            Calibration.ENTROPY.value: self._entropy(),
        }

    def _count(self, values: Floats) -> None:
        largest = float(np.abs(values).max())
        if largest == 0.0:
            self.counts[BINS // 2] += values.size
            return
        if not self.span:
            self.span = max(LEAST_SPAN, 2.0 ** math.ceil(math.log2(largest)))
        while self.span < largest:
            self._double()
        places = ((values + self.span) * np.float32(BINS / 2 / self.span)).astype(np.int64)
        self.counts += np.bincount(np.minimum(places, BINS - 1), minlength=BINS)

    def _double(self) -> None:
        merged = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts = np.zeros(BINS, np.int64)
        self.counts[BINS // 4 : -BINS // 4] = merged
        self.span *= 2

    def _percentile(self) -> Range:
        """Cut off the outermost values, half of them on either side."""
        if not self.span:
            return self.low, self.high
        cut = (100 - PERCENTILE) / 200
        shares = np.cumsum(self.counts) / self.counts.sum()
        first = int(np.searchsorted(shares, cut, side="right"))
        last = int(np.searchsorted(shares, 1 - cut, side="left"))
        return self._clipped(self._edge(first), self._edge(last + 1))

    def _entropy(self) -> Range:
        if not self.span:
            return self.low, self.high
        half = BINS // 2
        sizes = self.counts[half:] + self.counts[half - 1 :: -1]
        # Values of one sign have all levels to themselves.
        levels = LEVELS if self.low < 0 else 2 * LEVELS
        threshold = _least_divergent(sizes, levels) * self.span / half
        return self._clipped(-threshold, threshold)

    def _edge(self, index: int) -> float:
        return (index / BINS * 2 - 1) * self.span

    def _clipped(self, low: float, high: float) -> Range:
        """Return the range within the extremes, where rounding may have left the bins."""
        return min(max(self.low, low), self.high), max(min(self.high, high), self.low)


def _least(one: float, other: float) -> float:
    """Return the smaller one; not a number where either is none."""
    return math.nan if math.isnan(one) or math.isnan(other) else min(one, other)


def _least_divergent(sizes: Counts, levels: int) -> int:
    """Return how many of the bins of sizes to keep, from zero on."""
    used = int(np.flatnonzero(sizes)[-1]) + 1
    if used <= levels:
        return used
    counts = sizes[:used].astype(np.float64)
    counts[0] = counts[1]  # Zero is held exactly, and would outweigh all the rest.
    within = int(np.searchsorted(np.cumsum(sizes), sizes.sum() * (1 - LARGEST_CUT))) + 1
    fewest = max(levels, within)
    candidates = np.unique(np.linspace(fewest, max(used, fewest), THRESHOLDS).astype(np.int64))
    divergences = [_divergence(counts, int(kept), levels) for kept in candidates]
    return int(candidates[int(np.argmin(divergences))])


def _divergence(counts: npt.NDArray[np.float64], kept: int, levels: int) -> float:
    """Return the Kullback-Leibler divergence of `kept` bins in `levels` from all of the counts."""
    inside = counts[:kept]
    given = inside.copy()
    given[-1] += counts[kept:].sum()
    level = np.arange(kept) * levels // kept
    filled = given > 0
    sums = np.bincount(level, weights=inside, minlength=levels)
    share = np.maximum(np.bincount(level, weights=filled, minlength=levels), 1)
    quantized = (sums / share)[level][filled]
    p = given[filled] / given.sum()
    q = np.maximum(quantized / max(quantized.sum(), 1.0), LEAST_SHARE)
    return float((p * np.log(p / q)).sum())


def _session(prepared: Prepared, names: list[str]) -> onnxruntime.InferenceSession:
    """Return a session that gives every one of the tensors."""
    model = copy(prepared.model)
    given = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in given)
    options = quiet_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=[CPU_PROVIDER]
    )
