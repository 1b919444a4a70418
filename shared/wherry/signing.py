"""Signed documents: Ed25519 over the received bytes of `signed`, as in TUF.

A document is `{"signed": …, "signatures": [{"keyid", "sig"}]}`, readable as it is. What was
signed is the bytes that came, not a re-encoding of them. The `format` inside `signed` keeps a
signature on one kind of document from passing for another kind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from wherry.codec import DOCUMENT_LIMIT_BYTES, decode, encode
from wherry.errors import Malformed, Untrusted
from wherry.names import KeyId

Keyring = Mapping[KeyId, Ed25519PublicKey]


class BadKey(Malformed):
    """Bytes that are no Ed25519 key in PEM."""

    def __str__(self) -> str:
        return "this is no Ed25519 key in PEM; give the file that `wherry init` wrote."


class NotSignedByTrusted(Untrusted):
    """A document without a valid signature by any trusted key."""

    def __init__(self, claimed: tuple[str, ...], trusted: tuple[str, ...]) -> None:
        super().__init__(claimed, trusted)
        self.claimed, self.trusted = claimed, trusted

    def __str__(self) -> str:
        claimed = ", ".join(key[:12] for key in self.claimed) or "nobody"
        trusted = ", ".join(key[:12] for key in self.trusted) or "no key"
        return (
            f"it is signed by {claimed} and this device trusts {trusted}: "
            "sign it with a trusted key, or enrol the device with the new one."
        )


class Signature(msgspec.Struct, frozen=True):
    keyid: KeyId
    sig: str


class Envelope(msgspec.Struct, frozen=True):
    """A signed document before anyone has looked inside."""

    signed: msgspec.Raw
    signatures: tuple[Signature, ...]


def key_id(public: Ed25519PublicKey) -> KeyId:
    """Return the sha256 of the raw public key in hexadecimal."""
    return KeyId(hashlib.sha256(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest())


def keyring(*keys: Ed25519PublicKey) -> Keyring:
    return {key_id(key): key for key in keys}


def sign(document: msgspec.Struct, key: Ed25519PrivateKey) -> bytes:
    """Return the envelope of `document`, signed by `key`; the same inputs give the same bytes."""
    signed = encode(document)
    signature = Signature(key_id(key.public_key()), key.sign(signed).hex())
    return b'{"signed":' + signed + b',"signatures":' + encode([signature]) + b"}"


def open_envelope(
    data: bytes, trusted: Keyring, *, limit_bytes: int = DOCUMENT_LIMIT_BYTES
) -> bytes:
    """Return the bytes of `signed` once one trusted key vouches for them.

    Raises `BadDocument` where `data` is no envelope and `NotSignedByTrusted` where no signature
    by a trusted key is valid.
    """
    envelope = decode(Envelope, data, limit_bytes=limit_bytes)
    signed = bytes(envelope.signed)
    for signature in envelope.signatures:
        key = trusted.get(signature.keyid)
        if key is not None and _is_valid(key, signature.sig, signed):
            return signed
    raise NotSignedByTrusted(tuple(s.keyid for s in envelope.signatures), tuple(trusted))


def vouching(envelope: Envelope, trusted: Keyring) -> frozenset[KeyId]:
    """Return the trusted keys that have signed `envelope`, each once."""
    signed = bytes(envelope.signed)
    return frozenset(
        signature.keyid
        for signature in envelope.signatures
        if signature.keyid in trusted and _is_valid(trusted[signature.keyid], signature.sig, signed)
    )


def _is_valid(key: Ed25519PublicKey, sig: str, signed: bytes) -> bool:
    try:
        key.verify(bytes.fromhex(sig), signed)
    except (InvalidSignature, ValueError):
        return False
    return True


def private_pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def parse_private_pem(data: bytes) -> Ed25519PrivateKey:
    """Return the key in `data`; raise `BadKey` where there is none."""
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadKey from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadKey
    return key


def parse_public_pem(data: bytes) -> Ed25519PublicKey:
    """Return the key in `data`; raise `BadKey` where there is none."""
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadKey from error
    if not isinstance(key, Ed25519PublicKey):
        raise BadKey
    return key
