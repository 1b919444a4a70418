"""What a controller's folder is founded on: keys, a root of trust, a token and `wherry.toml`.

Founding twice refuses, so that no key that devices trust is ever overwritten. A founding that a
power cut interrupted is finished by the next one: what stands already is kept. A folder of an
earlier release, which has no root of trust, gets one and keeps the rest.

    FOLDER/keys/     what signs by itself: director, bundles, snapshot, timestamp
    FOLDER/trust/    the first root and targets, which the keys in FOLDER/offline signed, or others,
                     and the public key by which others verify bundles of this controller
    FOLDER/offline/  the root and targets keys under their passphrase: to be moved away
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wherry import codec, signing
from wherry.errors import Unavailable, Unsuitable
from wherry.files import make_folder, write_whole
from wherry.names import KeyId
from wherry.trust import documents
from wherry.trust.documents import Root, Targets, sign
from wherry_controller import key_files
from wherry_controller.core import ceremony
from wherry_controller.core import trust as rules
from wherry_controller.key_files import KeyRole, Passphrase, PublicKey
from wherry_controller.settings import FILE, Broker, Settings

DIRECTOR = "director.pem"
BUNDLES = "bundles.pem"
SNAPSHOT = "snapshot.pem"
TIMESTAMP = "timestamp.pem"
TOKEN = "token.sha256"
TRUST, OFFLINE = "trust", "offline"
FIRST_ROOT, FIRST_TARGETS = "1.root.json", "1.targets.json"
_ROLES = {
    KeyRole.DIRECTOR: DIRECTOR,
    KeyRole.BUNDLE: BUNDLES,
    KeyRole.SNAPSHOT: SNAPSHOT,
    KeyRole.TIMESTAMP: TIMESTAMP,
}

_FILE_TEXT = """\
# The controller's settings; what is not set here has its default (docs: README, settings).
database = "{database}"

[http]
host = "127.0.0.1"
port = {http_port}

[broker]
# mqtt://HOST:PORT of a broker with MQTT 5, or "embedded" for the one that comes along.
url = {broker}
embedded_port = {embedded_port}
"""


class FoundedAlready(Unsuitable):
    """A folder that is a controller's already."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def __str__(self) -> str:
        return f"{self.folder} is a controller's folder already: serve it, or choose another."


class NoKeys(Unavailable):
    """A controller's folder without one of its keys."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return (
            f"{self.path} is missing: restore it from a copy, or run `wherry init` in a new folder."
        )


@dataclass(frozen=True, slots=True)
class Keys:
    """`director` signs orders, `bundles` signs manifests, as long as root names no others."""

    director: Ed25519PrivateKey
    bundles: Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class FirstTrust:
    """The first root and targets, signed."""

    root: bytes
    targets: bytes


@dataclass(frozen=True, slots=True)
class Founded:
    """`token` and `passphrase` are shown once.

    The folder keeps only the token's sha256; it is None where an earlier release gave one out. No
    `passphrase` is told where it was chosen, or where the offline keys are elsewhere.
    """

    folder: Path
    token: str | None
    passphrase: str | None = None
    offline: Path | None = None


def found(
    folder: Path,
    *,
    broker: str = Settings().broker.url,
    passphrase: Passphrase | None = None,
    trust: FirstTrust | None = None,
    bundle: PublicKey | None = None,
    clock: Callable[[], float] = time.time,
) -> Founded:
    """Make `folder` a controller's: keys (0600), a root of trust, a token, `wherry.toml` last.

    `trust` was signed elsewhere; without it, offline keys are made here under `passphrase`, or
    under one that is generated, and `bundle` may name a bundle key that is kept apart. Raises
    `FoundedAlready`, `BadSetting` for a broker that is none before anything is made, and what
    `core.trust` raises for a `trust` that cannot be served.
    """
    is_founded = (folder / FILE).exists()
    if is_founded and (folder / TRUST / FIRST_TARGETS).exists():
        raise FoundedAlready(folder)
    defaults = Settings(folder=str(folder), broker=Broker(url=broker))
    _ = defaults.broker_address  # It raises where the URL names no broker.
    make_folder(folder)
    make_online_keys(defaults.key_folder)
    make_folder(defaults.blob_folder)
    make_folder(defaults.log_folder)
    secret = passphrase or key_files.generated()
    given = trust or _make_trust(folder, defaults, secret, bundle, clock())
    _keep_trust(folder, defaults, given, clock())
    return Founded(
        folder=folder,
        token=None if is_founded else _settle(folder, defaults, broker),
        passphrase=secret.text if passphrase is None and trust is None else None,
        offline=folder / OFFLINE if trust is None else None,
    )


def make_online_keys(folder: Path) -> dict[KeyRole, Ed25519PrivateKey]:
    """Make those keys of the controller's key folder that are missing; return all of them."""
    make_folder(folder, mode=0o700)
    for name in _ROLES.values():
        if not (folder / name).exists():
            pem = signing.private_pem(Ed25519PrivateKey.generate())
            write_whole(folder / name, pem, mode=0o600)
    return {role: signing.parse_private_pem(_read(folder / name)) for role, name in _ROLES.items()}


def add_online_key(folder: Path, role: KeyRole) -> Ed25519PrivateKey:
    """Make one more key of a role; root or targets decide from when on it signs."""
    key = Ed25519PrivateKey.generate()
    stem = _ROLES[role].removesuffix(".pem")
    path = folder / f"{stem}-{signing.key_id(key.public_key())[:8]}.pem"
    key_files.write_new(path, signing.private_pem(key), mode=0o600)
    return key


def _make_trust(
    folder: Path,
    settings: Settings,
    passphrase: Passphrase,
    bundle: PublicKey | None,
    now: float,
) -> FirstTrust:
    """Make the offline keys and what they sign first."""
    root = Ed25519PrivateKey.generate()
    targets = Ed25519PrivateKey.generate()
    for role, key in ((KeyRole.ROOT, root), (KeyRole.TARGETS, targets)):
        key_files.make_key(folder / OFFLINE, role, passphrase, key=key)
    publics = {
        role.value: [key.public_key()]
        for role, key in make_online_keys(settings.key_folder).items()
    }
    if bundle is not None:
        publics[bundle.role.value] = [bundle.key]
    publics |= {"root": [root.public_key()], "targets": [targets.public_key()]}
    first, above = ceremony.founded(publics, {}, now)
    return FirstTrust(sign(first, root).data, sign(above, targets).data)


def _keep_trust(folder: Path, settings: Settings, trust: FirstTrust, now: float) -> None:
    """Check the first root and targets as a controller must, and keep them.

    Beside them stands the key that others verify this controller's bundles by.
    """
    root = documents.read(Root, trust.root)
    targets = documents.read(Targets, trust.targets)
    rules.check_first_root(root, read_held_keys(settings).keys(), now)
    rules.check_targets(None, targets, root=root.signed, latest={}, now=now)
    make_folder(folder / TRUST)
    signs = PublicKey(KeyRole.BUNDLE, read_keys(settings).bundles.public_key())
    key_files.write_public(folder / TRUST, signs)
    write_whole(folder / TRUST / FIRST_ROOT, trust.root)
    write_whole(folder / TRUST / FIRST_TARGETS, trust.targets)


def _settle(folder: Path, defaults: Settings, broker: str) -> str:
    """Make the token and `wherry.toml`; return the token."""
    token = secrets.token_urlsafe(32)
    digest = hashlib.sha256(token.encode()).hexdigest()
    write_whole(defaults.key_folder / TOKEN, digest.encode(), mode=0o600)
    text = _FILE_TEXT.format(
        database=defaults.database,
        http_port=defaults.http.port,
        broker=codec.encode(broker).decode(),  # JSON's strings are TOML's.
        embedded_port=defaults.broker.embedded_port,
    )
    write_whole(folder / FILE, text.encode())
    return token


def read_held_keys(settings: Settings) -> dict[KeyId, Ed25519PrivateKey]:
    """Return every key in the key folder that may sign by itself; raise `BadKey`.

    There may be several of a role: one that signs now, and one that the next root names.
    """
    stems = [name.removesuffix(".pem") for name in _ROLES.values()]
    paths = [path for stem in stems for path in sorted(settings.key_folder.glob(f"{stem}*.pem"))]
    keys = [signing.parse_private_pem(path.read_bytes()) for path in paths]
    return {signing.key_id(key.public_key()): key for key in keys}


def read_first_trust(settings: Settings) -> FirstTrust:
    """Return what the controller was founded on; raise `NoKeys`."""
    folder = Path(settings.folder) / TRUST
    return FirstTrust(_read(folder / FIRST_ROOT), _read(folder / FIRST_TARGETS))


def read_keys(settings: Settings) -> Keys:
    """Return the controller's signing keys; raise `NoKeys` or `BadKey`."""
    return Keys(
        director=signing.parse_private_pem(_read(settings.key_folder / DIRECTOR)),
        bundles=signing.parse_private_pem(_read(settings.key_folder / BUNDLES)),
    )


def read_token_digest(settings: Settings) -> str:
    """Return the sha256 of the token, in hexadecimal; raise `NoKeys`."""
    return _read(settings.key_folder / TOKEN).decode().strip()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NoKeys(path) from error
