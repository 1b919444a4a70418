"""TUF metadata as typed values: bytes in, python-tuf's objects or a refusal out.

python-tuf parses and checks signatures here; what a client may accept is decided in `workflow`.
The length is bounded first, duplicate keys are refused, and whatever python-tuf raises ends as
`MetadataRefused`. Its untyped parts (unknown fields, `custom`) leave this module as structs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import timezone
from typing import TypeVar

import msgspec
from securesystemslib.exceptions import Error as SigningError
from tuf.api.exceptions import LengthOrHashMismatchError, RepositoryError
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError, SerializationError

from wherry.codec import encode, learned
from wherry.measures import Count
from wherry.reasons import Reason
from wherry.signing import Envelope
from wherry.trust.refusals import MetadataRefused

__all__ = [
    "MetaFile",
    "Metadata",
    "Root",
    "S",
    "Signed",
    "Snapshot",
    "TargetFile",
    "Targets",
    "Timestamp",
    "bin_of",
    "check_bytes",
    "custom_of",
    "expiry_of",
    "issued_of",
    "kept",
    "largest_bytes",
    "parse",
    "verify",
    "wherry_of",
]

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)
T = TypeVar("T")

FIELD = "wherry"
LARGEST_TIMESTAMP_BYTES = 1 << 14
LARGEST_METADATA_BYTES = 1 << 20
LARGEST_VERSION = 10**10 - 1  # The longest that names of pieces and topics have room for.


class _Issued(msgspec.Struct, frozen=True):
    issued: Count = 0


def largest_bytes(role: str) -> int:
    """Return how long the metadata of `role` may be."""
    return LARGEST_TIMESTAMP_BYTES if role == "timestamp" else LARGEST_METADATA_BYTES


def parse(kind: type[S], role: str, data: bytes) -> Metadata[S]:
    """Return the metadata in `data`, whoever signed it; raise `MetadataRefused` for any other."""
    if len(data) > largest_bytes(role):
        raise _malformed(role, f"it has {len(data)} bytes and {largest_bytes(role)} are allowed")
    _refuse_repeated_keys(role, data)
    try:
        document: Metadata[S] = Metadata.from_bytes(data)
    except DeserializationError as error:
        raise _malformed(role, str(error.__cause__ or error)) from error
    if not isinstance(document.signed, kind):
        raise _malformed(role, f"it is of the type {document.signed.type}")
    if max(_versions_in(document.signed)) > LARGEST_VERSION:
        raise _malformed(role, f"a version in it is above {LARGEST_VERSION}")
    return document


def verify(delegator: Root | Targets, role: str, document: Metadata[S]) -> S:
    """Return what was signed once the keys that `delegator` gives `role` vouch for it."""
    try:
        delegator.verify_delegate(role, document.signed_bytes, document.signatures)
    except SerializationError as error:
        raise _malformed(role, str(error.__cause__ or error)) from error
    except (RepositoryError, SigningError, ValueError) as error:
        raise MetadataRefused(Reason.UNTRUSTED_METADATA, role, str(error)) from error
    return document.signed


def kept(role: str, data: bytes) -> str:
    """Return what of verified metadata is worth keeping: what is signed, and the signatures.

    Nobody vouches for what else stands there, and what is kept is read again for as long as the
    device lives: by another parser, which has to take it now or never.
    """
    try:
        envelope = msgspec.json.decode(data, type=learned(Envelope))
    except (msgspec.DecodeError, RecursionError) as error:
        raise _malformed(role, str(error)) from error
    signatures = encode(envelope.signatures)
    return (b'{"signatures":' + signatures + b',"signed":' + envelope.signed + b"}").decode()


def check_bytes(promised: MetaFile, role: str, data: bytes) -> None:
    """Raise `MetadataRefused` where `data` is not of the length and hashes that were promised."""
    try:
        promised.verify_length_and_hashes(data)
    except LengthOrHashMismatchError as error:
        raise MetadataRefused(Reason.MIXED_METADATA, role, str(error)) from error


def bin_of(targets: Targets, path: str) -> str:
    """Return the role that lists `path`: its hash bin, or targets where there are no bins."""
    delegations = targets.delegations
    if delegations is None or delegations.succinct_roles is None:
        return "targets"
    return delegations.succinct_roles.get_role_for_target(path)


def expiry_of(signed: Signed) -> float:
    """Return the UNIX time in seconds from which `signed` counts no more."""
    return signed.expires.replace(tzinfo=timezone.utc).timestamp()


def issued_of(signed: Signed) -> float:
    """Return the UNIX time in seconds at which `signed` says it was signed; 0: it says nothing."""
    return wherry_of(signed, _Issued).issued


def wherry_of(signed: Signed, kind: type[T]) -> T:
    """Return Wherry's own field of `signed`; where it is absent, a `kind` with its defaults."""
    return _converted(signed.type, signed.unrecognized_fields.get(FIELD, {}), kind)


def custom_of(target: TargetFile, kind: type[T]) -> T:
    """Return what the custom part of `target` holds for Wherry."""
    custom = target.custom
    return _converted("targets", custom.get(FIELD, {}) if isinstance(custom, Mapping) else {}, kind)


def _converted(role: str, field: object, kind: type[T]) -> T:
    try:
        return msgspec.convert(field, learned(kind))
    except msgspec.ValidationError as error:
        raise _malformed(role, f"its field {FIELD!r}: {error}") from error


def _versions_in(signed: Signed) -> Iterator[int]:
    """Yield the version of `signed` and those that it names of other roles."""
    yield signed.version
    if isinstance(signed, Timestamp):
        yield signed.snapshot_meta.version
    if isinstance(signed, Snapshot):
        yield from (file.version for file in signed.meta.values())


def _refuse_repeated_keys(role: str, data: bytes) -> None:
    """Raise `MetadataRefused` where an object names a key twice: python-tuf takes the last."""

    def pairs(items: list[tuple[str, object]]) -> None:
        if len({name for name, _ in items}) != len(items):
            raise _malformed(role, "a key stands twice in one object")

    try:
        json.loads(data.decode(), object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise _malformed(role, str(error)) from error


def _malformed(role: str, problem: str) -> MetadataRefused:
    return MetadataRefused(Reason.MALFORMED_METADATA, role, problem)
