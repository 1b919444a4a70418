"""TUF's metadata as Wherry writes it: typed documents, and the signatures on them.

What is signed is the canonical JSON of the document: here that is plain JSON with sorted keys,
since no name, number or date of ours holds a character that the two spell differently. To read
what anybody may have written is `metadata`'s part; `read` is for what we wrote ourselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Annotated, Generic, Literal, TypeAlias, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from wherry import codec, signing
from wherry.errors import Malformed
from wherry.names import AliasName, Digest, KeyId
from wherry.signing import Envelope, Signature
from wherry.trust.target import Target

SPECIFICATION = "1.0.31"
BIN_BITS = 8
BIN_PREFIX = "bins"
LARGEST_METADATA_BYTES = 1 << 20
_EXPIRES = "%Y-%m-%dT%H:%M:%SZ"

Version = Annotated[int, msgspec.Meta(ge=1)]
Threshold = Annotated[int, msgspec.Meta(ge=1)]

_encoder = msgspec.json.Encoder(order="sorted")


class KeyValue(msgspec.Struct, frozen=True):
    public: str


class Key(msgspec.Struct, frozen=True):
    """A public Ed25519 key; `keyval.public` is the raw key in hexadecimal."""

    keyval: KeyValue
    keytype: Literal["ed25519"] = "ed25519"
    scheme: Literal["ed25519"] = "ed25519"


class Role(msgspec.Struct, frozen=True):
    """Whose signatures a role needs, and how many of them."""

    keyids: tuple[KeyId, ...]
    threshold: Threshold = 1


class RootPart(msgspec.Struct, frozen=True):
    """What root says beside TUF: who directs devices."""

    director: Role


class Root(msgspec.Struct, frozen=True, kw_only=True, tag_field="_type", tag="root"):
    version: Version
    expires: str
    keys: dict[KeyId, Key]
    roles: dict[str, Role]
    wherry: RootPart
    consistent_snapshot: bool = True
    spec_version: str = SPECIFICATION


class SuccinctRoles(msgspec.Struct, frozen=True, kw_only=True):
    """TAP 15: who signs the hash bins, and how many bins there are."""

    keyids: tuple[KeyId, ...]
    threshold: Threshold
    bit_length: int = BIN_BITS
    name_prefix: str = BIN_PREFIX


class Delegations(msgspec.Struct, frozen=True):
    keys: dict[KeyId, Key]
    succinct_roles: SuccinctRoles


class TargetsPart(msgspec.Struct, frozen=True):
    """What targets says beside TUF: the oldest release of each alias that a device may take."""

    min_release: dict[AliasName, int] = {}


class Custom(msgspec.Struct, frozen=True):
    wherry: Target


class Hashes(msgspec.Struct, frozen=True):
    sha256: Digest


class Entry(msgspec.Struct, frozen=True):
    """A bundle among the targets: the length and digest of its signed manifest."""

    length: int
    hashes: Hashes
    custom: Custom


class Targets(msgspec.Struct, frozen=True, kw_only=True, tag_field="_type", tag="targets"):
    """The targets role itself: it lists no bundle and delegates all of them to the bins."""

    version: Version
    expires: str
    delegations: Delegations
    wherry: TargetsPart
    targets: dict[Digest, Entry] = {}
    spec_version: str = SPECIFICATION


class Bin(msgspec.Struct, frozen=True, kw_only=True, tag_field="_type", tag="targets"):
    """One of the hash bins that share the bundles."""

    version: Version
    expires: str
    targets: dict[Digest, Entry]
    spec_version: str = SPECIFICATION


class MetaFile(msgspec.Struct, frozen=True, omit_defaults=True):
    version: Version
    length: int | None = None
    hashes: Hashes | None = None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, tag_field="_type", tag="snapshot"):
    version: Version
    expires: str
    meta: dict[str, MetaFile]
    spec_version: str = SPECIFICATION


class TimestampPart(msgspec.Struct, frozen=True):
    """What the timestamp says beside TUF: when it was signed, in UNIX seconds."""

    issued: int


class Timestamp(msgspec.Struct, frozen=True, kw_only=True, tag_field="_type", tag="timestamp"):
    version: Version
    expires: str
    meta: dict[str, MetaFile]
    wherry: TimestampPart
    spec_version: str = SPECIFICATION


class _Kind(msgspec.Struct, frozen=True):
    type: str = msgspec.field(name="_type")
    delegations: msgspec.Raw = msgspec.Raw(b"")


class NotOfPeople(Malformed):
    """Metadata of a role that only the controller itself signs, or of none."""

    def __init__(self, role: str) -> None:
        super().__init__(role)
        self.role = role

    def __str__(self) -> str:
        return f"{self.role!r} is not signed elsewhere: publish root, targets and bins only."


Document: TypeAlias = Root | Targets | Bin | Snapshot | Timestamp
D = TypeVar("D", bound=Document)


@dataclass(frozen=True, slots=True)
class Metadata(Generic[D]):
    """A document together with the bytes that carry it and its signatures."""

    signed: D
    data: bytes


def key_of(public: Ed25519PublicKey) -> Key:
    return Key(KeyValue(public.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()))


def public_of(key: Key) -> Ed25519PublicKey:
    """Return the key that a document spells; raise `BadKey` where it is none."""
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.keyval.public))
    except ValueError as error:
        raise signing.BadKey from error


def canonical(document: Document) -> bytes:
    """Return the bytes of `document` that are signed."""
    return _encoder.encode(document)


def sign(document: D, *keys: Ed25519PrivateKey) -> Metadata[D]:
    """Return `document` signed by each of `keys`; by none it is one that waits."""
    signed = canonical(document)
    return Metadata(document, _joined(signed, [_signature(signed, key) for key in keys]))


def add_signature(data: bytes, key: Ed25519PrivateKey) -> bytes:
    """Return the metadata `data` with a signature by `key` beside those it has."""
    envelope = _opened(data)
    mine = _signature(bytes(envelope.signed), key)
    others = [other for other in envelope.signatures if other.keyid != mine.keyid]
    return _joined(bytes(envelope.signed), [*others, mine])


def merge_signatures(data: bytes, more: bytes) -> bytes:
    """Return `data` with what `more`, a copy of the same document, has in signatures beside."""
    one, other = _opened(data), _opened(more)
    if bytes(one.signed) != bytes(other.signed):
        raise codec.BadDocument("copy of the same metadata", "what is signed differs")
    known = {signature.keyid for signature in one.signatures}
    new = [signature for signature in other.signatures if signature.keyid not in known]
    return _joined(bytes(one.signed), [*one.signatures, *new])


def signed_part(data: bytes) -> bytes:
    """Return the bytes of `data` that signatures are over; `BadDocument` where there are none."""
    return bytes(_opened(data).signed)


def read(kind: type[D], data: bytes) -> Metadata[D]:
    """Return the metadata that `data` carries, whoever signed it; `BadDocument` for any other."""
    signed = signed_part(data)
    return Metadata(codec.decode(kind, signed, limit_bytes=LARGEST_METADATA_BYTES), data)


def read_of_people(data: bytes) -> Metadata[Root] | Metadata[Targets] | Metadata[Bin]:
    """Return the root, targets or bin that `data` carries, whoever signed it.

    Those are what keys of people sign. Raises `NotOfPeople` for metadata of any other role, and
    `BadDocument` for what is none.
    """
    kind = codec.decode(_Kind, signed_part(data))
    if kind.type == "root":
        return read(Root, data)
    if kind.type != "targets":
        raise NotOfPeople(kind.type)
    return read(Targets, data) if bytes(kind.delegations) else read(Bin, data)


def bundle_role(targets: Targets) -> Role:
    """Return whose signatures the bins need."""
    bins = targets.delegations.succinct_roles
    return Role(bins.keyids, bins.threshold)


def signers(data: bytes, keys: Mapping[KeyId, Key], role: Role) -> frozenset[KeyId]:
    """Return which keys of `role` have signed `data`: valid signatures only, each key once."""
    return signing.vouching(_opened(data), _keyring(keys, role))


def expiry(now: float, lifetime_s: float) -> str:
    """Return the date at which what is signed `now` expires, as TUF spells it."""
    return datetime.fromtimestamp(int(now + lifetime_s), timezone.utc).strftime(_EXPIRES)


def expires_at(document: Document) -> float:
    """Return the UNIX time at which `document` expires."""
    return datetime.strptime(document.expires, _EXPIRES).replace(tzinfo=timezone.utc).timestamp()


def _opened(data: bytes) -> Envelope:
    return codec.decode(Envelope, data, limit_bytes=LARGEST_METADATA_BYTES)


def _signature(signed: bytes, key: Ed25519PrivateKey) -> Signature:
    return Signature(signing.key_id(key.public_key()), key.sign(signed).hex())


def _joined(signed: bytes, signatures: list[Signature]) -> bytes:
    return b'{"signatures":' + codec.encode(signatures) + b',"signed":' + signed + b"}"


def _keyring(keys: Mapping[KeyId, Key], role: Role) -> signing.Keyring:
    """Return the keys of `role` that stand under their own ids: one under two is not two."""
    found: dict[KeyId, Ed25519PublicKey] = {}
    for keyid in role.keyids:
        with suppress(KeyError, signing.BadKey):
            public = public_of(keys[keyid])
            if signing.key_id(public) == keyid:
                found[keyid] = public
    return found
