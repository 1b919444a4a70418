"""What a build leaves behind: signed variants, reports, and the version's reference.

The builder ran the user's code, so nothing of it is believed: every file is read under the name
that its digest must prove, and the key is used here only. A bundle is vouched for in the write
that keeps it, so that no device is ever told of one that its targets do not list.
"""

from __future__ import annotations

import os
import stat
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import BinaryIO, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from wherry import bundle, codec
from wherry.blobs import Blob, WrongBytes, check_digest
from wherry.bundle import Bundle
from wherry.errors import Malformed
from wherry.manifest import LARGEST_MANIFEST_BYTES, Manifest, blobs_of
from wherry.names import Digest
from wherry_controller.core.build import BLOBS, TOOLS, Built, Offered, manifest_file, offer_file
from wherry_controller.core.choice import Latency, ProfileReport
from wherry_controller.services.models import version_of
from wherry_controller.store import models
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.database import Store, Transaction
from wherry_controller.store.records import Build, KeptReport, Variant


class Vouch(Protocol):
    """Has the controller vouch for a bundle to devices; see `services/trust.py`."""

    def __call__(
        self, tx: Transaction, manifest: Manifest, bundle: Digest, now: float, /
    ) -> None: ...


class NotForMeasuring(Malformed):
    """A builder offered a bundle for measuring that devices would serve."""

    def __init__(self, recipe: str) -> None:
        super().__init__(recipe)
        self.recipe = recipe

    def __str__(self) -> str:
        return f"{self.recipe} is offered as a bundle to serve: look into the version's own code."


class NotPlain(Malformed):
    """A builder left something that is no file under a file's name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"{self.name} is no plain file: look into the version's own code."


def keep_variant(
    store: Store,
    blobs: BlobFolder,
    key: Ed25519PrivateKey,
    *,
    vouch: Vouch,
    build: Build,
    output: Path,
    built: Built,
    now: float,
) -> None:
    """Sign a variant's manifest and keep its bundle; raise `WrongBytes` where files lie."""
    manifest = _manifest_in(output, manifest_file(built.profile), built.bundle)
    sealed = _seal(blobs, key, output, manifest)
    variant = Variant(
        model=build.model,
        version=build.version,
        profile=built.profile,
        bundle=sealed.digest,
        precision=manifest.precision,
        size_bytes=manifest.report.size_bytes,
        report=manifest.report,
        latency=_latency_of(built.report),
        created_at=now,
    )
    with store.transaction() as tx:
        models.save_variant(tx, variant, sealed.envelope)
        vouch(tx, manifest, sealed.digest, now)
        models.save_report(tx, _kept(build, built.report, now))


def keep_offer(
    store: Store,
    blobs: BlobFolder,
    key: Ed25519PrivateKey,
    *,
    vouch: Vouch,
    output: Path,
    offered: Offered,
    now: float,
) -> None:
    """Sign a candidate's manifest and keep its bundle for measuring.

    Raises `WrongBytes` where files lie, and `NotForMeasuring`: a device would serve such a bundle.
    """
    file = offer_file(offered.profile, offered.recipe)
    manifest = _manifest_in(output, file, offered.bundle)
    if not manifest.measuring:
        raise NotForMeasuring(offered.recipe)
    sealed = _seal(blobs, key, output, manifest)
    with store.transaction() as tx:
        models.save_bundle(tx, sealed.digest, sealed.envelope)
        vouch(tx, manifest, sealed.digest, now)


def keep_report(store: Store, *, build: Build, report: ProfileReport, now: float) -> None:
    """Keep what was tried for a profile that was refused."""
    with store.transaction() as tx:
        models.save_report(tx, _kept(build, report, now))


def keep_reference(
    store: Store, blobs: BlobFolder, *, build: Build, output: Path, weights: Blob
) -> None:
    """Keep the version's weights with it; raise `WrongBytes` where the file lies."""
    with _opened(output / BLOBS / weights.digest) as file:
        digest, _ = blobs.take(file)
    if digest != weights.digest:
        raise WrongBytes(weights.digest, digest)
    with store.transaction() as tx:
        version = version_of(tx, build.model, build.version)
        models.save_version(tx, replace(version, reference=digest))


def _manifest_in(output: Path, file: str, digest: Digest) -> Manifest:
    signed = check_digest(_read(output / file, LARGEST_MANIFEST_BYTES), digest)
    return codec.decode(Manifest, signed, limit_bytes=LARGEST_MANIFEST_BYTES)


def _seal(blobs: BlobFolder, key: Ed25519PrivateKey, output: Path, manifest: Manifest) -> Bundle:
    named = {
        blob.digest: _read(output / BLOBS / blob.digest, blob.size_bytes)
        for blob in blobs_of(manifest)
    }
    sealed = bundle.seal(manifest, named, key)
    for data in sealed.blobs.values():
        blobs.put(data)
    return sealed


def _read(path: Path, limit_bytes: int) -> bytes:
    """Return the bytes of a file that is not longer; of another one only what shows that it is."""
    with _opened(path) as file:
        return file.read(limit_bytes + 1)


def _opened(path: Path) -> BinaryIO:
    """Open a plain file: no link is followed and no pipe is waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotPlain(path.name)
    return os.fdopen(descriptor, "rb")


@cache
def tools() -> dict[str, str]:
    """Return the versions of what builds variants, by its name; what is not installed is absent."""
    installed = {}
    for name in TOOLS:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def _latency_of(report: ProfileReport) -> Latency | None:
    chosen = [one for one in report.candidates if one.name == report.chosen]
    return chosen[0].latency if chosen else None


def _kept(build: Build, report: ProfileReport, now: float) -> KeptReport:
    return KeptReport(
        model=build.model,
        version=build.version,
        profile=report.profile,
        build=build.id,
        document=report,
        tools=tools(),
        created_at=now,
    )
