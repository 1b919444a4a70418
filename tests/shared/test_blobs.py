"""Blobs: what is cut is joined again, and other bytes are never taken for it."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tests.builders import a_blob, a_digest
from wherry.blobs import (
    CHUNK_BYTES,
    LARGEST_BLOB_BYTES,
    LARGEST_CHUNK_BYTES,
    SMALLEST_CHUNK_BYTES,
    BadBlob,
    Blob,
    WrongBytes,
    check_digest,
    chunk_sizes,
    cut,
    describe,
    digest_of,
    join,
)
from wherry.codec import decode, encode

SIZE = SMALLEST_CHUNK_BYTES


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Up to five chunks and a bit, of few letters, so that chunks repeat."""
    chunks = draw(st.lists(st.sampled_from("ab"), max_size=5))
    tail = draw(st.integers(0, SIZE))
    return "".join(letter * SIZE for letter in chunks).encode() + b"t" * tail


@given(contents())
@example(b"")
@example(b"x" * SIZE)
@example(b"x" * (SIZE + 1))
def test_what_was_cut_is_joined_again(data: bytes) -> None:
    blob = describe(data, SIZE)
    chunks = cut(data, SIZE)
    assert join(chunks, blob) == data
    assert tuple(digest_of(chunk) for chunk in chunks) == blob.chunks
    assert blob.size_bytes == len(data)
    assert blob.digest == hashlib.sha256(data).hexdigest()


@given(contents())
def test_every_chunk_but_the_last_has_one_length(data: bytes) -> None:
    lengths = [len(chunk) for chunk in cut(data, SIZE)]
    assert all(length == SIZE for length in lengths[:-1])
    assert all(1 <= length <= SIZE for length in lengths[-1:])
    assert sum(lengths) == len(data)


@given(contents())
def test_the_sizes_of_the_chunks_make_the_blob(data: bytes) -> None:
    blob = describe(data, SIZE)
    sizes = chunk_sizes(blob)
    assert sum(sizes[chunk] for chunk in blob.chunks) == len(data)
    assert {digest_of(chunk): len(chunk) for chunk in cut(data, SIZE)} == sizes


@given(contents(), st.data())
def test_an_altered_chunk_is_refused(data: bytes, choose: st.DataObject) -> None:
    assume(data)
    at = choose.draw(st.integers(0, len(data) - 1))
    bit = 1 << choose.draw(st.integers(0, 7))
    altered = data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
    with pytest.raises(WrongBytes):
        join(cut(altered, SIZE), describe(data, SIZE))


@given(contents(), st.data())
def test_a_missing_chunk_is_refused(data: bytes, choose: st.DataObject) -> None:
    assume(data)
    chunks = cut(data, SIZE)
    del chunks[choose.draw(st.integers(0, len(chunks) - 1))]
    with pytest.raises(WrongBytes):
        join(chunks, describe(data, SIZE))


@given(contents(), st.data())
def test_chunks_in_another_order_are_refused_unless_they_make_the_same(
    data: bytes, choose: st.DataObject
) -> None:
    chunks = choose.draw(st.permutations(cut(data, SIZE)))
    if b"".join(chunks) == data:
        assert join(chunks, describe(data, SIZE)) == data
    else:
        with pytest.raises(WrongBytes):
            join(chunks, describe(data, SIZE))


def test_the_refusal_names_both_digests() -> None:
    with pytest.raises(WrongBytes, match="fetch them again") as refused:
        check_digest(b"evil", a_digest("good"))
    assert (refused.value.expected, refused.value.actual) == (a_digest("good"), digest_of(b"evil"))
    assert check_digest(b"good", digest_of(b"good")) == b"good"


def test_chunks_are_as_long_as_was_measured_best() -> None:
    assert len(cut(b"x" * (CHUNK_BYTES + 1))[0]) == CHUNK_BYTES == 262_144
    assert describe(b"x").chunk_bytes == CHUNK_BYTES


@given(contents())
def test_a_blob_passes_the_wire(data: bytes) -> None:
    blob = describe(data, SIZE)
    assert decode(Blob, encode(blob)) == blob


@pytest.mark.parametrize(
    ("size_bytes", "chunk_bytes", "chunks", "problem"),
    [
        (-1, SIZE, 0, "its length is -1"),
        (LARGEST_BLOB_BYTES + 1, LARGEST_CHUNK_BYTES, 8193, "its length is"),
        (1, SIZE - 1, 1, "its chunks have"),
        (1, 0, 1, "its chunks have 0"),
        (1, -SIZE, 1, "its chunks have"),
        (1, LARGEST_CHUNK_BYTES + 1, 1, "its chunks have"),
        (0, SIZE, 1, "1 chunks do not make"),
        (1, SIZE, 0, "0 chunks do not make"),
        (SIZE, SIZE, 2, "2 chunks do not make"),
        (SIZE + 1, SIZE, 1, "1 chunks do not make"),
    ],
)
def test_a_blob_that_contradicts_itself_is_refused(
    size_bytes: int, chunk_bytes: int, chunks: int, problem: str
) -> None:
    with pytest.raises(BadBlob, match=problem):
        Blob(a_digest(), size_bytes, chunk_bytes, (a_digest(),) * chunks)


def test_the_bounds_of_a_blob_are_within_it() -> None:
    largest = Blob(a_digest(), LARGEST_BLOB_BYTES, LARGEST_CHUNK_BYTES, (a_digest(),) * 8192)
    assert largest.size_bytes == 2 << 30
    assert a_blob(b"", chunk_bytes=SMALLEST_CHUNK_BYTES).chunks == ()
