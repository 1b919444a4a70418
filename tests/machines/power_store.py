"""Looks at a device's disk as a cut left it: what is whole, what is confirmed, what waits.

The journal of a copy is replayed as the next boot does it, then the store is read out of it
without mounting, so that nothing of this needs root.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from wherry.errors import Malformed, Unavailable, Untrusted
from wherry.files import TEMPORARY
from wherry.manifest import blobs_of, open_manifest
from wherry.names import Digest
from wherry_agent.core.standing import fallback_of
from wherry_agent.papers import read_papers
from wherry_agent.settings import read_identity, read_settings
from wherry_agent.store import look

FSCK_MENDED = 1  # What e2fsck returns where it mended something, and now all is well.


@dataclass(frozen=True, slots=True)
class Found:
    """The bundle that is confirmed and so is to serve, and everything that is wrong."""

    confirmed: Digest | None
    faults: tuple[str, ...]


def examine(image: bytes, folder: Path) -> Found:
    """Return what a device whose disk is `image` has; `folder` is for copies."""
    home = _read_out(image, folder)
    faults = [*_faults_of_files(home / "state"), *_faults_of_home(home)]
    try:
        with closing(sqlite3.connect(home / "state/agent.db")) as database:
            (said,) = database.execute("PRAGMA integrity_check").fetchone()
        if said != "ok":
            faults.append(f"the database is not whole: {said}")
        aliases = look(home / "state").saved.aliases
    except (sqlite3.Error, Malformed) as error:
        return Found(None, (*faults, f"the database cannot be read: {error}"))
    kept: set[Digest] = {bundle for state in aliases.values() for bundle in state.confirmed}
    faults += [fault for bundle in sorted(kept) for fault in _faults_of_bundle(home, bundle)]
    confirmed = [fallback_of(state) for state in aliases.values()]
    return Found(confirmed[0] if confirmed else None, tuple(faults))


def _read_out(image: bytes, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    copy, home = folder / "disk.img", folder / "home"
    copy.write_bytes(image)
    home.mkdir()
    _run((0, FSCK_MENDED), "e2fsck", "-p", str(copy))
    _run((0,), "debugfs", "-R", f"rdump / {home}", str(copy))
    return home


def _run(good: tuple[int, ...], *command: str) -> None:
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    done = subprocess.run(
        command, check=False, capture_output=True, env={**os.environ, "PATH": path}
    )
    if done.returncode not in good:
        raise Unavailable(f"{command[0]}: {(done.stdout + done.stderr).decode()[-300:]}")


def _faults_of_files(state: Path) -> Iterator[str]:
    """Yield each file that is not what its name says."""
    for place in (*(state / "blobs").glob("*"), *(state / "chunks").glob("*")):
        if place.name.startswith(TEMPORARY):
            continue  # What a write left that was cut; the agent sweeps it away.
        if hashlib.sha256(place.read_bytes()).hexdigest() != place.name:
            size = place.stat().st_size
            yield f"{place.parent.name}/{place.name[:12]} ({size} bytes) is not what it is called"


def _faults_of_bundle(home: Path, bundle: Digest) -> Iterator[str]:
    """Yield what is missing of a bundle that the device has confirmed."""
    state = home / "state"
    try:
        manifest = open_manifest((state / "manifests" / bundle).read_bytes(), bundle)
    except (OSError, Malformed, Untrusted) as error:
        yield f"the manifest of {bundle[:12]}, which is confirmed: {error}"
        return
    for blob in blobs_of(manifest):
        if not (state / "blobs" / blob.digest).exists():
            yield f"blob {blob.digest[:12]} of {bundle[:12]}, which is confirmed, is gone"


def _faults_of_home(home: Path) -> Iterator[str]:
    try:
        read_settings(home)
        identity, papers = read_identity(home), read_papers(home)
        certificate = load_pem_x509_certificate(papers.certificate)
        key = load_pem_private_key(papers.key, password=None)
    except (OSError, ValueError, Malformed, Unavailable) as error:
        yield f"the device's identity cannot be read: {error}"
        return
    if certificate.public_key() != key.public_key():
        yield "the device's certificate is for another key than it has"
    if f"{certificate.serial_number:x}" != identity.serial:
        yield "the device's certificate is not the one that its identity names"
