"""Coded bodies come out as they went in, and never larger than is allowed."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry_agent.serving.coding import (
    BadCoding,
    Coding,
    TooLarge,
    UnknownCoding,
    asked_for,
    coding_of,
    compress,
    inflate,
)

LIMIT = 1000


@given(st.lists(st.binary(max_size=200), max_size=4), st.sampled_from(Coding))
def test_what_is_compressed_comes_out_again(parts: list[bytes], coding: Coding) -> None:
    assert inflate(compress(parts, coding), coding, LIMIT) == b"".join(parts)


@given(st.binary(max_size=500))
def test_the_formats_are_those_of_everybody(data: bytes) -> None:
    assert gzip.decompress(compress([data], Coding.GZIP)) == data
    assert zlib.decompress(compress([data], Coding.DEFLATE)) == data


@pytest.mark.parametrize("coding", Coding)
@pytest.mark.parametrize(("size", "fits"), [(LIMIT, True), (LIMIT + 1, False), (50 << 20, False)])
def test_a_bomb_is_put_out_at_the_limit(coding: Coding, size: int, fits: bool) -> None:
    body = compress([bytes(size)], coding)
    if fits:
        assert len(inflate(body, coding, LIMIT)) == size
    else:
        with pytest.raises(TooLarge, match="at most 1000 bytes"):
            inflate(body, coding, LIMIT)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "its end is missing"),
        (gzip.compress(b"whole")[:-1], "its end is missing"),
        (gzip.compress(b"whole") + b"more", "4 bytes follow its end"),
        (zlib.compress(b"whole"), "incorrect header"),
        (b"plain", "incorrect header"),
    ],
)
def test_what_is_not_coded_as_it_says_is_refused(body: bytes, problem: str) -> None:
    with pytest.raises(BadCoding, match=problem):
        inflate(body, Coding.GZIP, LIMIT)


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        ("", None),
        ("identity", None),
        ("gzip", Coding.GZIP),
        (" GZIP ", Coding.GZIP),
        ("x-gzip", Coding.GZIP),
        ("deflate", Coding.DEFLATE),
    ],
)
def test_a_body_says_how_it_is_coded(header: str, coding: Coding | None) -> None:
    assert coding_of(header) is coding


@pytest.mark.parametrize("header", ["br", "gzip, gzip", "zstd", "x" * 1000])
def test_a_coding_that_is_not_read_is_refused(header: str) -> None:
    with pytest.raises(UnknownCoding, match="send it as gzip or deflate"):
        coding_of(header)


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        ("gzip", Coding.GZIP),
        ("deflate", Coding.DEFLATE),
        ("", None),
        ("identity", None),
        ("gzip, deflate, br, zstd", None),
        ("gzip;q=0", None),
        ("*", None),
    ],
)
def test_only_a_client_that_accepts_one_coding_asks_for_it(
    header: str, coding: Coding | None
) -> None:
    assert asked_for(header) is coding
