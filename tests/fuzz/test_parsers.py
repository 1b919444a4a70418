"""Each parser takes its bytes or refuses by name, whatever was done to them."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.parsers import PARSERS
from wherry.errors import REFUSALS

fuzzed = settings(max_examples=60, deadline=None)
# What parsers are known to stumble over.
VALUES = [b"null", b"[]", b"{}", b"-1", b"1e999", b"NaN", b"0.5", b"true", b"9" * 400]
PARTS = [b"[" * 2000, b'{"format":', b'"\\ud800"', b"\\u0000", b",", b'"', b"\xff", b"\0"]
ODD = st.sampled_from([*VALUES, *PARTS])


@st.composite
def mutated(draw: st.DrawFn, seed: bytes) -> bytes:
    """Draw `seed` with some parts cut, doubled, turned over or replaced."""
    data = seed
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        put = draw(ODD | st.binary(max_size=4) | st.just(data[start:end] * 2) | st.just(b""))
        data = data[:start] + put + data[end:]
    return data


def take_or_refuse(name: str, data: bytes) -> None:
    with suppress(*REFUSALS):
        PARSERS[name].read(data)


@pytest.mark.parametrize("name", PARSERS)
def test_what_a_parser_takes_is_taken(name: str) -> None:
    for seed in PARSERS[name].seeds:
        PARSERS[name].read(seed)


@pytest.mark.parametrize("name", PARSERS)
@fuzzed
@given(st.data())
def test_bytes_that_were_tampered_with_are_taken_or_refused(name: str, data: st.DataObject) -> None:
    seed = data.draw(st.sampled_from(PARSERS[name].seeds))
    take_or_refuse(name, data.draw(mutated(seed)))


@pytest.mark.parametrize("name", PARSERS)
@fuzzed
@given(noise=st.binary(max_size=200) | ODD)
def test_noise_is_taken_or_refused(name: str, noise: bytes) -> None:
    take_or_refuse(name, noise)
