"""When a bundle's worker that ended is started again, and when it has ended too often.

The first restart after a steady time comes at once, each that follows after a pause twice as long.
A bundle that fails to come up `failures` times in a row is said to be unservable once; one that
comes up and dies `deaths` times within `within_s` is, too, and begins to be counted anew.

A device that starts after a power cut may be busy for minutes. So what can be the device's doing
is tried again, and given twice the time of the try before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from wherry.reasons import Reason

MAY_PASS = frozenset(
    {
        Reason.LOAD_FAILED,
        Reason.LOAD_TIMEOUT,
        Reason.OVER_CPU,
        Reason.OVER_MEMORY,
        Reason.CRASH_LOOP,
    }
)
MOST_PATIENCE = 8


@dataclass(frozen=True, slots=True)
class Bounds:
    """`steady_s`: a worker that lived so long starts again with the shortest pause."""

    pause_s: float = 0.1
    longest_pause_s: float = 30.0
    steady_s: float = 30.0
    failures: int = 3
    deaths: int = 5
    within_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Restarts:
    """What one bundle's workers have come to: `pauses` made in a row, `deaths` when they died."""

    pauses: int = 0
    failures: int = 0
    deaths: tuple[float, ...] = ()


def come_up(restarts: Restarts) -> Restarts:
    """Forget the failures of a bundle whose worker is ready."""
    return replace(restarts, failures=0)


def die(restarts: Restarts, bounds: Bounds, *, now_s: float, lived_s: float) -> Restarts:
    """Count the end of a worker that was ready for `lived_s`."""
    recent = tuple(at_s for at_s in restarts.deaths if at_s > now_s - bounds.within_s)
    pauses = 0 if lived_s >= bounds.steady_s else restarts.pauses
    return replace(restarts, pauses=pauses, deaths=(*recent, now_s))


def fail(restarts: Restarts) -> Restarts:
    """Count a worker that did not come up."""
    return replace(restarts, failures=restarts.failures + 1)


def patience(restarts: Restarts) -> int:
    """Return how many times as long as usual the next worker may take to come up."""
    return min(1 << restarts.failures, MOST_PATIENCE)


def is_looping(restarts: Restarts, bounds: Bounds) -> bool:
    return len(restarts.deaths) >= bounds.deaths


def has_just_failed_too_often(restarts: Restarts, bounds: Bounds) -> bool:
    return restarts.failures == bounds.failures


def is_given_up(restarts: Restarts, bounds: Bounds) -> bool:
    """Say whether it was told that the bundle does not come up, and it has not since."""
    return restarts.failures >= bounds.failures


def count_anew(restarts: Restarts) -> Restarts:
    """Begin to count, once it was told; the pauses go on growing."""
    return Restarts(pauses=restarts.pauses)


def pause(restarts: Restarts, bounds: Bounds) -> tuple[Restarts, float]:
    """Return the pause before the next restart, in seconds, and what is counted with it."""
    if restarts.pauses == 0:
        pause_s = 0.0
    else:
        pause_s = bounds.pause_s * 2 ** min(restarts.pauses - 1, 30)
    after = replace(restarts, pauses=restarts.pauses + 1)
    return after, min(pause_s, bounds.longest_pause_s)
