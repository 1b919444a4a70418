"""What a variant is worth on held-out rows: accuracy, latency and golden outputs.

Everything runs through the profile's runtime with the device's settings. The golden outputs are
the variant's own: they prove that a device runs it faithfully, so their tolerance has to let
through every device that does and stop weights that were damaged (`damage`).
"""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wherry.profile import Precision, Profile
from wherry_controller.builder.data import Rows, Tensors
from wherry_controller.builder.runtimes import version_of
from wherry_controller.builder.variant import Run, Variant

LATENCY_CALLS = 300
WARM_UP_CALLS = 30
GOLDEN_ROWS = 10
# Measured between ARM and x86: 5e-6 of the range; four times that leaves room.
FLOAT_TOLERANCE = 2e-5
LEVELS = 255


@dataclass(frozen=True, slots=True)
class Golden:
    """Rows with the outputs that they must give again, to within `tolerance`."""

    inputs: Tensors
    outputs: Tensors
    tolerance: float

    def agrees(self, run: Run) -> bool:
        again = run(self.inputs)
        return all(
            np.all(_distance(again[name], expected) <= self.tolerance)
            for name, expected in self.outputs.items()
        )


def run_rows(run: Run, rows: Rows, batch: int) -> Tensors:
    """Return the outputs for all rows, asked for in batches."""
    starts = range(0, len(rows), batch)
    parts = [run(rows.part(slice(start, start + batch))) for start in starts]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def accuracy_of(outputs: Tensors, class_output: str, labels: npt.NDArray[np.int64]) -> float:
    """Return the share of rows whose largest class is the labelled one."""
    answers = np.argmax(outputs[class_output], axis=-1)
    return float(np.mean(answers == labels))


def latency_ms(run: Run, rows: Rows) -> tuple[float, float]:
    """Return the median and the 99th percentile of one row's way through the variant."""
    singles = [rows.part(slice(i, i + 1)) for i in range(min(len(rows), LATENCY_CALLS))]
    for index in range(WARM_UP_CALLS):
        run(singles[index % len(singles)])
    durations = [_duration_ns(run, singles[i % len(singles)]) for i in range(LATENCY_CALLS)]
    p50, p99 = np.percentile(durations, [50, 99]) / 1e6
    return round(float(p50), 4), round(float(p99), 4)


def measured_on(profile: Profile) -> str:
    """Say on what processor and runtime the figures were measured, for people."""
    threads = f"{profile.threads} thread" + ("s" if profile.threads > 1 else "")
    runtime = f"{profile.runtime.value} {version_of(profile.runtime)}"
    return f"{_processor()} ({platform.machine()}), {runtime}, {threads}"


def is_this_arch(profile: Profile) -> bool:
    return platform.machine() == profile.arch.value


def golden_of(
    run: Run, rows: Rows, variant: Variant, profile: Profile, precision: Precision
) -> Golden:
    """Return the golden set: the first row of each class, ten at most, and their outputs."""
    firsts = np.sort(np.unique(rows.labels, return_index=True)[1])
    count = min(GOLDEN_ROWS, variant.signature.max_batch, profile.max_batch)
    inputs = rows.part(firsts[:count].astype(np.int64))
    outputs = run(inputs)
    return Golden(inputs, outputs, _tolerance(variant, outputs, precision))


def _tolerance(variant: Variant, outputs: Tensors, precision: Precision) -> float:
    """Return what a faithful device may stray: rounding in fp32, one step of the output in int8."""
    scales = [binding.scale for binding in variant.outputs if binding.scale is not None]
    if scales:
        return 1.01 * max(scales)
    share = FLOAT_TOLERANCE if precision is Precision.FP32 else 1 / LEVELS
    return max(share * float(np.ptp(array)) for array in outputs.values())


def _distance(
    left: npt.NDArray[np.generic], right: npt.NDArray[np.generic]
) -> npt.NDArray[np.float64]:
    return np.abs(left.astype(np.float64) - right.astype(np.float64))


def _duration_ns(run: Run, row: Tensors) -> int:
    start = time.perf_counter_ns()
    run(row)
    return time.perf_counter_ns() - start


def _processor() -> str:
    """Return the processor's name as Linux gives it; ARM kernels give none."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unnamed processor")
