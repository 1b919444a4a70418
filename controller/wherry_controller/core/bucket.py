"""How often a stranger may ask: a bucket of requests for each address, filled at a steady rate."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from wherry.errors import Unavailable

MOST_ADDRESSES = 10_000
_NETWORK_BITS = 64  # One customer has as many IPv6 addresses below that as he likes.


class TooManyRequests(Unavailable):
    """An address that asks more often than it may."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(wait_s)
        self.wait_s = wait_s

    def __str__(self) -> str:
        return f"too much was asked from this address: ask again in {self.wait_s:.0f} s."


@dataclass(frozen=True, slots=True)
class Rate:
    per_second: float
    burst: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """How many requests are left, and when that was true."""

    left: float
    at: float


def take(bucket: Bucket | None, rate: Rate, now: float) -> Bucket:
    """Return the bucket after one more request; raise `TooManyRequests` where it is empty."""
    if bucket is None:
        return Bucket(rate.burst - 1.0, now)
    left = min(float(rate.burst), bucket.left + max(0.0, now - bucket.at) * rate.per_second)
    if left < 1.0:
        raise TooManyRequests(max(1.0, (1.0 - left) / rate.per_second))
    return Bucket(left - 1.0, now)


def network_of(address: str) -> str:
    """Return what is counted together: an IPv4 address, or the network of an IPv6 one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((address, _NETWORK_BITS), strict=False))
