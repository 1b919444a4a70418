"""The version before, laid out for the builder: its golden answers must not pass for the new one's.

    previous/BUNDLE/manifest.json    the manifest without its signatures
    previous/BUNDLE/blobs/MODEL      the model file

The folder is named by the bundle, so that it is the same for each build that compares with it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from wherry import codec, signing
from wherry.errors import Malformed
from wherry.files import make_folder, write_whole
from wherry.manifest import LARGEST_MANIFEST_BYTES, MODEL_FILE, Manifest
from wherry.names import ProfileName
from wherry_controller.core.build import BLOBS, PREVIOUS_MANIFEST
from wherry_controller.store import models
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.database import Store, Transaction
from wherry_controller.store.records import Variant, Version


def lay_out_previous(
    store: Store,
    blobs: BlobFolder,
    folder: Path,
    *,
    version: Version,
    profiles: Iterable[ProfileName],
) -> dict[ProfileName, str]:
    """Return by profile where the variant of the version before stands, if there is one."""
    with store.reading() as tx:
        before = _before(tx, version)
        envelopes = {
            profile: (before[profile].bundle, models.get_envelope(tx, before[profile].bundle))
            for profile in profiles
            if profile in before
        }
    places = {
        profile: _lay_out(blobs, folder / bundle, envelope)
        for profile, (bundle, envelope) in envelopes.items()
        if envelope is not None
    }
    return {profile: str(place) for profile, place in places.items() if place is not None}


def _before(tx: Transaction, version: Version) -> dict[ProfileName, Variant]:
    """Return by profile the newest variants of versions that are older than this one."""
    older = [
        one
        for one in models.list_versions(tx, version.model)
        if one.created_at < version.created_at
    ]
    variants = [models.list_variants(tx, one.model, one.name) for one in older]
    return {variant.profile: variant for some in variants for variant in some}


def _lay_out(blobs: BlobFolder, place: Path, envelope: bytes) -> Path | None:
    """Lay one bundle out; nothing where an earlier release wrote it in words of its own."""
    if (place / PREVIOUS_MANIFEST).exists():
        return place
    limit_bytes = 2 * LARGEST_MANIFEST_BYTES
    signed = bytes(codec.decode(signing.Envelope, envelope, limit_bytes=limit_bytes).signed)
    try:
        manifest = codec.decode(Manifest, signed, limit_bytes=LARGEST_MANIFEST_BYTES)
    except Malformed:
        return None
    model = manifest.files[MODEL_FILE].digest
    if not blobs.has(model):
        return None
    _share(blobs.path(model), make_folder(place / BLOBS) / model)
    write_whole(place / PREVIOUS_MANIFEST, signed)
    return place


def _share(source: Path, to: Path) -> None:
    to.unlink(missing_ok=True)
    try:
        os.link(source, to)
    except OSError:
        shutil.copyfile(source, to)
