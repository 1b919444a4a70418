"""What a variant is worth on held-out rows: its accuracy and its latency.

Everything runs through the profile's runtime with the device's settings.
"""

from __future__ import annotations

import platform
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wherry.profile import Profile
from wherry_controller.builder.data import Rows, Tensors
from wherry_controller.builder.faults import refuse
from wherry_controller.builder.runtimes import name_of
from wherry_controller.builder.variant import Run
from wherry_controller.core.recipe import BuildReason, Latency

LATENCY_CALLS = 300
WARM_UP_CALLS = 30


def run_rows(run: Run, rows: Rows, batch: int) -> Tensors:
    """Return the outputs for all rows, asked for in batches."""
    starts = range(0, len(rows), batch)
    parts = [run(rows.part(slice(start, start + batch))) for start in starts]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def accuracy_of(outputs: Tensors, class_output: str, labels: npt.NDArray[np.int64]) -> float:
    """Return the share of rows whose largest class is the labelled one."""
    answers = np.argmax(outputs[class_output], axis=-1)
    return float(np.mean(answers == labels))


def refuse_not_finite(what: str, outputs: Tensors) -> None:
    for name, array in outputs.items():
        sick = int(np.sum(~np.isfinite(array).reshape(len(array), -1).all(axis=1)))
        if sick:
            problem = f"{what} gives NaN or infinity in {name!r} for {sick} rows"
            refuse(BuildReason.OUTPUT_NOT_FINITE, problem)


def latency_of(run: Run, rows: Rows, profile: Profile) -> Latency:
    """Measure one row's way through the variant."""
    singles = [rows.part(slice(i, i + 1)) for i in range(min(len(rows), LATENCY_CALLS))]
    for index in range(WARM_UP_CALLS):
        run(singles[index % len(singles)])
    durations = [_duration_ns(run, singles[i % len(singles)]) for i in range(LATENCY_CALLS)]
    p50, p99 = np.percentile(durations, [50, 99]) / 1e6
    return Latency(
        p50_ms=round(float(p50), 4),
        p99_ms=round(float(p99), 4),
        measured_on=_measured_on(profile),
    )


def is_this_arch(profile: Profile) -> bool:
    return platform.machine() == profile.arch.value


def _measured_on(profile: Profile) -> str:
    """Say on what processor and runtime the figures were measured, for people."""
    threads = f"{profile.threads} thread" + ("s" if profile.threads > 1 else "")
    return f"{_processor()} ({platform.machine()}), {name_of(profile.runtime)}, {threads}"


def _duration_ns(run: Run, row: Tensors) -> int:
    start = time.perf_counter_ns()
    run(row)
    return time.perf_counter_ns() - start


def _processor() -> str:
    """Return the processor's name as Linux gives it; ARM kernels give none."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unnamed processor")
