"""What the download machine hears of a bundle's chunks, and what it asks for."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from wherry.names import Digest

# Events


class Connected(msgspec.Struct, frozen=True):
    at_s: float


class Disconnected(msgspec.Struct, frozen=True):
    pass


class ManifestCame(msgspec.Struct, frozen=True):
    """The manifest is verified; `missing` are the chunks that are not on disk."""

    missing: dict[Digest, int]
    at_s: float


class ChunkCame(msgspec.Struct, frozen=True):
    """A chunk is verified and on disk."""

    chunk: Digest
    at_s: float


class Flowing(msgspec.Struct, frozen=True):
    """More has come on the line since this was said last than a line without a chunk carries."""

    at_s: float


class ChunkSpoiled(msgspec.Struct, frozen=True):
    chunk: Digest
    at_s: float


class StillMissing(msgspec.Struct, frozen=True):
    """What was asked for is there and does not make the bundle yet: these chunks are next."""

    missing: dict[Digest, int]
    at_s: float


class Awaits(msgspec.Struct, frozen=True):
    """Nothing can be asked for yet: a shorter way is being made, and waited for until then."""

    until_s: float
    at_s: float


class LookAgain(msgspec.Struct, frozen=True):
    """What was waited for may be there."""

    at_s: float


class Advised(msgspec.Struct, frozen=True):
    """How fast and how much may be fetched from now on, and which sources there are."""

    bytes_per_s: float | None
    left_bytes: int | None
    sources: tuple[str, ...]


class SourceFailed(msgspec.Struct, frozen=True):
    """A source could not be reached, was too slow, or gave no such range."""

    source: str
    chunk: Digest
    at_s: float


class SourceLacked(msgspec.Struct, frozen=True):
    """A source has not the blob that the chunk is of."""

    source: str
    chunk: Digest
    at_s: float


class SourceLied(msgspec.Struct, frozen=True):
    """A source gave other bytes than those asked for."""

    source: str
    chunk: Digest
    at_s: float


class Tick(msgspec.Struct, frozen=True):
    at_s: float


FromSource: TypeAlias = SourceFailed | SourceLacked | SourceLied
Event: TypeAlias = (
    Connected
    | Disconnected
    | ManifestCame
    | ChunkCame
    | Flowing
    | ChunkSpoiled
    | StillMissing
    | Awaits
    | LookAgain
    | Advised
    | FromSource
    | Tick
)


# Effects


class AskManifest(msgspec.Struct, frozen=True):
    bundle: Digest


class DropManifest(msgspec.Struct, frozen=True):
    bundle: Digest


class AskChunks(msgspec.Struct, frozen=True):
    chunks: tuple[Digest, ...]


class DropChunks(msgspec.Struct, frozen=True):
    chunks: tuple[Digest, ...]


class Want(msgspec.Struct, frozen=True):
    """Tell the controller, after a jitter, what does not come."""

    digests: tuple[Digest, ...]


class AskSource(msgspec.Struct, frozen=True):
    """Get a chunk of `size_bytes` from an HTTP(S) source within so many seconds."""

    source: str
    chunk: Digest
    size_bytes: int
    within_s: float


class Complete(msgspec.Struct, frozen=True):
    """Every chunk that was missing is on disk."""


class GiveUp(msgspec.Struct, frozen=True):
    """The chunk came with wrong bytes too often."""

    chunk: Digest


Effect: TypeAlias = (
    AskManifest | DropManifest | AskChunks | DropChunks | Want | AskSource | Complete | GiveUp
)
Effects: TypeAlias = tuple[Effect, ...]
