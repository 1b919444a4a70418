"""What devices measured, over HTTP: one device's newest windows added up, and the fleet's drift."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from wherry.histogram import quantile_ms
from wherry.measures import Feedback, ShadowCounts, macro_f1
from wherry.names import AliasName, Digest, parse_device_id, parse_profile_name
from wherry_controller.api.context import Context, Here
from wherry_controller.core.drift import Drift, DriftLevel, drifts_of, worst_of
from wherry_controller.services import drift
from wherry_controller.services.fleet import device_of
from wherry_controller.store import telemetry
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import Sums, Window

router = APIRouter(tags=["devices"])

HOUR_S = 3600.0


class TensorDrift(BaseModel):
    """One tensor against the bundle's reference, by the population stability index (PSI).

    `noise` is what 95 of 100 samples of so few rows stay below where nothing has changed.
    """

    model_config = ConfigDict(from_attributes=True)

    tensor: str
    level: DriftLevel
    rows: int = Field(description="Rows that the device looked at")
    psi: float | None = Field(description="Of the values; 0.1 is a shift, 0.25 a large one")
    noise: float | None
    classes_psi: float | None = Field(description="Of the answers' classes")
    classes_noise: float | None
    zeros: float = Field(description="Share of the values")
    reference_zeros: float
    not_finite: float = Field(description="Share of the values that are NaN or infinite")
    reference_not_finite: float


class Shadowing(BaseModel):
    """What a candidate gave for copies of requests, beside the incumbent that answered them.

    `distance` is the mean over rows, relative to the norm of the incumbent's outputs.
    """

    requests: int
    rows: int
    agreement: float | None
    distance: float | None
    largest_distance: float
    compute_p50_ms: float | None
    compute_p99_ms: float | None
    incumbent_compute_p50_ms: float | None
    incumbent_compute_p99_ms: float | None
    errors: dict[str, int]
    skipped: dict[str, int]


class Summary(BaseModel):
    """`latency` is from a request's last byte to its answer's first, `compute` the runtime's."""

    alias: str = Field(examples=["default"])
    bundle: str
    windows: int
    since: float = Field(description="When the oldest of these windows came, UNIX seconds")
    until: float
    requests: int
    errors: int
    error_classes: dict[str, int]
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    compute_p50_ms: float | None
    compute_p99_ms: float | None
    labelled: int
    accuracy: float | None = Field(description="Right answers of those labelled, 0 to 1")
    f1: float | None = Field(description="Macro F1 of those labelled, 0 to 1")
    mean_absolute_error: float | None = Field(description="Where the model gives numbers")
    root_mean_squared_error: float | None
    worker_bytes: int | None
    restarts: int = Field(description="Of the worker, after it had died")
    shadow: Shadowing | None
    drift: DriftLevel | None = Field(description="The worst tensor's; none: nothing was looked at")
    inputs: list[TensorDrift]
    outputs: list[TensorDrift]


class Telemetry(BaseModel):
    """`host`, lost windows and the bytes at the sockets to the broker are of the newest window."""

    summaries: list[Summary]
    host: dict[str, float | bool | None]
    sent_bytes: int | None
    received_bytes: int | None
    dropped_windows: int | None


class DeviceDrift(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    device: str
    level: DriftLevel
    rows: int


class BundleDrift(BaseModel):
    """What all devices of a bundle saw, added up, and each of them, the worst first."""

    model: str
    version: str
    profile: str
    bundle: str
    drift: DriftLevel | None
    inputs: list[TensorDrift]
    outputs: list[TensorDrift]
    devices: list[DeviceDrift]


@router.get("/devices/{device}/telemetry", operation_id="get_telemetry")
def get_telemetry(
    here: Here, device: str, windows: Annotated[int, Query(ge=1, le=10_000)] = 360
) -> Telemetry:
    """Add up the newest windows that a device sent, by alias and bundle."""
    with here.store.reading() as tx:
        found = device_of(tx, parse_device_id(device))
        newest = telemetry.newest_windows(tx, found.id, limit=windows)
        groups = _grouped(newest).items()
        summaries = [_summary(here, tx, *key, rows) for key, rows in groups]
    last = newest[0] if newest else None
    return Telemetry(
        summaries=summaries,
        host=last.host if last else {},
        sent_bytes=last.sent_bytes if last else None,
        received_bytes=last.received_bytes if last else None,
        dropped_windows=last.dropped_windows if last else None,
    )


@router.get("/drift", operation_id="get_drift")
def get_drift(
    here: Here,
    profile: Annotated[str | None, Query(description="Only bundles of this profile")] = None,
    hours: Annotated[float, Query(gt=0, le=24 * 366)] = 24,
) -> list[BundleDrift]:
    """Say how far what devices see lately is from what their bundles were judged by."""
    since = here.clock() - hours * HOUR_S
    wanted = None if profile is None else parse_profile_name(profile)
    with here.store.reading() as tx:
        found = drift.drift_over_fleet(tx, here.blobs, since=since, profile=wanted)
    return [_bundle_drift(one) for one in found]


def _bundle_drift(found: drift.BundleDrift) -> BundleDrift:
    return BundleDrift(
        model=found.manifest.model,
        version=found.manifest.version,
        profile=found.manifest.profile.name,
        bundle=found.bundle,
        drift=worst_of((*found.inputs, *found.outputs)),
        inputs=_tensors(found.inputs),
        outputs=_tensors(found.outputs),
        devices=[DeviceDrift.model_validate(one) for one in found.devices],
    )


def _tensors(drifts: Iterable[Drift]) -> list[TensorDrift]:
    return [TensorDrift.model_validate(one) for one in drifts]


def _grouped(rows: Sequence[Window]) -> dict[tuple[AliasName, Digest], list[Window]]:
    groups: dict[tuple[AliasName, Digest], list[Window]] = defaultdict(list)
    for row in rows:
        groups[row.alias, row.bundle].append(row)
    return groups


def _summary(
    here: Context, tx: Transaction, alias: AliasName, bundle: Digest, rows: Sequence[Window]
) -> Summary:
    sums = telemetry.add_up(rows)
    times = [row.received_at for row in rows]
    inputs, outputs = _drifts(here, tx, bundle, sums)
    return Summary(
        alias=alias,
        bundle=bundle,
        windows=len(rows),
        since=min(times),
        until=max(times),
        requests=sums.requests,
        errors=sums.errors,
        error_classes=sums.error_classes,
        latency_p50_ms=quantile_ms(sums.latency, 0.5),
        latency_p99_ms=quantile_ms(sums.latency, 0.99),
        compute_p50_ms=quantile_ms(sums.compute, 0.5),
        compute_p99_ms=quantile_ms(sums.compute, 0.99),
        labelled=sums.labelled,
        accuracy=_share(sums.right, sums.labelled),
        f1=macro_f1(sums.feedback),
        mean_absolute_error=_share(sums.feedback.absolute_error, sums.feedback.values),
        root_mean_squared_error=_root_mean_square(sums.feedback),
        worker_bytes=sums.worker_bytes,
        restarts=sums.restarts,
        shadow=None if sums.shadow is None else _shadowing(sums.shadow),
        drift=worst_of((*inputs, *outputs)),
        inputs=_tensors(inputs),
        outputs=_tensors(outputs),
    )


def _drifts(
    here: Context, tx: Transaction, bundle: Digest, sums: Sums
) -> tuple[tuple[Drift, ...], tuple[Drift, ...]]:
    if not (sums.inputs or sums.outputs):
        return (), ()
    reference = drift.reference_of(tx, here.blobs, bundle)
    return ((), ()) if reference is None else drifts_of(reference, sums.inputs, sums.outputs)


def _shadowing(counts: ShadowCounts) -> Shadowing:
    return Shadowing(
        requests=counts.requests,
        rows=counts.rows,
        agreement=_share(counts.agreed, counts.rows),
        distance=_share(counts.distance, counts.rows),
        largest_distance=counts.largest_distance,
        compute_p50_ms=quantile_ms(counts.compute, 0.5),
        compute_p99_ms=quantile_ms(counts.compute, 0.99),
        incumbent_compute_p50_ms=quantile_ms(counts.incumbent_compute, 0.5),
        incumbent_compute_p99_ms=quantile_ms(counts.incumbent_compute, 0.99),
        errors=counts.errors,
        skipped=counts.skipped,
    )


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def _root_mean_square(feedback: Feedback) -> float | None:
    mean = _share(feedback.squared_error, feedback.values)
    return None if mean is None else mean**0.5
