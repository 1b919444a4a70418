"""The encoder: a blob as a delta from another, each window told in the way that came out smallest.

    find tensors in both -> pair them -> windows cut at tensors -> for each: the base's own bytes?
    a patch? which difference, by its packed length? -> which width of fields, for each plane

Ways are tried, not guessed: first each kind with whole bytes as fields, then the best kind in the
other order, then with every width. The packed length of one window is the measure, so no window
waits for another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import zstandard

from wherry.delta import (
    FIELD_BITS,
    MOST_ORDERED,
    STREAM,
    WINDOW_BYTES,
    Header,
    Items,
    Kind,
    Order,
    Storing,
    Window,
    order_of,
    pack_header,
    pack_window,
    scale,
)
from wherry_controller.deltas.onnx_places import find_onnx
from wherry_controller.deltas.tensors import Data, NoSuchFile, Place, in_order, paired
from wherry_controller.deltas.tflite_places import find_tflite

FAST, THOROUGH = 1, 9  # Levels of zstd: what hardly packs gains nothing by the second.
PATCH_LEVEL = 12
THOROUGH_BELOW = 0.3  # Of the window's length.
SPARSE = 0.25  # Up to this share of changed bytes, nothing is shorter than telling them.
ITEM_FLOOR_BYTES = 256  # A shorter window is only copied or patched.
REACH_BYTES = 96 * 1024  # How far a patch looks to both sides of where its bytes stood.
ZSTD_WINDOW_LOG = 20

ZEROS = bytes(WINDOW_BYTES)  # No stream is longer than its window.

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of the new blob, and where in the base those stand that they may come of."""

    start: int
    end: int
    base_start: int
    item: int = 1
    row: int = 1
    has_base: bool = True


@dataclass(frozen=True, slots=True)
class Told:
    """A window as it stands in the delta."""

    window: Window
    payload: bytes


@dataclass(frozen=True, slots=True)
class Way:
    """A window before its items are packed; `prefix` goes before their planes."""

    window: Window
    items: Items
    prefix: bytes = b""


def encode(base: Data, blob: Data, header: Header) -> Iterator[bytes]:
    """Yield the delta that makes `blob` of `base`, piece by piece."""
    yield pack_header(header)
    copied: Window | None = None
    for piece in _windows(_pieces(base, blob)):
        told = _tell(piece, base, blob)
        if copied and told.window.kind is Kind.COPY and told.window.offset == _end(copied):
            copied = replace(copied, length=copied.length + told.window.length)
            continue
        if copied:
            yield pack_window(copied)
        copied = told.window if told.window.kind is Kind.COPY else None
        if copied is None:
            yield pack_window(told.window, told.payload)
    if copied:
        yield pack_window(copied)


def find_places(data: Data) -> list[Place]:
    """Return where a file's tensors stand; a file of no known format has none."""
    for find in (find_tflite, find_onnx):
        try:
            return in_order(find(data))
        except NoSuchFile:
            continue
    return []


def _end(window: Window) -> int:
    return window.offset + window.length


def _pieces(base: Data, blob: Data) -> Iterator[Piece]:
    """Yield tensors and what stands between them, in order, each with its like in the base."""
    places = find_places(blob)
    pairs = paired(places, find_places(base))
    at, shift = 0, 0  # How much further what comes stood in the base.
    for place in places:
        like = pairs.get(place)
        after = like.start - place.start if like else shift
        # What stands right before a tensor moved as it did; at the file's begin nothing moved.
        yield from _between(at, place.start, shift, after)
        item, row = place.item, place.row
        if like is not None:
            yield Piece(place.start, place.end, like.start, item, row)
        else:
            yield Piece(place.start, place.end, place.start + shift, item, row, has_base=False)
        at, shift = place.end, after
    yield from _between(at, len(blob), shift, len(base) - len(blob))


def _between(start: int, end: int, shift: int, after: int) -> Iterator[Piece]:
    """Yield the bytes between two tensors, the halves moved as their neighbours were."""
    if shift == after or end - start < 2:
        yield Piece(start, end, start + after)
    else:
        middle = (start + end) // 2
        yield Piece(start, middle, start + shift)
        yield Piece(middle, end, middle + after)


def _windows(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Cut pieces into windows, at rows where a row is shorter than a window."""
    for piece in pieces:
        row_bytes = piece.item * piece.row
        longest = min(WINDOW_BYTES, MOST_ORDERED * piece.item) if piece.item > 1 else WINDOW_BYTES
        step = longest // row_bytes * row_bytes or longest
        for start, end in pairwise([*range(piece.start, piece.end, step), piece.end]):
            moved = start - piece.start
            row = piece.row if (end - start) % row_bytes == 0 else (end - start) // piece.item
            yield replace(piece, start=start, end=end, base_start=piece.base_start + moved, row=row)


def _tell(piece: Piece, base: Data, blob: Data) -> Told:
    """Return the smallest way to tell a window."""
    length = piece.end - piece.start
    new = bytes(blob[piece.start : piece.end])
    is_inside = 0 <= piece.base_start <= len(base) - length
    old = bytes(base[piece.base_start : piece.base_start + length]) if is_inside else b""
    if old == new:
        return Told(Window(Kind.COPY, length, piece.base_start), b"")
    told: list[Told] = []
    is_sparse = piece.has_base and _share_of_changed(old, new) <= SPARSE
    has_loose_bytes = piece.item == 1 and not is_sparse
    if has_loose_bytes or not piece.has_base or length < ITEM_FLOOR_BYTES:
        told.append(_patch(piece, base, new))
    if length >= ITEM_FLOOR_BYTES:
        ways = _sparse_ways(piece, old, new) if is_sparse else _ways(piece, old, new)
        way = min(ways, key=_rough_bytes)
        told.append(_packed(min((way, *_ordered(way, old)), key=_rough_bytes)))
    return min(told, key=lambda one: len(one.payload))


def _share_of_changed(old: bytes, new: bytes) -> float:
    """Return the share of bytes that differ; all do where there are not as many."""
    if len(old) != len(new):
        return 1.0
    changed = np.frombuffer(old, np.uint8) != np.frombuffer(new, np.uint8)
    return float(np.count_nonzero(changed)) / len(new)


def _patch(piece: Piece, base: Data, new: bytes) -> Told:
    """Tell bytes by the base's bytes around the place where they stood."""
    start = max(0, min(piece.base_start, len(base)) - REACH_BYTES)
    dictionary = bytes(base[start : max(0, piece.base_start + len(new)) + REACH_BYTES])
    known = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        PATCH_LEVEL,
        source_size=len(new),
        dict_size=len(dictionary),
        window_log=ZSTD_WINDOW_LOG,
        write_content_size=True,
    )
    packer = zstandard.ZstdCompressor(
        compression_params=parameters, dict_data=known if dictionary else None
    )
    return Told(Window(Kind.PATCH, len(new), start, extra=len(dictionary)), packer.compress(new))


def _sparse_ways(piece: Piece, old: bytes, new: bytes) -> Iterator[Way]:
    """Yield the ways that can win where most bytes stayed what they are."""
    items = np.frombuffer(new, dtype=f"<u{piece.item}")
    before = np.frombuffer(old, dtype=f"<u{piece.item}")
    window = Window(Kind.DIFFERENCE, len(new), piece.base_start, item=piece.item)
    yield Way(window, _zigzag(items - before))
    if piece.item > 1:
        yield Way(replace(window, kind=Kind.XOR), items ^ before)


def _ways(piece: Piece, old: bytes, new: bytes) -> Iterator[Way]:
    """Yield the ways to tell the items of a window by those of its place in the base."""
    length, item = len(new), piece.item
    items = np.frombuffer(new, dtype=f"<u{item}")
    yield Way(Window(Kind.FULL, length, item=item), items)
    if len(old) != length or not piece.has_base:
        return
    before = np.frombuffer(old, dtype=f"<u{item}")
    at = piece.base_start
    yield Way(Window(Kind.XOR, length, at, item=item), items ^ before)
    yield Way(Window(Kind.DIFFERENCE, length, at, item=item), _zigzag(items - before))
    if item in (2, 4):
        window = Window(Kind.SCALED, length, at, item=item, extra=piece.row)
        factors = _factors_of(window, old, new)
        scaled = np.frombuffer(scale(old, window, factors), dtype=f"<u{item}")
        yield Way(window, _zigzag(items - scaled), factors.tobytes())


def _ordered(way: Way, old: bytes) -> Iterator[Way]:
    """Yield the way with its items in the order of the base's exponents, where it may be so."""
    window = replace(way.window, order=Order.BY_EXPONENT)
    if window.kind in (Kind.DIFFERENCE, Kind.SCALED) and window.item in (2, 4):
        yield replace(way, window=window, items=way.items[order_of(old, window)])


def _factors_of(window: Window, old: bytes, new: bytes) -> npt.NDArray[np.float32]:
    """Return for each row the factor that brings the base's floats nearest to the new ones."""
    kind = np.dtype(f"<f{window.item}")
    with np.errstate(all="ignore"):
        before = np.frombuffer(old, dtype=kind).astype(np.float64).reshape(-1, window.extra)
        after = np.frombuffer(new, dtype=kind).astype(np.float64).reshape(-1, window.extra)
        factors = (before * after).sum(axis=1) / (before * before).sum(axis=1)
        rounded = factors.astype("<f4")
    return np.where(np.isfinite(rounded), rounded, np.float32(1)).astype("<f4")


def _zigzag(difference: Items) -> Items:
    """Return differences as small numbers, whatever their sign."""
    signed = difference.view(f"<i{difference.itemsize}")
    folded: Items = ((signed << 1) ^ (signed >> (8 * difference.itemsize - 1))).view(
        difference.dtype
    )
    return folded


def _rough_bytes(way: Way) -> int:
    """Return what a way takes with whole bytes as fields."""
    planes = _planes(way.items)
    return len(way.prefix) + sum(len(_stored(plane.tobytes(), FAST)) for plane in planes)


def _packed(way: Way) -> Told:
    """Return a way with each plane in the fields that pack best."""
    planes = b"".join(_packed_plane(plane) for plane in _planes(way.items))
    return Told(way.window, way.prefix + planes)


def _packed_plane(plane: Bytes) -> bytes:
    if not plane.any():
        return _with_fields(plane, FIELD_BITS[0], FAST)
    tried = {bits: _with_fields(plane, bits, FAST) for bits in FIELD_BITS}
    bits = min(tried, key=lambda bits: len(tried[bits]))
    if len(tried[bits]) > THOROUGH_BELOW * len(plane):
        return tried[bits]
    return min(tried[bits], _with_fields(plane, bits, THOROUGH), key=len)


def _with_fields(plane: Bytes, bits: int, level: int) -> bytes:
    fields = split_fields(plane, bits)
    return bytes([bits]) + b"".join(_stored(field, level) for field in fields)


def split_fields(plane: Bytes, bits: int) -> list[bytes]:
    """Return a plane's fields of so many bits, the lowest first, packed into bytes."""
    if bits == 1:
        return [np.packbits((plane >> bit) & 1, bitorder="little").tobytes() for bit in range(8)]
    share = 8 // bits
    padded = np.pad(plane, (0, -len(plane) % share)).reshape(-1, share)
    fields = []
    for number in range(share):
        parts = (padded >> (number * bits)) & ((1 << bits) - 1)
        packed = parts[:, 0].copy()
        for place in range(1, share):
            packed |= parts[:, place] << (place * bits)
        fields.append(packed.tobytes())
    return fields


def _stored(data: bytes, level: int) -> bytes:
    """Return a stream with its head, in the shortest storing."""
    if ZEROS.startswith(data):
        return STREAM.pack(Storing.ZEROS, 0)
    packed = _packer(level).compress(data)
    if len(packed) < len(data):
        return STREAM.pack(Storing.ZSTD, len(packed)) + packed
    return STREAM.pack(Storing.RAW, len(data)) + data


@cache
def _packer(level: int) -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=level, write_content_size=True)


def _planes(items: Items) -> list[Bytes]:
    """Return the bytes of equal weight, the lowest first."""
    rows = items.view(np.uint8).reshape(-1, items.itemsize)
    return [np.ascontiguousarray(rows[:, number]) for number in range(items.itemsize)]
