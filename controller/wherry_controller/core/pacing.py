"""How fast and how much each device shall fetch, so that a site's uplink is not taken over.

A site's rate and budget are divided among its devices that fetch. The divisor is rounded up to a
power of two: a share is never more than fair, and is told anew only when their number has halved
or doubled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

from wherry.messages import Pace
from wherry.names import DeviceId

SITE_TAG = "site"

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


def divisor(fetching: int) -> int:
    """Return the least power of two that is not below a number, 1 for none."""
    return 1 << max(0, fetching - 1).bit_length()


def _least(one: N | None, other: N | None) -> N | None:
    return min((limit for limit in (one, other) if limit is not None), default=None)
