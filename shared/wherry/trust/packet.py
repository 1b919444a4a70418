"""The trust metadata that a device misses, as one short text in its desired state.

A packet is base64 of MessagePack: the names of its pieces, each a role and a version as in
`snapshot/12`, and their texts, condensed (`condense`) and compressed by zstd with `skeleton` for
a dictionary. Its length is bounded as text, as the frame declares it, and as it comes out. Nobody
signs it: each piece is signed itself.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from functools import cache

import msgspec
import zstandard

from wherry.codec import learned
from wherry.measures import Count
from wherry.reasons import Reason
from wherry.trust.condense import Condensed, condense, longest, restore
from wherry.trust.refusals import MetadataRefused
from wherry.trust.skeleton import SKELETON

LARGEST_PACKET_BYTES = 1 << 20
LARGEST_TEXT_BYTES = 1 << 18

_LEVEL = 9  # Within 5 bytes of 19, in half of its time.
_NAME = re.compile(r"[a-z]{1,20}(?:-[0-9a-f]{1,8})?/[1-9][0-9]{0,9}")
_EMPTY = ""
_BETWEEN = "\x00"


def piece_name(role: str, version: int) -> str:
    """Return the name of a piece, which is also the end of its topic."""
    return f"{role}/{version}"


class _Packet(msgspec.Struct, frozen=True, array_like=True, tag="wherry.packet/1"):
    names: tuple[str, ...]
    frame: bytes
    numbers: tuple[Count, ...]
    digests: bytes


def pack(pieces: Mapping[str, bytes]) -> str:
    """Return `pieces` as one text; none give an empty one.

    Raises `ValueError` where a piece is no text such as metadata is.
    """
    if not pieces:
        return _EMPTY
    names = tuple(sorted(pieces))
    condensed = condense(_BETWEEN.join(pieces[name].decode() for name in names))
    packet = _Packet(names, _deflated(condensed.text), condensed.numbers, condensed.digests)
    return base64.b64encode(msgspec.msgpack.encode(packet)).decode()


def unpack(text: str) -> dict[str, bytes]:
    """Return the pieces in `text`; raise `MetadataRefused` where it holds none or too much."""
    if text == _EMPTY:
        return {}
    if len(text) > LARGEST_TEXT_BYTES:
        raise _oversized(f"it has {len(text)} characters and {LARGEST_TEXT_BYTES} are allowed")
    try:
        data = base64.b64decode(text, validate=True)
        packet = msgspec.msgpack.decode(data, type=learned(_Packet))
        text = _inflated(packet.frame)
        texts = restore(Condensed(text, packet.numbers, packet.digests)).split(_BETWEEN)
    except (binascii.Error, msgspec.DecodeError, zstandard.ZstdError, ValueError) as error:
        raise _malformed(str(error)) from error
    return _named(packet.names, texts)


def _named(names: tuple[str, ...], texts: list[str]) -> dict[str, bytes]:
    if len(set(names)) != len(texts) or not all(map(_NAME.fullmatch, names)):
        raise _malformed("its names are not those of its pieces")
    return {name: text.encode() for name, text in zip(names, texts, strict=True)}


def _deflated(text: str) -> bytes:
    data = text.encode()
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL, source_size=len(data), write_checksum=True, write_content_size=True
    )
    compressor = zstandard.ZstdCompressor(dict_data=_dictionary(), compression_params=parameters)
    return compressor.compress(data)


def _inflated(frame: bytes) -> str:
    """Return what `frame` holds; what it declares is believed only as far as it is allowed."""
    declared = zstandard.frame_content_size(frame)  # Without a length it is no frame of ours.
    if declared > LARGEST_PACKET_BYTES:
        raise _oversized(f"it declares {declared} bytes and {LARGEST_PACKET_BYTES} are allowed")
    decompressor = zstandard.ZstdDecompressor(dict_data=_dictionary())
    text = decompressor.decompress(frame, allow_extra_data=False).decode()
    if longest(text) > LARGEST_PACKET_BYTES:
        raise _oversized(f"its marks stand for more than {LARGEST_PACKET_BYTES} characters")
    return text


@cache
def _dictionary() -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(
        SKELETON.encode(), dict_type=zstandard.DICT_TYPE_RAWCONTENT
    )


def _malformed(problem: str) -> MetadataRefused:
    return MetadataRefused(Reason.MALFORMED_PACKET, "packet", problem)


def _oversized(problem: str) -> MetadataRefused:
    return MetadataRefused(Reason.OVERSIZED_PACKET, "packet", problem)
