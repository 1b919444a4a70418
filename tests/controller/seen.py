"""Bundles with a reference, and devices that saw something like it or something else."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from tests.builders import (
    INPUT_BYTES,
    MODEL_BYTES,
    OUTPUT_BYTES,
    a_blob,
    a_key,
    a_manifest,
    a_profile,
    a_telemetry,
)
from wherry import codec
from wherry.blobs import digest_of
from wherry.bundle import Bundle, seal
from wherry.manifest import MODEL_FILE, REFERENCE_FILE
from wherry.measures import Seen
from wherry.names import DeviceId, parse_profile_name
from wherry.reference import Distribution, Reference
from wherry_controller.services.telemetry import window_of
from wherry_controller.store import models, telemetry
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.database import Transaction

REFERENCE = Reference(
    inputs=(
        Distribution(
            name="image",
            rows=1000,
            edges=(0.0, 1.0),
            counts=(300, 400, 300),
            zeros=0.0,
            not_finite=0.0,
        ),
    ),
    outputs=(),
)
LIKE, UNLIKE = (310, 380, 310), (0, 0, 1000)


def a_referenced_bundle(profile: str = "pi", reference: bytes = codec.encode(REFERENCE)) -> Bundle:
    """Return a bundle for a profile that holds `reference`."""
    blobs = {digest_of(part): part for part in (INPUT_BYTES, OUTPUT_BYTES, MODEL_BYTES, reference)}
    manifest = a_manifest(
        profile=a_profile(name=parse_profile_name(profile)),
        files={MODEL_FILE: a_blob(MODEL_BYTES), REFERENCE_FILE: a_blob(reference)},
    )
    return seal(manifest, blobs, a_key())


def keep(tx: Transaction, blobs: BlobFolder, *bundles: Bundle) -> None:
    for bundle in bundles:
        models.save_bundle(tx, bundle.digest, bundle.envelope)
        for data in bundle.blobs.values():
            blobs.put(data)


def a_look(counts: tuple[int, ...]) -> Seen:
    rows = sum(counts)
    return Seen(name="image", rows=rows, values=rows, counts=counts, zeros=0, not_finite=0)


def tell(
    tx: Transaction, bundle: Bundle, looks: Mapping[DeviceId, tuple[int, ...]], *, at: float = 50.0
) -> None:
    """Let each device send a window in which it saw so many values a bin."""
    windows = [
        window_of(
            device,
            replace(a_telemetry(bundle=bundle.digest, seq=round(at)), inputs=(a_look(counts),)),
            at,
        )
        for device, counts in looks.items()
    ]
    telemetry.add_windows(tx, windows)
