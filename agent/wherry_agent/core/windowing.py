"""When a window is told: at its length, or later, where the bytes of the day would not last.

    counts each `window_s`  -> judged on the device, always
                            -> added to what waits; told when that is long enough and affordable

The longer the last windows were in bytes, the longer the next is in time, so that the day's bytes
last the day. What is not told yet loses nothing but its place in time: counts add up. A device
that nobody asks tells of itself once in the longest length.
"""

from __future__ import annotations

from dataclasses import dataclass

from wherry_agent.core.budget import HOUR_S, HOURS, Spent, left_bytes

# Whole hours are kept, so the record may reach 25 of them back.
_RECORD_S = (HOURS + 1) * HOUR_S


@dataclass(frozen=True, slots=True)
class Rule:
    """`bytes_per_day` None: as many as there are."""

    window_s: float
    longest_window_s: float
    bytes_per_day: int | None = None


def length_s(rule: Rule, told_bytes: int) -> float:
    """Return how long a window shall be when the last ones had `told_bytes` in all."""
    longest_s = max(rule.longest_window_s, rule.window_s)
    if rule.bytes_per_day is None:
        return rule.window_s
    return min(max(rule.window_s, told_bytes * _RECORD_S / rule.bytes_per_day), longest_s)


def is_due(rule: Rule, told_bytes: int, *, since_s: float, now_s: float) -> bool:
    """Say whether what waits since `since_s` is to be told."""
    return now_s - since_s >= length_s(rule, told_bytes)


def is_idle_long(rule: Rule, *, told_s: float, now_s: float) -> bool:
    """Say whether a device that nobody asks is to tell of itself."""
    return now_s - told_s >= max(rule.longest_window_s, rule.window_s)


def may_tell(rule: Rule, spent: Spent, size_bytes: int, now_s: float) -> bool:
    """Say whether the last 24 hours leave room for so many bytes; `now_s` is UNIX time."""
    left = left_bytes(spent, rule.bytes_per_day, now_s)
    return left is None or size_bytes <= left
