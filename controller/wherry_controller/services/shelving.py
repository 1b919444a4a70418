"""What bundles and deltas take on the broker: a document, and the chunks that it vouches for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wherry import codec, signing
from wherry.blobs import Blob, digest_of
from wherry.errors import REFUSALS
from wherry.manifest import LARGEST_MANIFEST_BYTES, Manifest, blobs_of
from wherry.messages import DeltaIndex
from wherry.names import Digest


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chunk's bytes stand: in a blob of the folder."""

    blob: Digest
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Shelved:
    """A bundle as the broker retains it: its signed manifest and its chunks."""

    envelope: bytes
    chunks: Mapping[Digest, Place]

    @property
    def size_bytes(self) -> int:
        return len(self.envelope) + sum(place.end - place.start for place in self.chunks.values())

    def sizes(self, digest: Digest) -> Mapping[Digest, int]:
        """Return the length in bytes of each part: the manifest's, under its digest, and chunks."""
        chunks = {chunk: place.end - place.start for chunk, place in self.chunks.items()}
        return {digest: len(self.envelope), **chunks}


def shelve(envelope: bytes) -> Shelved:
    """Return what the bundle of a signed manifest takes on the broker; raise a `Malformed`."""
    chunks: dict[Digest, Place] = {}
    for blob in blobs_of(manifest_in(envelope)):
        chunks = {**_chunks_of(blob), **chunks}
    return Shelved(envelope, chunks)


def manifest_in(envelope: bytes) -> Manifest:
    """Return the manifest of a bundle that this controller keeps; raise a `Malformed`."""
    opened = codec.decode(signing.Envelope, envelope, limit_bytes=2 * LARGEST_MANIFEST_BYTES)
    return codec.decode(Manifest, bytes(opened.signed), limit_bytes=LARGEST_MANIFEST_BYTES)


def _chunks_of(blob: Blob) -> Mapping[Digest, Place]:
    chunks: dict[Digest, Place] = {}
    for number, chunk in enumerate(blob.chunks):
        start = number * blob.chunk_bytes
        end = min(start + blob.chunk_bytes, blob.size_bytes)
        chunks.setdefault(chunk, Place(blob.digest, start, end))
    return chunks


def shelve_delta(index: bytes) -> Shelved:
    """Return what a delta takes on the broker: its index, as document and chunk, and its chunks."""
    delta = codec.decode(DeltaIndex, index, limit_bytes=LARGEST_MANIFEST_BYTES).delta
    name = digest_of(index)
    return Shelved(index, {**_chunks_of(delta), name: Place(name, 0, len(index))})


def size_of_all(bundles: Iterable[Shelved]) -> int:
    """Return the bytes that bundles take on the broker together, a shared chunk once."""
    shelved = list(bundles)
    chunks = {digest: place for bundle in shelved for digest, place in bundle.chunks.items()}
    manifests = sum(len(bundle.envelope) for bundle in shelved)
    return manifests + sum(place.end - place.start for place in chunks.values())


def chunks_named_by(document: bytes) -> Iterable[Digest]:
    """Return the chunks that a manifest or a delta's index names."""
    for read in (shelve, shelve_delta):
        with contextlib.suppress(*REFUSALS):
            return read(document).chunks
    return ()  # A stranger's bytes: its topic is cleared, and it vouches for no chunk.
