"""Sees when the wall clock jumps: it is held against the monotonic one, which never does.

Nothing that is decided hangs on the wall clock but dates, and those have a floor; still, people
who read times of this device should know. A slow drift is corrected and is no jump.
"""

from __future__ import annotations

import msgspec

JUMP_S = 60.0
SHOWN_S = 3600.0  # For so long a jump stands in what the device reports.


class Clock(msgspec.Struct, frozen=True):
    """The clocks as last read; `jumped_at_s` (monotonic) is when the last jump was seen."""

    unix_s: float
    at_s: float
    jumped_at_s: float | None = None


def read(clock: Clock, *, unix_s: float, at_s: float) -> tuple[Clock, float]:
    """Return the clock after a reading of both, and by how many seconds it jumped, else 0."""
    jump_s = (unix_s - clock.unix_s) - (at_s - clock.at_s)
    if abs(jump_s) < JUMP_S:
        return Clock(unix_s, at_s, clock.jumped_at_s), 0.0
    return Clock(unix_s, at_s, at_s), jump_s


def has_jumped(clock: Clock) -> bool:
    """Say whether a jump is recent enough to be told of."""
    return clock.jumped_at_s is not None and clock.at_s - clock.jumped_at_s < SHOWN_S
