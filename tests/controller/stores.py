"""Real stores for tests, with the profiles, versions and devices that a test names."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tests.builders import a_bundle_of, a_digest, a_key, a_profile
from tests.controller.reports import a_latency
from wherry.bundle import Bundle
from wherry.names import DeviceId, parse_device_id, parse_model_name, parse_version_name
from wherry_controller.store import devices, models
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.database import Store, Transaction, open_store
from wherry_controller.store.records import Device, Model, Variant, Version

DIGITS = parse_model_name("digits")


def a_store(folder: Path) -> Store:
    """Open the SQLite database in `folder`, new where there is none."""
    path = folder / "wherry.db"
    if not path.exists():
        path.write_bytes(_new_database())
    return open_store(f"sqlite:///{path}")


@cache
def _new_database() -> bytes:
    """Return the file of a database that was migrated from nothing, which takes its time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wherry.db"
        open_store(f"sqlite:///{path}").close()
        return path.read_bytes()


def add_devices(tx: Transaction, *names: str) -> Sequence[DeviceId]:
    """Add devices, all of `a_profile()`."""
    models.save_profile(tx, a_profile())
    ids = [parse_device_id(name) for name in names]
    for device in ids:
        devices.save_device(tx, Device(id=device, profile=a_profile().name, registered_at=0.0))
    return ids


def add_version(tx: Transaction, name: str) -> Version:
    """Add a version that has no variant."""
    version = Version(
        model=DIGITS,
        name=parse_version_name(name),
        card="{}",
        lineage=a_digest(name),
        created_at=0.0,
    )
    models.save_model(tx, Model(DIGITS, 0.0))
    models.save_version(tx, version)
    return version


def add_built_version(tx: Transaction, blobs: BlobFolder, name: str, data: bytes = b"") -> Bundle:
    """Add a version with a variant for `a_profile()` whose model file is `data`."""
    version = add_version(tx, name)
    bundle = a_bundle_of(data or name.encode() * 1000, key=a_key(), version=version.name)
    for blob in bundle.blobs.values():
        blobs.put(blob)
    variant = Variant(
        model=version.model,
        version=version.name,
        profile=a_profile().name,
        bundle=bundle.digest,
        precision=bundle.manifest.precision,
        size_bytes=len(data),
        report=bundle.manifest.report,
        latency=a_latency(),
        created_at=0.0,
    )
    models.save_profile(tx, a_profile())
    models.save_variant(tx, variant, bundle.envelope)
    return bundle
