"""How fast a fleet may come, so that neither a site's uplink nor the broker is taken over.

A site's rate and budget are divided among its devices that fetch, and reconnects are spread over
the longer the larger the fleet is. Both are told in powers of two: a share is never more than fair,
and they are told anew only when the number of devices has halved or doubled.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

from wherry.messages import Pace
from wherry.names import DeviceId

SITE_TAG = "site"
LONGEST_SPREAD_S = 86_400.0

N = TypeVar("N", int, float)


def count_sites(tags: Mapping[DeviceId, Mapping[str, str]]) -> Mapping[str, int]:
    """Return how many of the devices are at each site."""
    return Counter(own[SITE_TAG] for own in tags.values() if SITE_TAG in own)


def pace_of(device: Pace, site: Pace, fetching: int) -> Pace:
    """Return a device's pace: its own limit, or its share where `fetching` share a site's."""
    share = divisor(fetching)
    by_rate = None if site.bytes_per_s is None else site.bytes_per_s / share
    by_day = None if site.bytes_per_day is None else site.bytes_per_day // share
    return Pace(
        bytes_per_s=_least(device.bytes_per_s, by_rate),
        bytes_per_day=_least(device.bytes_per_day, by_day),
    )


def spread_of(devices: int, reconnects_per_s: float) -> float:
    """Return the seconds over which a fleet shall spread its reconnects; 0 where one second does.

    It is as long as it takes at `reconnects_per_s`, or less than twice that, and a day at most.
    """
    seconds = math.ceil(devices / reconnects_per_s)
    return min(LONGEST_SPREAD_S, float(divisor(seconds))) if seconds > 1 else 0.0


def divisor(fetching: int) -> int:
    """Return the least power of two that is not below a number, 1 for none."""
    return 1 << max(0, fetching - 1).bit_length()


def _least(one: N | None, other: N | None) -> N | None:
    return min((limit for limit in (one, other) if limit is not None), default=None)
