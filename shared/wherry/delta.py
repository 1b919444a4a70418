"""A delta: a blob told by its difference from another one that the device has, window by window.

    magic, header length and header (JSON), then windows until the blob is whole
    window: head, payload      head: kind, item, order, length, extra, payload's length, offset

A window is at most 256 KiB of the new blob, cut at tensors, so rebuilding takes the same small
memory whatever the blob's length. Weights hardly compress as they are: what they differ by from
those that they were trained on from does, once the bytes of equal weight stand together. So the
items of a window (of 1, 2, 4 or 8 bytes) are zigzag differences of bit patterns, laid out in
planes, one a byte; a plane is cut into fields of 8, 4, 2 or 1 bits, whichever packs best, since
zstd's Huffman codes spend a bit or more on every byte. Where that packs better, items stand in the
order of the base's exponents: small floats differ by more of their last places than large ones.

The delta comes from where nobody is trusted: every length is bounded before it is allocated,
never more than the declared length is written, and the digest of the whole is checked.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import zstandard

from wherry import codec
from wherry.blobs import LARGEST_BLOB_BYTES
from wherry.errors import REFUSALS, Malformed
from wherry.names import Digest
from wherry.reasons import Reason

MAGIC = b"wherry-delta-1\n\0"
WINDOW_BYTES = 256 * 1024
COPY_BYTES = 64 * 1024  # How much of a copy is in memory at once.
LARGEST_HEADER_BYTES = 4096
LARGEST_PAYLOAD_BYTES = 2 * WINDOW_BYTES
LARGEST_REACH_BYTES = 2 * WINDOW_BYTES
LARGEST_ZSTD_WINDOW_BYTES = 1 << 20
ITEM_BYTES = (1, 2, 4, 8)
MOST_ORDERED = 65536  # Items: sorting takes 16 bytes for each.
FIELD_BITS = (8, 4, 2, 1)

HEADER_LENGTH = struct.Struct("<I")
HEAD = struct.Struct("<BBHIIIQ")
STREAM = struct.Struct("<BI")

Planes: TypeAlias = npt.NDArray[np.uint8]
Items: TypeAlias = npt.NDArray[np.unsignedinteger]
Read: TypeAlias = Callable[[int], bytes]  # The delta's next so many bytes, fewer at its end.
ReadBase: TypeAlias = Callable[[int, int], bytes]  # So many bytes of the base from an offset.


class Kind(IntEnum):
    """How a window is told."""

    COPY = 0  # The base's bytes, however many.
    FULL = 1  # The items themselves.
    DIFFERENCE = 2  # What to add to the base's items.
    XOR = 3  # What to turn over in the base's items.
    SCALED = 4  # As DIFFERENCE, from the base's floats times one factor a row.
    PATCH = 5  # Bytes, zstd with a part of the base as its dictionary.


class Order(IntEnum):
    """How the items of a window stand."""

    AS_IN_BLOB = 0
    BY_EXPONENT = 1  # Of the base's items, stably (DIFFERENCE and SCALED).


class Storing(IntEnum):
    """How a stream of a plane is stored."""

    ZEROS = 0
    RAW = 1
    ZSTD = 2


class Header(msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.delta/1"):
    """Which blob comes of which."""

    base: Digest
    base_bytes: int
    blob: Digest
    blob_bytes: int
    critical: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Window:
    """A window's head: `length` bytes of the new blob, told by the base's from `offset`.

    `extra` is the items of a row (SCALED) or the length of the dictionary (PATCH).
    """

    kind: Kind
    length: int
    offset: int = 0
    item: int = 1
    extra: int = 0
    order: Order = Order.AS_IN_BLOB

    @property
    def count(self) -> int:
        return self.length // self.item


class DeltaRefused(Malformed):
    """A delta that does not make the blob it should of the base that is here."""

    def __init__(self, reason: Reason, problem: str) -> None:
        super().__init__(reason, problem)
        self.reason, self.problem = reason, problem

    def __str__(self) -> str:
        return f"the delta is of no use: {self.problem}; fetch the blob whole."


@dataclass(frozen=True, slots=True)
class Expected:
    """The base that is here, and the blob that the manifest names."""

    base: Digest
    base_bytes: int
    blob: Digest
    blob_bytes: int


def rebuild(read: Read, read_base: ReadBase, expected: Expected) -> Iterator[bytes]:
    """Yield the blob's bytes piece by piece; raise `DeltaRefused`, after the last at the latest.

    What was yielded is the blob only if this ends without raising.
    """
    _check_header(read_header(read), expected)
    digest = hashlib.sha256()
    left_bytes = expected.blob_bytes
    while left_bytes:
        window, payload_bytes = _read_head(read)
        _check_window(window, payload_bytes, expected.base_bytes, left_bytes)
        for piece in _pieces(window, _exactly(read, payload_bytes), read_base):
            digest.update(piece)
            yield piece
        left_bytes -= window.length
    if read(1):
        raise _oversized("it goes on after the blob's end")
    if not hmac.compare_digest(digest.hexdigest(), expected.blob):
        _tell_base_from_delta(read_base, expected)


def read_header(read: Read) -> Header:
    """Return a delta's header; raise `DeltaRefused`."""
    if _exactly(read, len(MAGIC)) != MAGIC:
        raise _corrupt("it does not begin as a delta does")
    (length,) = HEADER_LENGTH.unpack(_exactly(read, HEADER_LENGTH.size))
    if length > LARGEST_HEADER_BYTES:
        raise _oversized(f"its header has {length} bytes")
    data = _exactly(read, length)
    try:
        return codec.decode(Header, data)
    except REFUSALS as error:
        raise _corrupt(f"its header does not parse: {error}") from error


def pack_header(header: Header) -> bytes:
    data = codec.encode(header)
    return MAGIC + HEADER_LENGTH.pack(len(data)) + data


def pack_window(window: Window, payload: bytes = b"") -> bytes:
    """Return a window's head and payload as they stand in a delta."""
    kind, item, order, length, extra = (
        *(window.kind, window.item, window.order),
        *(window.length, window.extra),
    )
    return HEAD.pack(kind, item, order, length, extra, len(payload), window.offset) + payload


def rebuild_window(window: Window, payload: bytes, base: bytes) -> bytes:
    """Return a window's bytes; `base` is what it reads of the base. Raises `DeltaRefused`."""
    match window.kind:
        case Kind.COPY:
            return base
        case Kind.PATCH:
            return _unpacked(payload, window.length, base)
        case Kind.FULL:
            return _items(payload, window).tobytes()
        case Kind.XOR:
            return (_items(payload, window) ^ _base_items(base, window)).tobytes()
        case Kind.DIFFERENCE:
            items = _in_place(_items(payload, window), base, window)
            return _added(items, _base_items(base, window))
        case Kind.SCALED:
            factors, rest = _factors(payload, window)
            items = _in_place(_items(rest, window), base, window)
            return _added(items, _base_items(scale(base, window, factors), window))


def reads_of(window: Window) -> int:
    """Return how many bytes of the base a window is told by."""
    match window.kind:
        case Kind.FULL:
            return 0
        case Kind.PATCH:
            return window.extra
        case _:
            return window.length


def scale(base: bytes, window: Window, factors: npt.NDArray[np.float32]) -> bytes:
    """Return the base's floats, each row times its factor, rounded to nearest even."""
    kind = np.dtype(f"<f{window.item}")
    floats = np.frombuffer(base, dtype=kind).astype(np.float32).reshape(-1, window.extra)
    with np.errstate(all="ignore"):
        floats *= factors[:, None]
        return floats.astype(kind, copy=False).tobytes()


def order_of(base: bytes, window: Window) -> npt.NDArray[np.intp]:
    """Return the places of the window's items in the order of their exponents in the base."""
    rows = np.frombuffer(base, dtype=np.uint8).reshape(-1, window.item)
    exponents = rows[:, -1] & 0x7F  # Half precision and bfloat16 look alike here.
    if window.item == 4:
        exponents = exponents << 1 | rows[:, 2] >> 7
    return np.argsort(exponents, kind="stable")


def _in_place(items: Items, base: bytes, window: Window) -> Items:
    if window.order is Order.AS_IN_BLOB:
        return items
    placed = np.empty_like(items)
    placed[order_of(base, window)] = items
    return placed


def _pieces(window: Window, payload: bytes, read_base: ReadBase) -> Iterator[bytes]:
    if window.kind is not Kind.COPY:
        base = _base(read_base, window.offset, reads_of(window))
        yield rebuild_window(window, payload, base)
        return
    end = window.offset + window.length
    for at in range(window.offset, end, COPY_BYTES):
        yield _base(read_base, at, min(COPY_BYTES, end - at))


def _check_header(header: Header, expected: Expected) -> None:
    if header.base != expected.base or header.base_bytes != expected.base_bytes:
        raise DeltaRefused(
            Reason.DELTA_WRONG_BASE,
            f"it is from {header.base[:12]} and the base here is {expected.base[:12]}",
        )
    if header.blob_bytes > min(expected.blob_bytes, LARGEST_BLOB_BYTES):
        raise _oversized(f"it declares {header.blob_bytes} bytes of {expected.blob_bytes}")
    if header.blob != expected.blob or header.blob_bytes != expected.blob_bytes:
        raise _corrupt(f"it makes another blob, {header.blob[:12]}")


def _read_head(read: Read) -> tuple[Window, int]:
    kind, item, order, length, extra, payload_bytes, offset = HEAD.unpack(_exactly(read, HEAD.size))
    try:
        window = Window(Kind(kind), length, offset, item=item, extra=extra, order=Order(order))
    except ValueError as error:
        raise _corrupt(f"it has a window of the unknown kind {kind}, {order}") from error
    return window, payload_bytes


def _check_window(window: Window, payload_bytes: int, base_bytes: int, left_bytes: int) -> None:
    """Raise `DeltaRefused` unless the window's lengths are possible, before any is allocated."""
    if window.length > left_bytes:
        raise _oversized(f"a window has {window.length} bytes and {left_bytes} are left")
    if window.kind is not Kind.COPY and window.length > WINDOW_BYTES:
        raise _oversized(f"a window has {window.length} bytes")
    if payload_bytes > LARGEST_PAYLOAD_BYTES:
        raise _oversized(f"a window's payload has {payload_bytes} bytes")
    if window.kind is Kind.PATCH and window.extra > LARGEST_REACH_BYTES:
        raise _oversized(f"a window wants a dictionary of {window.extra} bytes")
    if window.item not in ITEM_BYTES or not window.length or window.length % window.item:
        raise _corrupt(f"{window.length} bytes do not make items of {window.item}")
    if window.offset + reads_of(window) > base_bytes:
        raise _corrupt("a window reaches beyond the base's end")
    if window.kind is Kind.SCALED and (
        window.item not in (2, 4) or not window.extra or window.count % window.extra
    ):
        raise _corrupt(f"{window.count} items do not make rows of {window.extra}")
    if window.order is not Order.AS_IN_BLOB and (
        window.kind not in (Kind.DIFFERENCE, Kind.SCALED)
        or window.item not in (2, 4)
        or window.count > MOST_ORDERED
    ):
        raise _corrupt(f"{window.count} items of {window.item} bytes cannot be ordered")
    if window.kind is Kind.COPY and payload_bytes:
        raise _corrupt("a copy has a payload")


def _tell_base_from_delta(read_base: ReadBase, expected: Expected) -> None:
    """Raise what is to blame for a blob that came out wrong: a base that rotted, or the delta."""
    digest = hashlib.sha256()
    for at in range(0, expected.base_bytes, COPY_BYTES):
        digest.update(read_base(at, min(COPY_BYTES, expected.base_bytes - at)))
    if digest.hexdigest() != expected.base:
        problem = f"the base on this device is {digest.hexdigest()[:12]}"
        raise DeltaRefused(Reason.DELTA_WRONG_BASE, f"{problem} and not {expected.base[:12]}")
    raise _corrupt("what it makes has another digest than the blob")


def _items(payload: bytes, window: Window) -> Items:
    """Return the items whose planes a payload holds, the lowest byte first."""
    items = np.empty((window.count, window.item), dtype=np.uint8)
    at = 0
    for number in range(window.item):
        items[:, number], at = _plane(payload, at, window.count)
    if at != len(payload):
        raise _corrupt("a window's payload goes on after its planes")
    return items.reshape(-1).view(_unsigned(window.item))


def _plane(payload: bytes, at: int, count: int) -> tuple[Planes, int]:
    """Return the plane that begins at a place, and the place after it."""
    bits = payload[at] if at < len(payload) else 0
    if bits not in FIELD_BITS:
        raise _corrupt(f"a plane has fields of {bits} bits")
    at += 1
    fields = []
    for _ in range(8 // bits):
        field, at = _stream(payload, at, -(-count * bits // 8))
        fields.append(field)
    return join_fields(fields, bits, count), at


def join_fields(fields: Sequence[bytes], bits: int, count: int) -> Planes:
    """Return the plane of `count` bytes that fields of `bits` make, the lowest first."""
    if bits == 8:
        return np.frombuffer(fields[0], dtype=np.uint8)
    share = 8 // bits
    plane = np.zeros(len(fields[0]) * share, dtype=np.uint8)
    for number, field in enumerate(fields):
        packed = np.frombuffer(field, dtype=np.uint8)
        for place in range(share):
            part = (packed >> (place * bits)) & ((1 << bits) - 1)
            plane[place::share] |= part << (number * bits)
    return plane[:count]


def _stream(payload: bytes, at: int, size_bytes: int) -> tuple[bytes, int]:
    if at + STREAM.size > len(payload):
        raise _corrupt("a window's payload ends in a plane")
    storing, length = STREAM.unpack_from(payload, at)
    at += STREAM.size
    data = payload[at : at + length]
    if len(data) != length:
        raise _corrupt("a window's payload ends in a stream")
    if storing == Storing.ZSTD:
        return _unpacked(data, size_bytes), at + length
    if storing == Storing.RAW and length == size_bytes:
        return data, at + length
    if storing == Storing.ZEROS and not length:
        return bytes(size_bytes), at
    raise _corrupt(f"a stream of {length} bytes cannot be stored as {storing}")


def _unpacked(data: bytes, size_bytes: int, dictionary: bytes = b"") -> bytes:
    """Return what a zstd frame that declares so many bytes holds, not one byte more."""
    try:
        frame = zstandard.get_frame_parameters(data)
        declared = frame.content_size
        if frame.window_size > LARGEST_ZSTD_WINDOW_BYTES:
            raise _oversized(f"a stream wants {frame.window_size} bytes of memory")
        if declared > size_bytes:
            raise _oversized(f"a stream of {size_bytes} bytes declares {declared}")
        if declared < size_bytes:
            raise _corrupt(f"a stream of {size_bytes} bytes declares {declared}")
        known = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        unpacker = zstandard.ZstdDecompressor(dict_data=known if dictionary else None)
        unpacked: bytes = unpacker.decompress(
            data, max_output_size=size_bytes, allow_extra_data=False
        )
        return unpacked
    except zstandard.ZstdError as error:
        raise _corrupt(f"a stream does not unpack ({error})") from error


def _added(zigzag: Items, base: Items) -> bytes:
    """Return the base's items plus the differences, which wrap; `zigzag` is written over."""
    one = zigzag.dtype.type(1)
    sign = zigzag & one
    np.negative(sign, out=sign)
    zigzag >>= one
    zigzag ^= sign
    zigzag += base
    return zigzag.tobytes()


def _factors(payload: bytes, window: Window) -> tuple[npt.NDArray[np.float32], bytes]:
    end = 4 * (window.count // window.extra)
    if len(payload) < end:
        raise _corrupt("a window's payload ends in its factors")
    return np.frombuffer(payload[:end], dtype="<f4"), payload[end:]


def _base_items(base: bytes, window: Window) -> Items:
    return np.frombuffer(base, dtype=_unsigned(window.item))


def _unsigned(item: int) -> np.dtype[np.unsignedinteger]:
    return np.dtype(f"<u{item}")


def _base(read_base: ReadBase, offset: int, length: int) -> bytes:
    data = read_base(offset, length) if length else b""
    if len(data) != length:
        raise DeltaRefused(Reason.DELTA_WRONG_BASE, "the base on this device is cut short")
    return data


def _exactly(read: Read, length: int) -> bytes:
    data = read(length)
    if len(data) != length:
        raise _corrupt("it ends too early")
    return data


def _corrupt(problem: str) -> DeltaRefused:
    return DeltaRefused(Reason.DELTA_CORRUPT, problem)


def _oversized(problem: str) -> DeltaRefused:
    return DeltaRefused(Reason.DELTA_OVERSIZED, problem)
