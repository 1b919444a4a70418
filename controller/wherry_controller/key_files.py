"""Key files: a private key under a passphrase, and the public key that goes to other machines.

Each file says what it is and which role its key is for. A private key is sealed with AES-256-GCM
under a key that scrypt makes of the passphrase; role and key id are authenticated with it. No
file is ever overwritten, and none is believed before its key has proved to be the one it names.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from wherry import codec, signing
from wherry.errors import Malformed, Unavailable, Unsuitable, Untrusted
from wherry.files import TEMPORARY, make_folder, sync_folder
from wherry.names import KeyId

LARGEST_FILE_BYTES = 1 << 20
SHORTEST_PASSPHRASE = 8
GENERATED_BYTES = 20  # 160 bits: no key derivation needs to be slow against guesses at those.
_SALT_BYTES = 16
_NONCE_BYTES = 12
_SHORT_ID = 8
_PEM = b"-----BEGIN"

Hex = Annotated[str, msgspec.Meta(pattern=r"\A(?:[0-9a-f]{2})*\Z", max_length=1024)]


class KeyRole(StrEnum):
    """What a key is for."""

    ROOT = "root"
    TARGETS = "targets"
    BUNDLE = "bundle"
    SNAPSHOT = "snapshot"
    TIMESTAMP = "timestamp"
    DIRECTOR = "director"


OFFLINE = (KeyRole.ROOT, KeyRole.TARGETS)


class WrongPassphrase(Untrusted):
    """A passphrase that does not open a key file, or a file that was altered."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path} does not open: give its passphrase, or take a copy of the file."


class WeakPassphrase(Malformed):
    """A passphrase that is guessed too soon."""

    def __str__(self) -> str:
        return (
            f"the passphrase is too short: give one of at least {SHORTEST_PASSPHRASE} characters."
        )


class FalseKey(Untrusted):
    """A file whose key is not the one that its id names."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"the key in {self.path} is not the one that it names: get the file anew."


class ThereAlready(Unsuitable):
    """A file that would be overwritten."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path} is there already and stays: move it away, or choose another folder."


class NoFile(Unavailable):
    """A file that is not there."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"there is no file {self.path}: check its name."


class NoKeyFile(Malformed):
    """A file that holds no key of the kind that is asked for."""

    def __init__(self, path: Path, kind: str) -> None:
        super().__init__(path, kind)
        self.path, self.kind = path, kind

    def __str__(self) -> str:
        return f"{self.path} holds no {self.kind} key: give a file that `wherry keys init` wrote."


class Derivation(msgspec.Struct, frozen=True, kw_only=True):
    """How scrypt (RFC 7914) makes the sealing key; bounded, for a file may come from anybody."""

    salt: Hex
    n: Annotated[int, msgspec.Meta(ge=1 << 14, le=1 << 18)]
    r: Annotated[int, msgspec.Meta(ge=8, le=8)] = 8
    p: Annotated[int, msgspec.Meta(ge=1, le=4)] = 1


class PrivateKeyFile(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.private_key/1"
):
    role: KeyRole
    keyid: KeyId
    scrypt: Derivation
    nonce: Hex
    sealed: Hex
    critical: tuple[str, ...] = ()


class PublicKeyFile(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.public_key/1"
):
    role: KeyRole
    keyid: KeyId
    public: Hex
    critical: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Passphrase:
    """A passphrase and what scrypt spends on it: much on one that a person chose."""

    text: str
    cost: int


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key and the role that it was made for."""

    role: KeyRole
    key: Ed25519PublicKey

    @property
    def keyid(self) -> KeyId:
        return signing.key_id(self.key)


@dataclass(frozen=True, slots=True)
class Made:
    """A key that was made, and where its two files are."""

    public: PublicKey
    private_path: Path
    public_path: Path


def chosen(text: str) -> Passphrase:
    """Return a passphrase that a person chose; raise `WeakPassphrase` for a short one."""
    if len(text) < SHORTEST_PASSPHRASE:
        raise WeakPassphrase
    return Passphrase(text, 1 << 17)


def generated() -> Passphrase:
    return Passphrase(secrets.token_urlsafe(GENERATED_BYTES), 1 << 14)


def make_key(
    folder: Path, role: KeyRole, passphrase: Passphrase, *, key: Ed25519PrivateKey | None = None
) -> Made:
    """Write a new key's two files, private (0600) and public; raise `ThereAlready`."""
    private = key or Ed25519PrivateKey.generate()
    public = PublicKey(role, private.public_key())
    make_folder(folder, mode=0o700)
    private_path = folder / f"{role}-{public.keyid[:_SHORT_ID]}.key.json"
    salt, nonce = secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_NONCE_BYTES)
    sealed = seal(private, role, passphrase, salt=salt, nonce=nonce)
    write_new(private_path, sealed, mode=0o600)
    return Made(public, private_path, write_public(folder, public))


def seal(
    key: Ed25519PrivateKey, role: KeyRole, passphrase: Passphrase, *, salt: bytes, nonce: bytes
) -> bytes:
    """Return a private key's file; `salt` and `nonce` must never have been used before."""
    scrypt = Derivation(salt=salt.hex(), n=passphrase.cost)
    keyid = signing.key_id(key.public_key())
    file = PrivateKeyFile(role=role, keyid=keyid, scrypt=scrypt, nonce=nonce.hex(), sealed="")
    sealing = AESGCM(_derived(passphrase.text, scrypt))
    sealed = sealing.encrypt(nonce, key.private_bytes_raw(), _bound(file))
    return codec.encode(msgspec.structs.replace(file, sealed=sealed.hex()))


def write_public(folder: Path, public: PublicKey) -> Path:
    """Write the public key's file; it may be there, if it says the same."""
    raw = public.key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    file = PublicKeyFile(role=public.role, keyid=public.keyid, public=raw.hex())
    path = folder / f"{public.role}-{public.keyid[:_SHORT_ID]}.pub.json"
    data = codec.encode(file)
    if not path.exists() or path.read_bytes() != data:
        write_new(path, data)
    return path


def open_key(path: Path, passphrase: str) -> tuple[KeyRole, Ed25519PrivateKey]:
    """Return the role and the private key of a file.

    Raises `NoFile`, `NoKeyFile`, `WrongPassphrase`, and `FalseKey`.
    """
    file = _read_private(path)
    sealing = AESGCM(_derived(passphrase, file.scrypt))
    try:
        raw = sealing.decrypt(bytes.fromhex(file.nonce), bytes.fromhex(file.sealed), _bound(file))
        key = Ed25519PrivateKey.from_private_bytes(raw)
    except (InvalidTag, ValueError) as error:
        raise WrongPassphrase(path) from error
    if signing.key_id(key.public_key()) != file.keyid:
        raise FalseKey(path)
    return file.role, key


def read_public(path: Path) -> PublicKey:
    """Return the public key of a file; raise `NoFile`, `NoKeyFile` or `FalseKey`."""
    try:
        file = codec.decode(PublicKeyFile, read_file(path))
    except Malformed as error:
        raise NoKeyFile(path, "public") from error
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(file.public))
    except ValueError as error:
        raise FalseKey(path) from error
    if signing.key_id(key) != file.keyid:
        raise FalseKey(path)
    return PublicKey(file.role, key)


def read_vouching(path: Path) -> Ed25519PublicKey:
    """Return the public key of a file that `write_public` wrote, or of one in PEM.

    Raises what `read_public` raises.
    """
    data = read_file(path)
    if not data.startswith(_PEM):
        return read_public(path).key
    try:
        return signing.parse_public_pem(data)
    except signing.BadKey as error:
        raise NoKeyFile(path, "public") from error


def keyid_of(path: Path) -> KeyId:
    """Return which key a private file holds, without opening it."""
    return _read_private(path).keyid


def read_file(path: Path) -> bytes:
    """Return a file's bytes, at most one beyond what any file of ours has; raise `NoFile`."""
    try:
        with path.open("rb") as file:
            return file.read(LARGEST_FILE_BYTES + 1)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NoFile(path) from error


def write_new(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Put `data` at a path where nothing is, whole or not at all; raise `ThereAlready`."""
    descriptor, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        try:
            path.hardlink_to(name)
        except FileExistsError as error:
            raise ThereAlready(path) from error
    finally:
        Path(name).unlink(missing_ok=True)
    sync_folder(path.parent)


def _read_private(path: Path) -> PrivateKeyFile:
    try:
        return codec.decode(PrivateKeyFile, read_file(path))
    except Malformed as error:
        raise NoKeyFile(path, "private") from error


def _derived(passphrase: str, scrypt: Derivation) -> bytes:
    salt = bytes.fromhex(scrypt.salt)
    return Scrypt(salt=salt, length=32, n=scrypt.n, r=scrypt.r, p=scrypt.p).derive(
        passphrase.encode()
    )


def _bound(file: PrivateKeyFile) -> bytes:
    """Return what is authenticated with the sealed key: whose and what for it is."""
    return f"wherry.private_key/1 {file.role} {file.keyid}".encode()
