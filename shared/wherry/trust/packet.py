"""The trust metadata that a device misses, as one short text in its desired state.

A packet is base64 of zstd of a JSON object that maps a piece's name, its role and version as
in `snapshot/12`, to the metadata's text. Its length is bounded three times: as text, as the
compressed frame declares it, and as it comes out. Nobody signs it: each piece is signed itself.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping

import zstandard

from wherry import codec
from wherry.codec import BadDocument
from wherry.messages import Reason
from wherry.trust.refusals import MetadataRefused

LARGEST_PACKET_BYTES = 1 << 20
LARGEST_TEXT_BYTES = 1 << 18
LARGEST_WINDOW_BYTES = 1 << 20

_LEVEL = 19
_NAME = re.compile(r"[a-z]{1,20}(?:-[0-9a-f]{1,8})?/[1-9][0-9]{0,9}")
_EMPTY = ""


def piece_name(role: str, version: int) -> str:
    """Return the name of a piece, which is also the end of its topic."""
    return f"{role}/{version}"


def pack(pieces: Mapping[str, bytes]) -> str:
    """Return `pieces` as one text; none give an empty one."""
    if not pieces:
        return _EMPTY
    texts = {name: data.decode() for name, data in sorted(pieces.items())}
    return base64.b64encode(_compressed(codec.encode(texts))).decode()


def unpack(text: str) -> dict[str, bytes]:
    """Return the pieces in `text`; raise `MetadataRefused` where it holds none or too much."""
    if text == _EMPTY:
        return {}
    if len(text) > LARGEST_TEXT_BYTES:
        raise _oversized(f"it has {len(text)} characters and {LARGEST_TEXT_BYTES} are allowed")
    try:
        data = _decompressed(base64.b64decode(text, validate=True))
        pieces = codec.decode(dict[str, str], data, limit_bytes=LARGEST_PACKET_BYTES)
    except (binascii.Error, zstandard.ZstdError, BadDocument, ValueError) as error:
        raise _malformed(str(error)) from error
    for name in pieces:
        if not _NAME.fullmatch(name):
            raise _malformed(f"{name[:80]!r} names no metadata")
    return {name: piece.encode() for name, piece in pieces.items()}


def _compressed(data: bytes) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL, source_size=len(data), write_checksum=True, write_content_size=True
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data)


def _decompressed(data: bytes) -> bytes:
    """Return what `data` holds; what it declares is believed only as far as it is allowed."""
    declared = zstandard.frame_content_size(data)
    if declared < 0:
        raise _malformed("its frame does not declare a length")
    if declared > LARGEST_PACKET_BYTES:
        raise _oversized(f"it declares {declared} bytes and {LARGEST_PACKET_BYTES} are allowed")
    decompressor = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW_BYTES)
    return decompressor.decompress(data, allow_extra_data=False)


def _malformed(problem: str) -> MetadataRefused:
    return MetadataRefused(Reason.MALFORMED_PACKET, "packet", problem)


def _oversized(problem: str) -> MetadataRefused:
    return MetadataRefused(Reason.OVERSIZED_PACKET, "packet", problem)
