"""Blobs and their chunks: cutting, naming and joining bytes.

A blob is named by the sha256 of its bytes and travels as chunks of one length (the last may be
shorter), each named by its own sha256, so a chunk that two bundles share is fetched once.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator

import msgspec

from wherry.errors import Malformed, Untrusted
from wherry.names import Digest

CHUNK_BYTES = 256 * 1024  # Measured: the broker's cost a byte falls up to here, its memory not.
SMALLEST_CHUNK_BYTES = 1024
LARGEST_CHUNK_BYTES = CHUNK_BYTES
LARGEST_BLOB_BYTES = 2 << 30


class BadBlob(Malformed):
    """A blob whose description contradicts itself."""

    def __init__(self, digest: str, problem: str) -> None:
        super().__init__(digest, problem)
        self.digest, self.problem = digest, problem

    def __str__(self) -> str:
        return f"blob {self.digest[:12]} cannot be: {self.problem}; build the bundle again."


class WrongBytes(Untrusted):
    """Bytes that are not those that their digest names."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(expected, actual)
        self.expected, self.actual = expected, actual

    def __str__(self) -> str:
        return (
            f"the bytes hash to {self.actual[:12]} and not to {self.expected[:12]}: "
            "they were altered on the way; fetch them again."
        )


class Blob(msgspec.Struct, frozen=True):
    """A blob's name, its length and the names of its chunks in order."""

    digest: Digest
    size_bytes: int
    chunk_bytes: int
    chunks: tuple[Digest, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.size_bytes <= LARGEST_BLOB_BYTES:
            raise BadBlob(self.digest, f"its length is {self.size_bytes}")
        if not SMALLEST_CHUNK_BYTES <= self.chunk_bytes <= LARGEST_CHUNK_BYTES:
            raise BadBlob(self.digest, f"its chunks have {self.chunk_bytes} bytes")
        if len(self.chunks) != -(-self.size_bytes // self.chunk_bytes):
            raise BadBlob(self.digest, f"{len(self.chunks)} chunks do not make its length")


def digest_of(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).hexdigest())


def check_digest(data: bytes, expected: Digest) -> bytes:
    """Return `data` if it hashes to `expected`; raise `WrongBytes` if not."""
    actual = digest_of(data)
    if not hmac.compare_digest(actual, expected):
        raise WrongBytes(expected, actual)
    return data


def cut(data: bytes, chunk_bytes: int = CHUNK_BYTES) -> list[bytes]:
    """Return the chunks of `data` in order; empty data has none."""
    return [data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes)]


def describe(data: bytes, chunk_bytes: int = CHUNK_BYTES) -> Blob:
    """Return the name, length and chunk names of `data`."""
    chunks = tuple(digest_of(chunk) for chunk in cut(data, chunk_bytes))
    return Blob(digest_of(data), len(data), chunk_bytes, chunks)


def chunk_sizes(blob: Blob) -> dict[Digest, int]:
    """Return the length in bytes of each of the blob's chunks."""
    sizes = dict.fromkeys(blob.chunks, blob.chunk_bytes)
    if blob.chunks:
        sizes[blob.chunks[-1]] = blob.size_bytes - blob.chunk_bytes * (len(blob.chunks) - 1)
    return sizes


def join(chunks: Iterable[bytes], blob: Blob) -> bytes:
    """Return the blob that `chunks` make; raise `WrongBytes` if they make another."""
    return b"".join(checked(chunks, blob))


def checked(chunks: Iterable[bytes], blob: Blob) -> Iterator[bytes]:
    """Yield `chunks`; raise `WrongBytes` after the last if they do not make the blob."""
    whole = hashlib.sha256()
    for chunk in chunks:
        whole.update(chunk)
        yield chunk
    if not hmac.compare_digest(whole.hexdigest(), blob.digest):
        raise WrongBytes(blob.digest, whole.hexdigest())
