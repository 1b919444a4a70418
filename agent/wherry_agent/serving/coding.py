"""Content codings of HTTP bodies: gzip and deflate, both ways, never beyond a size.

A response is coded only for a client that accepts one coding and nothing else, which asks for it
(as `tritonclient` does): a list of codings is what HTTP libraries send by default, and on one
machine plain bytes are faster than coded ones.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from enum import Enum

from wherry.errors import Malformed

SMALLEST_BYTES = 256  # A smaller body would hardly shrink.
FAST = 1


class Coding(Enum):
    GZIP = "gzip"
    DEFLATE = "deflate"  # The zlib format, as RFC 9110 says.


_WINDOW_BITS = {Coding.GZIP: zlib.MAX_WBITS | 16, Coding.DEFLATE: zlib.MAX_WBITS}


class UnknownCoding(Malformed):
    """A body that is coded in a way that is not read here."""

    def __init__(self, coding: str) -> None:
        super().__init__(coding)
        self.coding = coding

    def __str__(self) -> str:
        return (
            f"the body is coded as {self.coding[:40]!r}; send it as gzip or deflate, or as it is."
        )


class BadCoding(Malformed):
    """A body that is not coded as its head says."""

    def __init__(self, coding: Coding, problem: str) -> None:
        super().__init__(coding, problem)
        self.coding, self.problem = coding, problem

    def __str__(self) -> str:
        return (
            f"the body is no {self.coding.value}: {self.problem}; "
            "send it whole, or without a content-encoding."
        )


class TooLarge(Malformed):
    """A body that is larger than the limit, or would be once it is decoded."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        return f"a body has at most {self.limit_bytes} bytes here; send fewer rows."


def coding_of(header: str) -> Coding | None:
    """Return how a body is coded by its `content-encoding`; raise `UnknownCoding`."""
    if not header:
        return None
    name = header.strip().lower().removeprefix("x-")  # RFC 9110, section 8.4.1.3
    if name in ("", "identity"):
        return None
    try:
        return Coding(name)
    except ValueError as error:
        raise UnknownCoding(header) from error


def asked_for(header: str) -> Coding | None:
    """Return the coding that an `accept-encoding` asks for."""
    if not header:
        return None
    name = header.strip().lower()
    return Coding(name) if name in {coding.value for coding in Coding} else None


def inflate(body: bytes | bytearray | memoryview, coding: Coding, limit_bytes: int) -> bytes:
    """Return the decoded body; raise `TooLarge` before it outgrows the limit, or `BadCoding`."""
    decoder = zlib.decompressobj(_WINDOW_BITS[coding])
    try:
        decoded = decoder.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        raise BadCoding(coding, str(error)) from error
    if len(decoded) > limit_bytes:
        raise TooLarge(limit_bytes)
    if not decoder.eof:
        raise BadCoding(coding, "its end is missing")
    if decoder.unused_data:
        raise BadCoding(coding, f"{len(decoder.unused_data)} bytes follow its end")
    return decoded


def compress(parts: Iterable[bytes | bytearray | memoryview], coding: Coding) -> bytes:
    encoder = zlib.compressobj(FAST, zlib.DEFLATED, _WINDOW_BITS[coding])
    return b"".join([*(encoder.compress(part) for part in parts), encoder.flush()])
