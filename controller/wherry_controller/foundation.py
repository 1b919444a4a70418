"""What a controller's folder is founded on: keys, a token, folders and `wherry.toml`.

Founding twice refuses, so that no key that devices trust is ever overwritten. A founding that a
power cut interrupted is finished by the next one: what stands already is kept.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wherry import codec, signing
from wherry.errors import Unavailable, Unsuitable
from wherry.files import make_folder, write_whole
from wherry_controller.settings import FILE, Broker, Settings

DIRECTOR = "director.pem"
BUNDLES = "bundles.pem"
TOKEN = "token.sha256"

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
    """`director` signs orders, `bundles` signs manifests."""

    director: Ed25519PrivateKey
    bundles: Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class Founded:
    """`token` is shown once; the folder keeps only its sha256."""

    folder: Path
    token: str


def found(folder: Path, *, broker: str = Settings().broker.url) -> Founded:
    """Make `folder` a controller's: keys (0600), a token, folders, `wherry.toml` last.

    Raises `FoundedAlready` where `wherry.toml` stands there, and `BadSetting` for a broker that
    is none, before anything is made.
    """
    if (folder / FILE).exists():
        raise FoundedAlready(folder)
    defaults = Settings(folder=str(folder), broker=Broker(url=broker))
    _ = defaults.broker_address  # It raises where the URL names no broker.
    make_folder(folder)
    make_folder(defaults.key_folder, mode=0o700)
    make_folder(defaults.blob_folder)
    make_folder(defaults.log_folder)
    for name in (DIRECTOR, BUNDLES):
        if not (defaults.key_folder / name).exists():
            pem = signing.private_pem(Ed25519PrivateKey.generate())
            write_whole(defaults.key_folder / name, pem, mode=0o600)
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
    return Founded(folder, token)


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
