"""Drift over the fleet: what devices saw lately against what their bundles were judged by.

A bundle is of one profile, so what its devices saw, added up, is the profile's view of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from wherry.errors import REFUSALS
from wherry.manifest import REFERENCE_FILE, Manifest
from wherry.measures import Seen, sum_seen
from wherry.names import DeviceId, Digest, ProfileName
from wherry.reference import Distribution, Reference, parse_reference
from wherry_controller.core.drift import Drift, DriftLevel, drifts_of, worst_of
from wherry_controller.services.shelving import manifest_in
from wherry_controller.store import models, telemetry
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import SeenRecord

MOST_WINDOWS = 20_000


@dataclass(frozen=True, slots=True)
class DeviceDrift:
    """How one device's view of a bundle is; `rows` were looked at."""

    device: DeviceId
    level: DriftLevel
    rows: int


@dataclass(frozen=True, slots=True)
class BundleDrift:
    """What all devices of a bundle saw, and how each of them stands, the worst first."""

    bundle: Digest
    manifest: Manifest
    inputs: tuple[Drift, ...]
    outputs: tuple[Drift, ...]
    devices: tuple[DeviceDrift, ...]


def reference_of(tx: Transaction, blobs: BlobFolder, bundle: Digest) -> Reference | None:
    """Return what a bundle was judged by; None where it holds no reference that can be read."""
    envelope = models.get_envelope(tx, bundle)
    return None if envelope is None else _reference_in(blobs, manifest_in(envelope))


def drift_over_fleet(
    tx: Transaction, blobs: BlobFolder, *, since: float, profile: ProfileName | None = None
) -> Sequence[BundleDrift]:
    """Return the drift of each bundle that devices looked at since, of one profile or of all."""
    found: list[BundleDrift] = []
    seen = telemetry.list_seen(tx, since=since, limit=MOST_WINDOWS)
    for bundle, records in sorted(_by_bundle(seen).items()):
        envelope = models.get_envelope(tx, bundle)
        if envelope is None:
            continue
        manifest = manifest_in(envelope)
        reference = _reference_in(blobs, manifest)
        if reference is not None and profile in (None, manifest.profile.name):
            found.append(_drift_of_bundle(bundle, manifest, reference, records))
    return found


def _drift_of_bundle(
    bundle: Digest, manifest: Manifest, reference: Reference, records: Sequence[SeenRecord]
) -> BundleDrift:
    by_device: dict[DeviceId, list[SeenRecord]] = {}
    for record in records:
        by_device.setdefault(record.device, []).append(record)
    inputs, outputs = _drifts(reference, records)
    ranks = list(DriftLevel)
    devices = (_drift_of_device(device, reference, theirs) for device, theirs in by_device.items())
    return BundleDrift(
        bundle,
        manifest,
        inputs,
        outputs,
        tuple(sorted(devices, key=lambda one: (-ranks.index(one.level), one.device))),
    )


def _drift_of_device(
    device: DeviceId, reference: Reference, records: Sequence[SeenRecord]
) -> DeviceDrift:
    drifts = sum(_drifts(reference, records), ())
    rows = max((one.rows for one in drifts), default=0)
    return DeviceDrift(device, worst_of(drifts) or DriftLevel.TOO_FEW, rows)


def _drifts(
    reference: Reference, records: Sequence[SeenRecord]
) -> tuple[tuple[Drift, ...], tuple[Drift, ...]]:
    inputs = sum_seen(_known(reference.inputs, record.inputs) for record in records)
    outputs = sum_seen(_known(reference.outputs, record.outputs) for record in records)
    return drifts_of(reference, inputs, outputs)


def _known(references: Sequence[Distribution], seen: Iterable[Seen]) -> tuple[Seen, ...]:
    """Leave out what one device counted in other bins: it would spoil the sum of all."""
    bins = {one.name: (len(one.counts), len(one.classes)) for one in references}
    return tuple(
        one
        for one in seen
        if one.name in bins
        and len(one.counts) == bins[one.name][0]
        and len(one.classes) in (0, bins[one.name][1])
    )


def _by_bundle(records: Iterable[SeenRecord]) -> Mapping[Digest, Sequence[SeenRecord]]:
    groups: dict[Digest, list[SeenRecord]] = {}
    for record in records:
        groups.setdefault(record.bundle, []).append(record)
    return groups


def _reference_in(blobs: BlobFolder, manifest: Manifest) -> Reference | None:
    blob = manifest.files.get(REFERENCE_FILE)
    if blob is None:
        return None
    try:
        return parse_reference(blobs.get(blob.digest))
    except REFUSALS:
        return None
