"""Judges the dates of a peer's certificate on a device whose clock may be wrong.

TLS itself looks at no date here: a device without a clock starts in 1970, where no certificate is
valid yet and nothing could ever set it right. What is certain is the floor, the latest time that
something signed has proved. A certificate that ended before it is expired, whatever the clock says.
One that ended only by this clock may be sound: the clock may be ahead. Then the connection is
taken and told of, since all that comes over it is signed and has an end of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Dates:
    """From when until when a certificate is valid, in UNIX seconds."""

    begins: float
    ends: float


class Verdict(Enum):
    SOUND = "sound"
    CLOCK_AHEAD = "clock_ahead"
    EXPIRED = "expired"


def judge(dates: Dates, *, floor: float, clock: float) -> Verdict:
    """Judge the dates of a certificate whose signature was verified.

    Its beginning is a time that the controller's authority has signed, so it proves that time, and
    `floor` may be raised to it; it can never be too early for a certificate.
    """
    if dates.ends < max(floor, dates.begins):
        return Verdict.EXPIRED
    return Verdict.CLOCK_AHEAD if dates.ends < clock else Verdict.SOUND
