"""The second way to a chunk: HTTP(S) folders of blobs, asked one chunk at a time, left when bad.

A source is nobody's promise: what it gives is verified by the same digest as the broker's bytes.

    usable --failed, slow--> left for a while --time--> usable
       +-----lied----------> left for good

* Slow: a chunk must come within max(10 s, its length at 4 KiB/s); a source that drips is left.
* A source that lacks a blob is not bad: the chunk is not asked of it again.
"""

from __future__ import annotations

import math

import msgspec
from msgspec.structs import replace

from wherry.names import Digest

SLOWEST_BYTES_PER_S = 4096
SHORTEST_WAIT_S = 10.0
LEAVE_S = 300.0
LARGEST_SOURCES = 8


class Asked(msgspec.Struct, frozen=True):
    source: str
    chunk: Digest


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """`left_until_s` is per source, infinite for one that lied; `lacks` is what each has not."""

    urls: tuple[str, ...] = ()
    left_until_s: dict[str, float] = {}
    lacks: frozenset[tuple[str, Digest]] = frozenset()
    asked: Asked | None = None


def advise(sources: Sources, urls: tuple[str, ...]) -> Sources:
    """Take what the controller names as sources now; what is known of each stays known."""
    return replace(sources, urls=tuple(dict.fromkeys(urls))[:LARGEST_SOURCES])


def find(sources: Sources, chunk: Digest, now_s: float) -> str | None:
    """Return the first source that may be asked for the chunk now."""
    return next(
        (
            url
            for url in sources.urls
            if sources.left_until_s.get(url, -math.inf) <= now_s
            and (url, chunk) not in sources.lacks
        ),
        None,
    )


def leave(sources: Sources, source: str, until_s: float) -> Sources:
    """Ask a source no more until then."""
    return replace(sources, left_until_s={**sources.left_until_s, source: until_s})


def note_lack(sources: Sources, source: str, chunk: Digest) -> Sources:
    return replace(sources, lacks=sources.lacks | {(source, chunk)})


def settle(sources: Sources) -> Sources:
    """Await nothing any more: the answer came, or it is no longer wanted."""
    return replace(sources, asked=None)


def patience_s(size_bytes: int) -> float:
    """Return how long a source may take for so many bytes before it counts as slow."""
    return max(SHORTEST_WAIT_S, size_bytes / SLOWEST_BYTES_PER_S)
