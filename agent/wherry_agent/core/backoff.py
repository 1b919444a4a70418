"""How long to wait before the next try: exponential, with full jitter over the whole delay.

Full jitter spreads a fleet that lost its broker at one instant over the whole delay
(M. Brooker, "Exponential Backoff and Jitter", 2015).
"""

from __future__ import annotations

FIRST_S = 1.0
LARGEST_S = 120.0


def delay_s(attempt: int, chance: float, spread_s: float = 0.0) -> float:
    """Return the seconds before try number `attempt` (from 0); `chance` is uniform in [0, 1).

    The first tries of a fleet are spread over `spread_s` too, which whoever knows its size sets.
    """
    return chance * max(spread_s, min(LARGEST_S, FIRST_S * 2.0 ** min(attempt, 16)))
