"""What a version's inputs and outputs looked like when it was judged: to see drift by.

Per tensor: how often values fall between edges that the reference rows themselves gave (the
quantiles, so that each bin is about as full), how many are zero or no number, and the share of
each class among the answers. A device that counts by the same edges can be compared with it.
"""

from __future__ import annotations

import math
from itertools import pairwise

import msgspec

from wherry import codec
from wherry.errors import Malformed

BINS = 32
LARGEST_REFERENCE_BYTES = 256 * 1024


class BadReference(Malformed):
    """Counts that no rows could have given."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"the reference does not hold together: {self.problem}; build the bundle again."


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """Values of one tensor in `rows` rows: `counts[i]` of them lie in bin `i`.

    Bin 0 is below `edges[0]`, the last at or above `edges[-1]`, and bin `i` from `edges[i - 1]` to
    below `edges[i]`; NaN and infinities lie in none. `zeros` and `not_finite` are shares of all
    the values looked at: each `stride`-th of a row, from the first on. `classes` are the shares of
    the answers.
    """

    name: str
    rows: int
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    zeros: float
    not_finite: float
    stride: int = 1
    classes: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.edges) + 1 or min(self.counts) < 0:
            raise BadReference(f"{self.name!r} has not one count a bin")
        if not all(math.isfinite(edge) for edge in self.edges):
            raise BadReference(f"an edge of {self.name!r} is not finite")
        if any(low >= high for low, high in pairwise(self.edges)):
            raise BadReference(f"the edges of {self.name!r} do not ascend")
        if not all(0 <= share <= 1 for share in (self.zeros, self.not_finite, *self.classes)):
            raise BadReference(f"a share of {self.name!r} is not from 0 to 1")
        if self.stride < 1:
            raise BadReference(f"the stride of {self.name!r} is below 1")


class Reference(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.reference/1"
):
    """The distributions of tensors, in the signature's order."""

    inputs: tuple[Distribution, ...]
    outputs: tuple[Distribution, ...]
    critical: tuple[str, ...] = ()


def parse_reference(data: bytes) -> Reference:
    """Return the reference in `data`; raises `BadDocument` or `BadReference`."""
    return codec.decode(Reference, data, limit_bytes=LARGEST_REFERENCE_BYTES)
