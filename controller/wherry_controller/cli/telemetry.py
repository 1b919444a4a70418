"""What devices measured, on the command line: one device's windows, and the fleet's drift."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec
import typer

from wherry_controller.cli import show
from wherry_controller.cli.remote import connect
from wherry_controller.cli.replies import read

MOST_DEVICES = 10  # In a table of drift; --json has them all.

Id = Annotated[str, typer.Argument(metavar="DEVICE")]


class TensorDrift(msgspec.Struct, frozen=True):
    tensor: str
    level: str
    rows: int
    psi: float | None
    noise: float | None
    classes_psi: float | None
    not_finite: float


class Shadowing(msgspec.Struct, frozen=True):
    requests: int
    rows: int
    agreement: float | None
    distance: float | None
    compute_p50_ms: float | None
    incumbent_compute_p50_ms: float | None
    skipped: dict[str, int]


class Summary(msgspec.Struct, frozen=True):
    alias: str
    bundle: str
    windows: int
    since: float
    until: float
    requests: int
    errors: int
    error_classes: dict[str, int]
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    compute_p50_ms: float | None
    compute_p99_ms: float | None
    labelled: int
    accuracy: float | None
    f1: float | None
    mean_absolute_error: float | None
    worker_bytes: int | None
    restarts: int
    shadow: Shadowing | None
    inputs: tuple[TensorDrift, ...]
    outputs: tuple[TensorDrift, ...]


class Telemetry(msgspec.Struct, frozen=True):
    summaries: tuple[Summary, ...]
    host: dict[str, float | bool | None]
    dropped_windows: int | None


class DeviceDrift(msgspec.Struct, frozen=True):
    device: str
    level: str
    rows: int


class BundleDrift(msgspec.Struct, frozen=True):
    model: str
    version: str
    profile: str
    bundle: str
    inputs: tuple[TensorDrift, ...]
    outputs: tuple[TensorDrift, ...]
    devices: tuple[DeviceDrift, ...]


def show_telemetry(
    device: Id,
    *,
    windows: Annotated[
        int, typer.Option("--windows", min=1, max=10_000, help="How many of the newest.")
    ] = 360,
    json: show.Json = False,
) -> None:
    """Show what a device measured lately: requests, errors, times, drift, and the machine."""
    body = connect().get(f"/devices/{device}/telemetry", windows=windows)
    if json:
        show.raw(body)
        return
    told = read(Telemetry, body)
    if not told.summaries:
        show.line(f"{device} has told nothing yet: its first window comes after its first request.")
        return
    for summary in told.summaries:
        show.facts(_facts_of(summary))
        _show_drifts(summary.inputs, summary.outputs)
        show.line("")
    show.facts(_host(told))


def show_drift(
    *,
    profile: Annotated[
        str | None, typer.Option("--profile", "-p", help="Only bundles of this hardware class.")
    ] = None,
    hours: Annotated[float, typer.Option("--hours", help="How far to look back.")] = 24.0,
    json: show.Json = False,
) -> None:
    """Show how far what devices see is from what their bundles were judged by."""
    body = connect().get("/drift", profile=profile, hours=hours)
    if json:
        show.raw(body)
        return
    found = read(tuple[BundleDrift, ...], body)
    for one in found:
        show.line(f"{one.model}:{one.version} on {one.profile} ({show.short(one.bundle)})")
        _show_drifts(one.inputs, one.outputs)
        rows = [(each.device, each.level, str(each.rows)) for each in one.devices[:MOST_DEVICES]]
        show.table(("device", "level", "rows"), rows)
        show.line("")
    if not found:
        show.line(f"no device looked at anything in {hours:g} h: its bundle holds no reference,")
        show.line("or its agent looks at nothing (seen_share in [telemetry] of agent.toml).")


def _facts_of(one: Summary) -> list[tuple[str, str]]:
    classes = ", ".join(f"{name} {count}" for name, count in sorted(one.error_classes.items()))
    return [
        ("alias", one.alias),
        ("bundle", show.short(one.bundle)),
        ("windows", f"{one.windows}, {show.moment(one.since)} to {show.moment(one.until)}"),
        ("requests", f"{one.requests}, {one.errors} failed{f' ({classes})' if classes else ''}"),
        ("latency", _times(one.latency_p50_ms, one.latency_p99_ms)),
        ("compute", _times(one.compute_p50_ms, one.compute_p99_ms)),
        ("labelled", str(one.labelled or "")),
        ("accuracy", show.share(one.accuracy)),
        ("F1", show.share(one.f1)),
        ("mean error", show.share(one.mean_absolute_error)),
        ("worker", "" if one.worker_bytes is None else show.size(one.worker_bytes)),
        ("restarts", str(one.restarts or "")),
        ("shadow", "" if one.shadow is None else _shadow(one.shadow)),
    ]


def _shadow(one: Shadowing) -> str:
    skipped = ", ".join(f"{cause} {count}" for cause, count in sorted(one.skipped.items()))
    return (
        f"{one.requests} requests, agreement {show.share(one.agreement) or 'unknown'}, "
        f"distance {show.share(one.distance) or 'unknown'}, "
        f"{show.milliseconds(one.compute_p50_ms) or '-'} ms against "
        f"{show.milliseconds(one.incumbent_compute_p50_ms) or '-'} ms (medians)"
        f"{f', skipped: {skipped}' if skipped else ''}"
    )


def _times(p50_ms: float | None, p99_ms: float | None) -> str:
    if p50_ms is None or p99_ms is None:
        return ""
    return f"p50 {show.milliseconds(p50_ms)} ms, p99 {show.milliseconds(p99_ms)} ms"


def _host(told: Telemetry) -> Iterator[tuple[str, str]]:
    for name, value in told.host.items():
        match value:
            case None:
                pass
            case bool():
                yield name, "yes" if value else "no"
            case _:
                yield name, show.size(int(value)) if name.endswith("_bytes") else f"{value:g}"
    yield "windows lost", str(told.dropped_windows or "")


def _show_drifts(inputs: tuple[TensorDrift, ...], outputs: tuple[TensorDrift, ...]) -> None:
    rows = [
        (
            side,
            one.tensor,
            one.level,
            str(one.rows),
            show.share(one.psi),
            show.share(one.noise),
            show.share(one.classes_psi),
            show.share(one.not_finite),
        )
        for side, tensors in (("input", inputs), ("output", outputs))
        for one in tensors
    ]
    if rows:
        columns = ("side", "tensor", "drift", "rows", "PSI", "noise", "PSI of classes", "no number")
        show.table(columns, rows)
