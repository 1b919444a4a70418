"""What a worker measures of a model: rows run one by one, within a share of one core.

Between rows it pauses for as long as its processor time so far exceeds its share, so that what
serves beside it is hardly slowed; what is measured is the time that a row took by the clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from wherry.measures import TrialFigures

STATUS = Path("/proc/self/status")


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How much is run, by when it is over, and how much of a core it may take."""

    runs: int
    within_s: float
    core_share: float
    niceness: int


@dataclass(frozen=True, slots=True)
class Clock:
    """The clock, this process's processor time, and a pause, all in seconds."""

    now_s: Callable[[], float] = time.monotonic
    busy_s: Callable[[], float] = time.process_time
    pause: Callable[[float], None] = time.sleep


def run_rows(run: Callable[[int], int], bounds: Bounds, clock: Clock) -> list[int]:
    """Return what `run` returned for each number from 0, its nanoseconds.

    One run at least, and then as many as are wanted and fit into the time.
    """
    began_s, idle_s = clock.now_s(), clock.busy_s()
    taken: list[int] = []
    while len(taken) < bounds.runs and (not taken or clock.now_s() - began_s < bounds.within_s):
        taken.append(run(len(taken)))
        due_s = (clock.busy_s() - idle_s) / bounds.core_share
        ahead_s = due_s - (clock.now_s() - began_s)
        if ahead_s > 0:
            clock.pause(ahead_s)
    return taken


def figures_of(
    taken_ns: list[int], *, runtime_version: str, load_ms: float, base_bytes: int
) -> TrialFigures:
    """Return the figures of rows that took so long, with this process's memory as it is now."""
    ordered = sorted(taken_ns)
    return TrialFigures(
        runtime_version=runtime_version,
        runs=len(ordered),
        p50_ms=_percentile(ordered, 50) / 1e6,
        p99_ms=_percentile(ordered, 99) / 1e6,
        load_ms=load_ms,
        memory_bytes=memory_bytes("VmHWM"),
        base_bytes=base_bytes,
    )


def memory_bytes(field: str, status: Path = STATUS) -> int:
    """Return a process's memory by the name that Linux gives it; 0 once the process is gone."""
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return 0
    found = (line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return int(next(found, "0")) * 1024


def _percentile(ordered: list[int], percent: int) -> int:
    """Return the smallest value that so many of a hundred do not exceed."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
