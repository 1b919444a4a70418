"""How many bytes a device has fetched in the last 24 hours, and how many it may yet.

Hours are kept, not chunks, so the record stays small; an hour counts until it is 24 old, so in no
24 hours more is fetched than the budget. A clock that was set back makes no room: what was spent
in hours to come counts as spent now.
"""

from __future__ import annotations

import msgspec

HOUR_S = 3600.0
HOURS = 24


class Spent(msgspec.Struct, frozen=True):
    """Hours since 1970 in order, with the bytes of each."""

    hours: tuple[tuple[int, int], ...] = ()


def spend(spent: Spent, size_bytes: int, now_s: float) -> Spent:
    """Return the record with so many bytes more; `now_s` is UNIX time."""
    hour = int(now_s // HOUR_S)
    hours = _recent(spent, hour)
    hours[hour] = hours.get(hour, 0) + size_bytes
    return Spent(tuple(sorted(hours.items())))


def left_bytes(spent: Spent, limit_bytes: int | None, now_s: float) -> int | None:
    """Return what may yet be fetched; None where there is no limit."""
    if limit_bytes is None:
        return None
    return max(0, limit_bytes - sum(_recent(spent, int(now_s // HOUR_S)).values()))


def least(*limits: int | float | None) -> float | None:
    """Return the tightest of some limits; None where none of them is one."""
    return min((limit for limit in limits if limit is not None), default=None)


def _recent(spent: Spent, hour: int) -> dict[int, int]:
    recent: dict[int, int] = {}
    for at, size in spent.hours:
        if at >= hour - HOURS:
            recent[min(at, hour)] = recent.get(min(at, hour), 0) + size
    return recent
