"""Decides when a device renews its certificate, and when it tries again.

    waiting --two thirds of its life are over--> asking --renewed--> waiting
       ^---------------- later, later, later ----- failed or refused

By which time: the clock, or the floor that signed times have raised where that is later. A clock
that runs ahead makes every certificate look old, so two renewals are a day apart at least; one
that was refused is asked for again each day, for an operator may have mended what was wrong. A
device that was off while its certificate ended renews like any other: its key is proof enough.
"""

from __future__ import annotations

from enum import Enum

import msgspec
from msgspec.structs import replace

from wherry.reasons import Reason

SHARE = 2 / 3
LATE_SHARE = 0.85  # Of its life: for so long a renewal may fail before it is told of.
SPREAD = 0.05  # Of its life: a fleet that was enrolled in one hour does not renew in one.
FIRST_S, LARGEST_S = 60.0, 6 * 3600.0
DAY_S = 86_400.0


class Outcome(str, Enum):
    """What came of asking; a refusal is of no use to ask again soon."""

    RENEWED = "renewed"
    UNAVAILABLE = "unavailable"
    REFUSED = "refused"


class Renewed(msgspec.Struct, frozen=True, kw_only=True):
    """What came of asking once; a failure says why, and how long the door wants to be let be.

    `proved_s` is the latest time that what came back has proved. With `clock_ahead` the door's own
    certificate has ended by this device's clock.
    """

    outcome: Outcome
    why: str = ""
    wait_s: float = 0.0
    proved_s: float = 0.0
    clock_ahead: bool = False


class Renewal(msgspec.Struct, frozen=True, kw_only=True):
    """`at_s` (monotonic) is the earliest next try; `chance` spreads devices over `SPREAD`."""

    not_before: float
    not_after: float
    chance: float
    at_s: float = 0.0
    failed: int = 0
    is_asking: bool = False
    clock_ahead: bool = False


def is_due(state: Renewal, now_s: float, now: float) -> bool:
    """Say whether to ask: `now_s` is monotonic, `now` the time that the device goes by."""
    life_s = state.not_after - state.not_before
    due = state.not_before + (SHARE + SPREAD * state.chance) * life_s
    return not state.is_asking and now_s >= state.at_s and now >= due


def begin(state: Renewal) -> Renewal:
    return replace(state, is_asking=True)


def end(state: Renewal, renewed: Renewed, now_s: float, chance: float) -> Renewal:
    """Return the state after asking came to something; `chance` is uniform in [0, 1)."""
    after = replace(state, is_asking=False, clock_ahead=renewed.clock_ahead)
    if renewed.outcome is Outcome.UNAVAILABLE:
        delay_s = max(renewed.wait_s, _delay_s(state.failed, chance))
        return replace(after, failed=state.failed + 1, at_s=now_s + delay_s)
    delay_s = DAY_S * (1 + SPREAD * chance)
    return replace(after, failed=0, at_s=now_s + delay_s)


def renewed_to(state: Renewal, not_before: float, not_after: float) -> Renewal:
    """Return the state with the dates of a new certificate."""
    return replace(state, not_before=not_before, not_after=not_after)


def find_fault(state: Renewal, *, floor: float, now: float) -> Reason | None:
    """Return what is wrong with the certificate by what is proved, or with the clock.

    One that should have been renewed for a while, and was asked for in vain, ends soon at the time
    `now` that the device goes by.
    """
    if floor > state.not_after:
        return Reason.CERTIFICATE_EXPIRED
    if state.clock_ahead:
        return Reason.CLOCK_AHEAD
    late = state.not_before + LATE_SHARE * (state.not_after - state.not_before)
    return Reason.CERTIFICATE_ENDS_SOON if state.failed and now >= late else None


def _delay_s(failed: int, chance: float) -> float:
    """Return how long to wait: twice as long each time, jittered over its second half."""
    whole_s = min(LARGEST_S, FIRST_S * 2.0 ** min(failed, 16))
    return whole_s * (0.5 + 0.5 * chance)
