"""What a controller and the holders of its keys keep: key files, metadata files, log, layouts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tests import builders as a
from tests.builders import A_TIME
from tests.controller.scripted import a_card
from tests.trusted import (
    BUNDLE_KEY,
    DIRECTOR_KEY,
    ROOT_KEYS,
    SNAPSHOT_KEY,
    TARGETS_KEY,
    TIMESTAMP_KEY,
)
from tests.vectors.cases import (
    Case,
    EntryCase,
    FileCase,
    KeyFileCase,
    LayoutCase,
    a_file,
)
from tests.vectors.repository import FIRST, V1, V2
from wherry import codec
from wherry.blobs import digest_of
from wherry.signing import key_id
from wherry.trust import documents
from wherry.trust.making import LIFETIMES
from wherry.trust.repository import bin_of, next_bin
from wherry_controller.cli import ceremonies, layouts
from wherry_controller.core import audit, ceremony, rights
from wherry_controller.core.audit import ORIGIN, Kind
from wherry_controller.core.card import parse_card
from wherry_controller.core.exchange import Layout, Package, lay_out
from wherry_controller.key_files import KeyRole, Passphrase, seal, write_new, write_public
from wherry_controller.key_files import PublicKey as Public

PASSPHRASE = "correct horse battery"
CHEAPEST = 1 << 14
SALT, NONCE = bytes(range(16)), bytes(range(12))
DEVICES = (a.a_device_id("pi-1"), a.a_device_id("pi-2"))


def files() -> dict[str, bytes]:
    """Return the bytes of every file that takes a controller to replay, by its name."""
    return {
        "controller/audit.json": a_file("A log's entries as they are kept.", entries()),
        "controller/key_files.json": a_file("Files of offline keys.", key_files()),
        "controller/ceremony.json": a_file("Files that people sign, by name.", ceremony_files()),
        "controller/layout.json": a_file("Bundles as OCI image layouts.", exchanged()),
        "controller/dynamic_security.json": a_file("Rights on mosquitto.", granted()),
    }


def entries() -> Iterator[EntryCase]:
    previous = ORIGIN
    for seq, kind in enumerate(Kind):
        facts = {"device": "pi-1", "detail": f"“{kind.value}”"} if seq else {}
        entry = audit.entry_after(seq, previous, kind, facts, A_TIME + seq / 4)
        body = codec.encode(entry)
        previous = digest_of(body)
        yield EntryCase(body.decode(), previous)


def key_files() -> Iterator[KeyFileCase]:
    for role, key in ((KeyRole.ROOT, ROOT_KEYS[0]), (KeyRole.TARGETS, TARGETS_KEY)):
        private = seal(key, role, Passphrase(PASSPHRASE, CHEAPEST), salt=SALT, nonce=NONCE)
        with tempfile.TemporaryDirectory() as folder:
            public = write_public(Path(folder), Public(role, key.public_key())).read_text()
        yield KeyFileCase(
            role=role.value,
            seed_hex=key.private_bytes_raw().hex(),
            passphrase=PASSPHRASE,
            salt_hex=SALT.hex(),
            nonce_hex=NONCE.hex(),
            private=private.decode(),
            public=public,
        )


def ceremony_files() -> Iterator[FileCase]:
    """Yield what lies in a folder after a founding by 2 of 3, and while a change waits."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        hold_ceremony(folder)
        for path in sorted(folder.iterdir()):
            yield FileCase(path.name, path.read_text())


def hold_ceremony(folder: Path) -> None:
    """Found a root of trust, raise a least release, and have a bin wait for its key."""
    root, targets = ceremony.founded(_publics(), {"root": 2}, A_TIME)
    _sign(ceremonies.save_next(folder / "1", root), *ROOT_KEYS[:2])
    above = ceremonies.save_next(folder / "1", targets)
    _sign(above, TARGETS_KEY)
    raised = ceremony.with_minima(targets, {a.an_alias(): 2}, A_TIME + 60)
    _sign(ceremonies.save_next(above, raised), TARGETS_KEY)
    rotated = ceremony.with_key(root, "root", a.a_key(104).public_key(), A_TIME + 60, threshold=3)
    _sign(ceremonies.save_next(folder / "1", rotated), ROOT_KEYS[2])
    role = bin_of(V1.digest)
    waiting = next_bin(FIRST.bins[role], {}, A_TIME + 60, LIFETIMES)
    data = documents.sign(waiting).data
    path = folder / f"{waiting.version}.{role}.json"
    write_new(path, data)
    _sign(path, BUNDLE_KEY)


def _sign(path: Path, *keys: Ed25519PrivateKey) -> None:
    """Write the copy of each key beside a file, as `wherry keys sign` does."""
    for key in keys:
        paper = ceremonies.read_paper(path)
        data = documents.add_signature(paper.metadata.data, key)
        ceremonies.save_signed(paper, data, key_id(key.public_key()), None)


def _publics() -> dict[str, list[Ed25519PublicKey]]:
    return {
        "root": [key.public_key() for key in ROOT_KEYS],
        "targets": [TARGETS_KEY.public_key()],
        "bundle": [BUNDLE_KEY.public_key()],
        "snapshot": [SNAPSHOT_KEY.public_key()],
        "timestamp": [TIMESTAMP_KEY.public_key()],
        "director": [DIRECTOR_KEY.public_key()],
    }


def exchanged() -> Iterator[LayoutCase]:
    for name, packages in packages_of_layouts().items():
        layout = lay_out(packages)
        yield LayoutCase(
            name=name,
            documents={path: data.decode() for path, data in layout.documents.items()},
            blobs=dict(layout.blobs),
            tar_sha256=digest_of(packed(layout)),
        )


def packages_of_layouts() -> dict[str, list[Package]]:
    one, other = (Package(bundle.envelope, _card()) for bundle in (V1, V2))
    return {"one": [one], "two": [one, other]}


def packed(layout: Layout) -> bytes:
    """Return a layout as one tar, with the blobs of `V1` and `V2`."""
    blobs = {**V1.blobs, **V2.blobs}
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder) / f"layout{layouts.TAR}"
        layouts.write(layout, to, lambda digest, sink: _fill(sink, blobs[digest]))
        return to.read_bytes()


def _fill(sink: IO[bytes], data: bytes) -> None:
    sink.write(data)


def _card() -> bytes:
    return codec.encode(parse_card(a_card()))


def granted() -> Iterator[Case]:
    """Yield the file that mosquitto starts with, and what it is asked while it runs."""
    yield Case("document", rights.document(rights.rights_of(DEVICES)).decode())
    yield Case("nobody", rights.document(rights.rights_of(())).decode())
    yield Case("grant", rights.request(rights.grant(DEVICES[0])).decode())
    yield Case("revoke", rights.request(rights.revoke(DEVICES[0])).decode())
    listing = [rights.list_roles(0, 10), rights.list_users(10, 10)]
    yield Case("list", rights.request(listing).decode())
