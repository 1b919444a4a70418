"""What a file of vectors holds: cases, each a value and the bytes that Wherry has for it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from wherry import codec
from wherry.blobs import Blob
from wherry.names import Digest

FOLDER = Path(__file__).parent

T = TypeVar("T")


class Case(msgspec.Struct, frozen=True):
    """A value's name and the bytes that it has on the wire or on a disk."""

    name: str
    text: str


class EnvelopeCase(msgspec.Struct, frozen=True):
    name: str
    text: str
    keyid: str
    signed_sha256: str


class KeyCase(msgspec.Struct, frozen=True):
    name: str
    seed_hex: str
    keyid: str
    private_pem: str
    public_pem: str


class KeyFileCase(msgspec.Struct, frozen=True):
    """The two files of a key: the private one opens with the passphrase."""

    role: str
    seed_hex: str
    passphrase: str
    salt_hex: str
    nonce_hex: str
    private: str
    public: str


class TokenCase(msgspec.Struct, frozen=True):
    secret: str
    ca: Digest
    kept_as: str
    text: str


class TopicCase(msgspec.Struct, frozen=True):
    kind: str
    name: str
    text: str
    filter: str


class PacketCase(msgspec.Struct, frozen=True):
    """`text` unpacks to these pieces of `metadata.json`; another zstd may pack them otherwise."""

    name: str
    pieces: tuple[str, ...]
    text: str


class CondensedCase(msgspec.Struct, frozen=True):
    name: str
    text: str
    condensed: str
    numbers: tuple[int, ...]
    digests_hex: str


class BucketCase(msgspec.Struct, frozen=True):
    duration_ns: int
    bucket: int
    lower_bound_ns: int


class ChunkCase(msgspec.Struct, frozen=True):
    """The bytes are those of `pattern` over and over, `size_bytes` long."""

    name: str
    pattern_hex: str
    size_bytes: int
    chunk_bytes: int
    blob: Blob


class DeltaCase(msgspec.Struct, frozen=True):
    """One window that makes `blob` of `base`."""

    name: str
    base_hex: str
    blob_hex: str
    delta_hex: str


class EntryCase(msgspec.Struct, frozen=True):
    """An entry of a log as it is kept, and its digest, which the next one names."""

    text: str
    digest: Digest


class FileCase(msgspec.Struct, frozen=True):
    """A file by its path in a folder."""

    path: str
    text: str


class LayoutCase(msgspec.Struct, frozen=True):
    """A layout of bundles: its documents by path, its blobs' lengths, and the sha256 as one tar."""

    name: str
    documents: dict[str, str]
    blobs: dict[Digest, int]
    tar_sha256: Digest


class Vectors(msgspec.Struct):
    """One file: what it holds, and its cases as JSON values of the file's own kind."""

    about: str
    cases: list[msgspec.Raw]


def a_file(about: str, cases: Iterable[msgspec.Struct]) -> bytes:
    document = codec.encode({"about": about, "cases": list(cases)})
    return msgspec.json.format(document, indent=1) + b"\n"


def read(name: str, kind: type[T]) -> list[T]:
    """Return the kept cases of one file."""
    vectors = codec.decode(Vectors, (FOLDER / name).read_bytes())
    return [codec.decode(kind, bytes(case)) for case in vectors.cases]
