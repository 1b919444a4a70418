"""Deltas for tests, put together by hand: the format once more, slowly and without numpy."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from wherry.blobs import digest_of
from wherry.delta import (
    STREAM,
    Expected,
    Header,
    Kind,
    Storing,
    Window,
    pack_header,
    pack_window,
    rebuild,
)

BASE = bytes(range(256)) * 4
BLOB = bytes((byte + 3) % 256 for byte in BASE)


def a_header(base: bytes = BASE, blob: bytes = BLOB) -> Header:
    return Header(
        base=digest_of(base), base_bytes=len(base), blob=digest_of(blob), blob_bytes=len(blob)
    )


def a_delta(header: Header, *windows: bytes) -> bytes:
    return pack_header(header) + b"".join(windows)


def a_difference(base: bytes = BASE, blob: bytes = BLOB, *, at: int = 0) -> bytes:
    """Return one window of single bytes that tells `blob` by the base's bytes from `at`."""
    pairs = zip(base[at : at + len(blob)], blob, strict=True)
    plane = bytes(zigzag((new - old) % 256, 1) for old, new in pairs)
    return pack_window(Window(Kind.DIFFERENCE, len(blob), at), a_plane(plane))


def planes(values: Sequence[int], item: int, *, bits: int = 8) -> bytes:
    """Return items as a payload has them, stored raw."""
    return b"".join(
        a_plane(bytes(value >> (8 * number) & 0xFF for value in values), bits=bits)
        for number in range(item)
    )


def a_plane(plane: bytes, *, bits: int = 8) -> bytes:
    share = 8 // bits
    fields = b""
    for number in range(share):
        parts = [byte >> (number * bits) & ((1 << bits) - 1) for byte in plane]
        parts += [0] * (-len(parts) % share)
        packed = [
            sum(part << (place * bits) for place, part in enumerate(parts[at : at + share]))
            for at in range(0, len(parts), share)
        ]
        fields += a_stream(bytes(packed))
    return bytes([bits]) + fields


def a_stream(data: bytes, storing: Storing = Storing.RAW) -> bytes:
    return STREAM.pack(storing, len(data)) + data


def a_frame(byte: int, size_bytes: int, *, declares: int | None = None) -> bytes:
    """Return a zstd frame (RFC 8878, 3.1.1) of one byte repeated, in one RLE block."""
    declared = (size_bytes if declares is None else declares).to_bytes(4, "little")
    block = (size_bytes << 3 | 1 << 1 | 1).to_bytes(3, "little")
    return b"\x28\xb5\x2f\xfd\xa0" + declared + block + bytes([byte])


def zigzag(difference: int, item: int) -> int:
    """Return a difference that wraps at an item's end as a small number."""
    bits = 8 * item
    signed = difference - (1 << bits) if difference >> (bits - 1) else difference
    return 2 * signed if signed >= 0 else -2 * signed - 1


def expected(base: bytes = BASE, blob: bytes = BLOB) -> Expected:
    return Expected(digest_of(base), len(base), digest_of(blob), len(blob))


def rebuilt(delta: bytes, base: bytes = BASE, wanted: Expected | None = None) -> bytes:
    """Return what a delta makes; raise `DeltaRefused`."""
    source = io.BytesIO(delta)
    pieces = rebuild(
        source.read, lambda at, length: base[at : at + length], wanted or expected(base)
    )
    return b"".join(pieces)


def as_blob(folder: Path, data: bytes) -> Path:
    """Put bytes under their digest, as a device and a controller keep them."""
    path = folder / digest_of(data)
    path.write_bytes(data)
    return path
