"""Deltas: every kind of window gives its bytes back, and what is wrong is refused in bounds."""

from __future__ import annotations

import contextlib
import hashlib
import io
import struct
from collections.abc import Iterator

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.deltas import (
    BASE,
    BLOB,
    a_delta,
    a_difference,
    a_frame,
    a_header,
    a_plane,
    a_stream,
    expected,
    planes,
    rebuilt,
    zigzag,
)
from wherry.blobs import digest_of
from wherry.delta import (
    COPY_BYTES,
    HEAD,
    HEADER_LENGTH,
    LARGEST_HEADER_BYTES,
    LARGEST_PAYLOAD_BYTES,
    LARGEST_REACH_BYTES,
    MAGIC,
    MOST_ORDERED,
    WINDOW_BYTES,
    DeltaRefused,
    Expected,
    Kind,
    Order,
    Storing,
    Window,
    order_of,
    pack_window,
    rebuild,
    rebuild_window,
)
from wherry.reasons import Reason

HALF = 0x3C00, 0x4000, 0x3800  # 1, 2 and 0.5 in half precision.


@st.composite
def items(draw: st.DrawFn) -> tuple[int, int, list[int], list[int]]:
    """An item's bytes, a field's bits, items of a base and of a blob."""
    item = draw(st.sampled_from([1, 2, 4, 8]))
    value = st.integers(0, (1 << (8 * item)) - 1)
    pairs = draw(st.lists(st.tuples(value, value), min_size=1, max_size=20))
    bits = draw(st.sampled_from([8, 4, 2, 1]))
    return item, bits, [old for old, _ in pairs], [new for _, new in pairs]


def raw(values: list[int], item: int) -> bytes:
    return b"".join(value.to_bytes(item, "little") for value in values)


@given(items())
def test_differences_are_added_and_wrap(case: tuple[int, int, list[int], list[int]]) -> None:
    item, bits, old, new = case
    modulus = 1 << (8 * item)
    told = [
        zigzag((after - before) % modulus, item) for before, after in zip(old, new, strict=True)
    ]
    window = Window(Kind.DIFFERENCE, len(new) * item, item=item)
    payload = planes(told, item, bits=bits)
    assert rebuild_window(window, payload, raw(old, item)) == raw(new, item)


@given(items())
def test_turned_bits_are_turned_back(case: tuple[int, int, list[int], list[int]]) -> None:
    item, bits, old, new = case
    told = [before ^ after for before, after in zip(old, new, strict=True)]
    window = Window(Kind.XOR, len(new) * item, item=item)
    assert rebuild_window(window, planes(told, item, bits=bits), raw(old, item)) == raw(new, item)


@given(items())
def test_a_full_window_needs_no_base(case: tuple[int, int, list[int], list[int]]) -> None:
    item, bits, _, new = case
    window = Window(Kind.FULL, len(new) * item, item=item)
    assert rebuild_window(window, planes(new, item, bits=bits), b"") == raw(new, item)


def test_a_rows_factor_is_applied_before_the_difference() -> None:
    one, two, half = HALF
    base = struct.pack("<4H", one, two, one, two)
    window = Window(Kind.SCALED, 8, item=2, extra=2)
    payload = struct.pack("<2f", 2.0, 0.5) + planes([0, 0, 0, zigzag(1, 2)], 2)
    blob = struct.pack("<4H", two, two + 0x400, half, one + 1)
    assert rebuild_window(window, payload, base) == blob


def test_items_in_the_order_of_the_bases_exponents_find_their_places() -> None:
    halves = struct.pack("<4e", 1.5, -0.001, 3000.0, 0.002)
    singles = struct.pack("<4f", 1.5, -0.001, 3000.0, 0.002)
    for item, base in ((2, halves), (4, singles)):
        values = [int.from_bytes(base[at : at + item], "little") for at in range(0, 4 * item, item)]
        told = [zigzag(step, item) for step in (2, 4, 1, 3)]  # From the smallest to the largest.
        moved = [values[0] + 1, values[1] + 2, values[2] + 3, values[3] + 4]
        window = Window(Kind.DIFFERENCE, 4 * item, item=item, order=Order.BY_EXPONENT)
        assert rebuild_window(window, planes(told, item), base) == raw(moved, item)


def test_a_patch_repeats_what_its_part_of_the_base_holds() -> None:
    base = hashlib.sha512(b"a").digest() * 2 + hashlib.sha512(b"b").digest()
    blob = base[64:192] + b"!" + base[128:192]
    part = zstandard.ZstdCompressionDict(base[64:], dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    payload = zstandard.ZstdCompressor(dict_data=part).compress(blob)
    assert len(payload) < 64
    window = Window(Kind.PATCH, len(blob), 64, extra=128)
    delta = a_delta(a_header(base, blob), pack_window(window, payload))
    assert rebuilt(delta, base, expected(base, blob)) == blob


def test_a_copy_is_read_piece_by_piece_whatever_its_length() -> None:
    base = bytes(300) + b"ab" * 200_000
    blob = base[300:]
    delta = a_delta(a_header(base, blob), pack_window(Window(Kind.COPY, len(blob), 300)))
    reads: list[int] = []

    def read_base(at: int, length: int) -> bytes:
        reads.append(length)
        return base[at : at + length]

    assert b"".join(rebuild(io.BytesIO(delta).read, read_base, expected(base, blob))) == blob
    assert max(reads) <= COPY_BYTES


def test_windows_follow_one_another() -> None:
    windows = (
        a_difference(BASE, BLOB[:100]),
        a_difference(BASE, BLOB[100:], at=100),
    )
    assert rebuilt(a_delta(a_header(), *windows), wanted=expected()) == BLOB


def test_streams_may_be_zeros_raw_or_packed() -> None:
    plane = a_frame(6, len(BASE))  # A difference of 3, zigzag.
    payload = b"\x08" + a_stream(plane, Storing.ZSTD)
    delta = a_delta(a_header(), pack_window(Window(Kind.DIFFERENCE, len(BLOB)), payload))
    assert rebuilt(delta, wanted=expected()) == BLOB
    payload = b"\x08" + a_stream(b"", Storing.ZEROS)
    same = pack_window(Window(Kind.XOR, len(BASE)), payload)
    assert rebuilt(a_delta(a_header(blob=BASE), same), wanted=expected(blob=BASE)) == BASE


def refusal(delta: bytes, *, base: bytes = BASE, wanted: Expected | None = None) -> Reason:
    with pytest.raises(DeltaRefused) as caught:
        rebuilt(delta, base, wanted or expected())
    assert str(caught.value).endswith("fetch the blob whole.")
    return caught.value.reason


def test_a_delta_from_another_base_is_refused() -> None:
    other = replace(a_header(), base=digest_of(b"another"))
    assert refusal(a_delta(other, a_difference())) is Reason.DELTA_WRONG_BASE
    shorter = replace(a_header(), base_bytes=1000)
    assert refusal(a_delta(shorter, a_difference())) is Reason.DELTA_WRONG_BASE


def test_a_base_that_rotted_is_told_from_a_delta_that_lies() -> None:
    delta = a_delta(a_header(), a_difference())
    rotten = b"?" + BASE[1:]
    assert refusal(delta, base=rotten) is Reason.DELTA_WRONG_BASE
    assert refusal(delta, base=BASE[:-1], wanted=expected()) is Reason.DELTA_WRONG_BASE
    lies = a_delta(a_header(), a_difference(blob=b"?" + BLOB[1:]))
    assert refusal(lies) is Reason.DELTA_CORRUPT


def test_a_delta_of_another_blob_is_refused() -> None:
    other = replace(a_header(), blob=digest_of(b"another"))
    assert refusal(a_delta(other, a_difference())) is Reason.DELTA_CORRUPT
    shorter = replace(a_header(), blob_bytes=10)
    assert refusal(a_delta(shorter, a_difference())) is Reason.DELTA_CORRUPT


def test_more_than_the_blobs_length_is_refused_before_it_is_read() -> None:
    larger = replace(a_header(), blob_bytes=len(BLOB) + 1)
    assert refusal(a_delta(larger, a_difference())) is Reason.DELTA_OVERSIZED
    beyond = pack_window(Window(Kind.COPY, 1))
    assert refusal(a_delta(a_header(), a_difference(), beyond)) is Reason.DELTA_OVERSIZED
    longer = pack_window(Window(Kind.COPY, len(BLOB) + 1))
    assert refusal(a_delta(a_header(), longer)) is Reason.DELTA_OVERSIZED


def test_truncation_at_every_byte_is_refused() -> None:
    delta = a_delta(a_header(), a_difference())
    for end in range(len(delta)):
        assert refusal(delta[:end]) is Reason.DELTA_CORRUPT


def heads() -> Iterator[tuple[str, str, bytes, Reason]]:
    """Yield windows whose heads say what cannot be, and nothing after them."""

    def head(
        kind: int, item: int, length: int, extra: int, payload: int, offset: int, order: int = 0
    ) -> bytes:
        return HEAD.pack(kind, item, order, length, extra, payload, offset)

    wide = WINDOW_BYTES + 1
    yield "unknown kind", "unknown kind", head(6, 1, 8, 0, 0, 0), Reason.DELTA_CORRUPT
    yield (
        "unknown order",
        "unknown kind",
        head(Kind.DIFFERENCE, 2, 8, 0, 0, 0, 2),
        Reason.DELTA_CORRUPT,
    )
    yield (
        "ordered bytes",
        "cannot be ordered",
        head(Kind.DIFFERENCE, 1, 8, 0, 0, 0, 1),
        Reason.DELTA_CORRUPT,
    )
    yield (
        "ordered full",
        "cannot be ordered",
        head(Kind.FULL, 2, 8, 0, 0, 0, 1),
        Reason.DELTA_CORRUPT,
    )
    many = 2 * (MOST_ORDERED + 1)
    yield (
        "too many to order",
        "cannot be ordered",
        head(Kind.DIFFERENCE, 2, many, 0, 0, 0, 1),
        Reason.DELTA_CORRUPT,
    )
    yield "long window", "a window has", head(Kind.FULL, 1, wide, 0, 0, 0), Reason.DELTA_OVERSIZED
    large = LARGEST_PAYLOAD_BYTES + 1
    yield "long payload", "payload has", head(Kind.FULL, 1, 8, 0, large, 0), Reason.DELTA_OVERSIZED
    reach = LARGEST_REACH_BYTES + 1
    yield (
        "long dictionary",
        "dictionary of",
        head(Kind.PATCH, 1, 8, reach, 0, 0),
        Reason.DELTA_OVERSIZED,
    )
    yield "item of 3", "items of 3", head(Kind.FULL, 3, 9, 0, 0, 0), Reason.DELTA_CORRUPT
    yield "half an item", "items of 4", head(Kind.FULL, 4, 6, 0, 0, 0), Reason.DELTA_CORRUPT
    yield "no length", "0 bytes do not make", head(Kind.FULL, 1, 0, 0, 0, 0), Reason.DELTA_CORRUPT
    yield (
        "beyond the base",
        "beyond the base",
        head(Kind.COPY, 1, 8, 0, 0, 1 << 21),
        Reason.DELTA_CORRUPT,
    )
    yield (
        "offset that wraps",
        "beyond the base",
        head(Kind.XOR, 1, 8, 0, 0, (1 << 64) - 4),
        Reason.DELTA_CORRUPT,
    )
    yield "rows of bytes", "rows of", head(Kind.SCALED, 1, 8, 1, 0, 0), Reason.DELTA_CORRUPT
    yield "rows of nothing", "rows of 0", head(Kind.SCALED, 2, 8, 0, 0, 0), Reason.DELTA_CORRUPT
    yield "half a row", "rows of 3", head(Kind.SCALED, 2, 8, 3, 0, 0), Reason.DELTA_CORRUPT
    yield (
        "copy with payload",
        "copy has a payload",
        head(Kind.COPY, 1, 8, 0, 1, 0) + b"?",
        Reason.DELTA_CORRUPT,
    )


@pytest.mark.parametrize(
    ("problem", "head", "reason"), [pytest.param(*case[1:], id=case[0]) for case in heads()]
)
def test_a_window_that_cannot_be_is_refused_by_its_head(
    problem: str, head: bytes, reason: Reason
) -> None:
    base = bytes(1 << 20)
    wanted = Expected(digest_of(base), len(base), digest_of(base), len(base))
    delta = a_delta(a_header(base, base), head)
    reads: list[int] = []

    def read(length: int) -> bytes:
        reads.append(length)
        return source.read(length)

    source = io.BytesIO(delta)
    with pytest.raises(DeltaRefused) as caught:
        list(rebuild(read, lambda at, length: base[at : at + length], wanted))
    assert caught.value.reason is reason
    assert problem in caught.value.problem
    assert max(reads) <= LARGEST_HEADER_BYTES  # Nothing of a declared length was allocated.


def payloads() -> Iterator[tuple[str, str, bytes, Reason]]:
    """Yield payloads that do not hold one plane of 1,024 bytes."""
    count = len(BLOB)
    whole = a_plane(bytes(count))
    yield "nothing", "fields of 0 bits", b"", Reason.DELTA_CORRUPT
    yield "fields of 3 bits", "fields of 3 bits", b"\x03" + whole[1:], Reason.DELTA_CORRUPT
    yield "cut in a stream's head", "ends in a plane", whole[:3], Reason.DELTA_CORRUPT
    yield "cut in a stream", "ends in a stream", whole[:-1], Reason.DELTA_CORRUPT
    yield "one plane too many", "after its planes", whole + b"?", Reason.DELTA_CORRUPT
    yield "short stream", "cannot be stored", a_plane(bytes(count - 1)), Reason.DELTA_CORRUPT
    yield "long stream", "cannot be stored", a_plane(bytes(count + 1)), Reason.DELTA_CORRUPT
    unknown = b"\x08" + STREAM_OF_KIND_3
    yield "unknown storing", "cannot be stored", unknown, Reason.DELTA_CORRUPT
    zeros = b"\x08" + a_stream(b"??", Storing.ZEROS)
    yield "zeros with bytes", "cannot be stored", zeros, Reason.DELTA_CORRUPT
    bomb = b"\x08" + a_stream(a_frame(0, 100_000), Storing.ZSTD)
    yield "bomb", "declares 100000", bomb, Reason.DELTA_OVERSIZED
    hidden = b"\x08" + a_stream(a_frame(0, 100_000, declares=count), Storing.ZSTD)
    yield "bomb that declares less", "does not unpack", hidden, Reason.DELTA_CORRUPT
    little = b"\x08" + a_stream(a_frame(0, 10), Storing.ZSTD)
    yield "frame of less", "declares 10", little, Reason.DELTA_CORRUPT
    lying = b"\x08" + a_stream(a_frame(0, 10, declares=count), Storing.ZSTD)
    yield "frame that declares more", "does not unpack", lying, Reason.DELTA_CORRUPT
    twice = b"\x08" + a_stream(a_frame(0, count) + a_frame(0, count), Storing.ZSTD)
    yield "second frame", "does not unpack", twice, Reason.DELTA_CORRUPT
    junk = b"\x08" + a_stream(b"no zstd", Storing.ZSTD)
    yield "no frame", "does not unpack", junk, Reason.DELTA_CORRUPT


STREAM_OF_KIND_3 = b"\x03" + len(BLOB).to_bytes(4, "little") + bytes(len(BLOB))


@pytest.mark.parametrize(
    ("problem", "payload", "reason"), [pytest.param(*case[1:], id=case[0]) for case in payloads()]
)
def test_a_payload_that_is_not_its_planes_is_refused(
    problem: str, payload: bytes, reason: Reason
) -> None:
    window = pack_window(Window(Kind.DIFFERENCE, len(BLOB)), payload)
    with pytest.raises(DeltaRefused) as caught:
        rebuilt(a_delta(a_header(), window), wanted=expected())
    assert caught.value.reason is reason
    assert problem in caught.value.problem


def test_factors_that_are_cut_are_refused() -> None:
    window = pack_window(Window(Kind.SCALED, len(BLOB), item=2, extra=4), b"short")
    assert refusal(a_delta(a_header(), window)) is Reason.DELTA_CORRUPT


def test_a_frame_that_wants_much_memory_is_refused() -> None:
    # Not a single segment: a window descriptor of 2 GiB, content size of 4 bytes.
    frame = b"\x28\xb5\x2f\xfd\x80" + bytes([21 << 3]) + len(BLOB).to_bytes(4, "little")
    frame += (len(BLOB) << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\x06"
    window = Window(Kind.DIFFERENCE, len(BLOB))
    payload = b"\x08" + a_stream(frame, Storing.ZSTD)
    assert refusal(a_delta(a_header(), pack_window(window, payload))) is Reason.DELTA_OVERSIZED


def test_a_header_that_does_not_parse_is_refused() -> None:
    good = a_delta(a_header(), a_difference())
    assert refusal(b"another" + good[7:]) is Reason.DELTA_CORRUPT
    body = b'{"format":"wherry.delta/2"}'
    assert refusal(MAGIC + HEADER_LENGTH.pack(len(body)) + body) is Reason.DELTA_CORRUPT
    endless = MAGIC + HEADER_LENGTH.pack(LARGEST_HEADER_BYTES + 1) + bytes(100_000)
    assert refusal(endless) is Reason.DELTA_OVERSIZED


@given(st.binary(max_size=200), st.integers(0, 600))
def test_bytes_at_random_are_refused_or_make_the_blob(noise: bytes, at: int) -> None:
    delta = a_delta(a_header(), a_difference())
    altered = delta[:at] + noise + delta[at + len(noise) :]
    with contextlib.suppress(DeltaRefused):
        assert rebuilt(altered, wanted=expected()) == BLOB


def test_items_stand_in_the_order_of_their_whole_exponents() -> None:
    """Floats of four bytes have the last bit of theirs in another byte."""
    single = struct.pack("<3f", 1.0, 0.5, -0.25)
    half = struct.pack("<3e", 4.0, 0.5, -0.25)
    for base, item in ((single, 4), (half, 2)):
        window = Window(Kind.DIFFERENCE, len(base), item=item)
        assert order_of(base, window).tolist() == [2, 1, 0]
