"""A bundle: a signed manifest with its blobs, made and opened.

Writing is deterministic (the same manifest and key give the same bytes); the bundle's digest is
the sha256 of the signed bytes, so whoever signs it, its name is the same. A device opens it by
that name, which trusted targets told it; the signature says to people where it comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wherry import codec, signing
from wherry.blobs import check_digest, digest_of
from wherry.manifest import LARGEST_MANIFEST_BYTES, BadManifest, Manifest, blobs_of
from wherry.manifest import open_manifest as open_manifest
from wherry.names import Digest


@dataclass(frozen=True, slots=True)
class Bundle:
    """`envelope` is the signed manifest as it travels; `blobs` the bytes by digest."""

    digest: Digest
    envelope: bytes
    manifest: Manifest
    blobs: Mapping[Digest, bytes]


def seal(manifest: Manifest, blobs: Mapping[Digest, bytes], key: Ed25519PrivateKey) -> Bundle:
    """Sign `manifest` and return the bundle that it and `blobs` make.

    Raises `BadManifest` where `blobs` are not those that it names, `WrongBytes` where they lie.
    """
    if set(blobs) != {blob.digest for blob in blobs_of(manifest)}:
        raise BadManifest("the blobs are not those that it names")
    for digest, data in blobs.items():
        check_digest(data, digest)
    digest = digest_of(codec.encode(manifest))
    return Bundle(digest, signing.sign(manifest, key), manifest, dict(blobs))


def open_signed_manifest(envelope: bytes, trusted: signing.Keyring, expected: Digest) -> Manifest:
    """Return the manifest in `envelope` where a trusted key vouches for it.

    Raises `NotSignedByTrusted`, and what `open_manifest` raises.
    """
    signing.open_envelope(envelope, trusted, limit_bytes=2 * LARGEST_MANIFEST_BYTES)
    return open_manifest(envelope, expected)
