"""Tests of references: the bytes that stand for one, and what none could be."""

from __future__ import annotations

import math

import pytest
from msgspec.structs import replace

from wherry import codec
from wherry.errors import Malformed
from wherry.reference import (
    LARGEST_REFERENCE_BYTES,
    BadReference,
    Distribution,
    Reference,
    parse_reference,
)

IMAGE = Distribution(
    name="image", rows=4, edges=(0.0, 0.5), counts=(1, 2, 5), zeros=0.25, not_finite=0.0, stride=3
)
SCORES = Distribution(
    name="scores", rows=4, edges=(), counts=(8,), zeros=0.0, not_finite=0.125, classes=(0.75, 0.25)
)
FROZEN = (
    b'{"format":"wherry.reference/1","inputs":[{"name":"image","rows":4,"edges":[0.0,0.5],'
    b'"counts":[1,2,5],"zeros":0.25,"not_finite":0.0,"stride":3,"classes":[]}],'
    b'"outputs":[{"name":"scores","rows":4,"edges":[],"counts":[8],"zeros":0.0,'
    b'"not_finite":0.125,"stride":1,"classes":[0.75,0.25]}],"critical":[]}'
)


def test_a_reference_is_the_same_bytes_for_ever() -> None:
    reference = Reference(inputs=(IMAGE,), outputs=(SCORES,))
    assert codec.encode(reference) == FROZEN
    assert parse_reference(FROZEN) == reference


def test_too_long_a_reference_is_not_parsed() -> None:
    with pytest.raises(Malformed, match="bytes"):
        parse_reference(FROZEN + b" " * LARGEST_REFERENCE_BYTES)


@pytest.mark.parametrize(
    ("sick", "problem"),
    [
        ({"counts": (1, 2)}, "one count a bin"),
        ({"counts": (1, -2, 5)}, "one count a bin"),
        ({"edges": (0.5, 0.5)}, "do not ascend"),
        ({"edges": (0.0, math.inf)}, "not finite"),
        ({"zeros": 1.5}, "not from 0 to 1"),
        ({"classes": (math.nan,)}, "not from 0 to 1"),
        ({"stride": 0}, "below 1"),
    ],
)
def test_counts_that_no_rows_gave_are_refused(sick: dict[str, object], problem: str) -> None:
    with pytest.raises(BadReference, match=problem):
        replace(IMAGE, **sick)
