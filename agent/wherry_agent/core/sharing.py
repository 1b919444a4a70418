"""Which requests a candidate answers or gets copies of, and what that may cost.

A split is sticky: the same key goes to the same side as long as the candidate and the share are
the same, and another candidate draws the line anew. Copies are spread evenly over the requests,
and are made only while the candidate's computing stays within its share of one core.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from hashlib import blake2b

from wherry.names import Digest
from wherry.signature import Signature

_GOLDEN_RATIO = 2_654_435_769  # Of 2**32: multiples of it fill the range evenly.
_RANGE = 1 << 32


class Skipped(str, Enum):
    """Why a sampled request was not copied."""

    BUSY = "busy"
    OVER_CPU = "over_cpu"
    OVER_MEMORY = "over_memory"
    TOO_HOT = "too_hot"
    NOT_UP = "not_up"
    UNLIKE = "unlike"


def falls_to(candidate: Digest, key: str, share: float) -> bool:
    """Say whether the candidate answers the requests with this key."""
    drawn = blake2b(key.encode(), digest_size=4, key=candidate.encode()[:64]).digest()
    return int.from_bytes(drawn, "big") < share * _RANGE


def is_sampled(number: int, share: float) -> bool:
    """Say whether the request of this number is among the share, evenly spread."""
    return number * _GOLDEN_RATIO % _RANGE < share * _RANGE


def are_alike(one: Signature, other: Signature) -> bool:
    """Say whether what is asked of one can be asked of the other, states included."""
    return one is other or (
        one.inputs == other.inputs and one.outputs == other.outputs and one.states == other.states
    )


@dataclass(frozen=True, slots=True)
class Allowance:
    """Compute time that may be spent: it grows with time, and a cost may bring it below 0."""

    core_share: float
    left_s: float
    at_s: float


LONGEST_SAVING_S = 1.0  # So much time's growth is kept at most, so that pauses buy no burst.


def begin_allowance(core_share: float, now_s: float) -> Allowance:
    return Allowance(core_share, 0.0, now_s)


def grow(allowance: Allowance, now_s: float) -> Allowance:
    grown_s = allowance.left_s + allowance.core_share * (now_s - allowance.at_s)
    left_s = min(grown_s, allowance.core_share * LONGEST_SAVING_S)
    return replace(allowance, left_s=left_s, at_s=now_s)


def spend(allowance: Allowance, compute_s: float) -> Allowance:
    return replace(allowance, left_s=allowance.left_s - compute_s)


def may_spend(allowance: Allowance) -> bool:
    return allowance.left_s >= 0
