"""Metadata's text without what does not compress: digests and signatures as bytes, numbers apart.

Hexadecimal costs a compressor more than the bytes it spells, and numbers break up what repeats
around them. Each leaves a mark in the text, a control character that JSON cannot hold as it is,
so that the way back gives the same text to the letter, whoever wrote it.
"""

from __future__ import annotations

import re
from io import BytesIO

import msgspec

from wherry.measures import Count

DIGEST, SIGNATURE = "\x01", "\x02"  # The next 32, or 64, bytes.
AGAIN, EARLIER = "\x03", "\x04"  # The last of them; the one that the next number counts to.
NUMBER = "\x05"  # The next number.

_MARKS = re.compile(f"[{DIGEST}-{NUMBER}]")
_HEX = r"(?<![0-9a-f])(?:[0-9a-f]{64}|[0-9a-f]{128})(?![0-9a-f])"
_NUMBER = r"(?<=:)(?:0|[1-9][0-9]{0,14})(?=[,}])"
_COSTLY = re.compile(f"{_HEX}|{_NUMBER}")
_SIZES = {DIGEST: 32, SIGNATURE: 64}
_LONGEST = {NUMBER: 16, DIGEST: 64, SIGNATURE: 128, AGAIN: 128, EARLIER: 128}


class Condensed(msgspec.Struct, frozen=True, array_like=True):
    """A text with marks, and what they stand for in their order."""

    text: str
    numbers: tuple[Count, ...]
    digests: bytes


def condense(text: str) -> Condensed:
    """Return `text` with marks; raise `ValueError` where it holds such characters itself."""
    if _MARKS.search(text):
        raise ValueError("it holds control characters")
    numbers: list[int] = []
    known: dict[str, int] = {}

    def mark(found: re.Match[str]) -> str:
        costly = found[0]
        if len(costly) < 64:
            numbers.append(int(costly))
            return NUMBER
        if costly not in known:
            known[costly] = len(known)
            return DIGEST if len(costly) == 64 else SIGNATURE
        if known[costly] == len(known) - 1:
            return AGAIN
        numbers.append(known[costly])
        return EARLIER

    marked = _COSTLY.sub(mark, text)
    return Condensed(marked, tuple(numbers), bytes.fromhex("".join(known)))


def restore(condensed: Condensed) -> str:
    """Return the text that was condensed.

    Raises `ValueError` where the marks do not fit what they stand for. How long it may become is
    for the caller to ask first (`longest`).
    """
    if len(condensed.digests) != _digest_bytes(condensed.text):
        raise ValueError("its marks are too few or too many")
    numbers, digests = list(reversed(condensed.numbers)), BytesIO(condensed.digests)
    known: list[str] = []

    def unmark(found: re.Match[str]) -> str:
        match found[0]:
            case "\x05":
                return str(numbers.pop())
            case "\x04":
                return known[numbers.pop()]
            case "\x03":
                return known[-1]
            case mark:
                known.append(digests.read(_SIZES[mark]).hex())
                return known[-1]

    try:
        text = _MARKS.sub(unmark, condensed.text)
    except IndexError as error:
        raise ValueError("its marks stand for nothing") from error
    if numbers:
        raise ValueError("its marks are too few or too many")
    return text


def _digest_bytes(marked: str) -> int:
    return sum(marked.count(mark) * size for mark, size in _SIZES.items())


def longest(marked: str) -> int:
    """Return how many characters a text with marks can become at most."""
    return len(marked) + sum(marked.count(mark) * length for mark, length in _LONGEST.items())
