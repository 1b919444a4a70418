"""What a device measured, over HTTP: its newest windows added up by alias and bundle."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from wherry.histogram import quantile_ms
from wherry.names import AliasName, Digest, parse_device_id
from wherry_controller.api.context import Here
from wherry_controller.services.fleet import device_of
from wherry_controller.store import telemetry
from wherry_controller.store.records import Window

router = APIRouter(tags=["devices"])


class Summary(BaseModel):
    """`latency` is from a request's last byte to its answer's first, `compute` the runtime's."""

    alias: str = Field(examples=["default"])
    bundle: str
    windows: int
    since: float = Field(description="When the oldest of these windows came, UNIX seconds")
    until: float
    requests: int
    errors: int
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    compute_p50_ms: float | None
    compute_p99_ms: float | None
    labelled: int
    accuracy: float | None = Field(description="Right answers of those labelled, 0 to 1")


class Telemetry(BaseModel):
    """`host` and the bytes at the sockets to the broker are of the newest window."""

    summaries: list[Summary]
    host: dict[str, float | None]
    sent_bytes: int | None
    received_bytes: int | None


@router.get("/devices/{device}/telemetry", operation_id="get_telemetry")
def get_telemetry(
    here: Here, device: str, windows: Annotated[int, Query(ge=1, le=10_000)] = 360
) -> Telemetry:
    """Add up the newest windows that a device sent, by alias and bundle."""
    with here.store.reading() as tx:
        found = device_of(tx, parse_device_id(device))
        newest = telemetry.newest_windows(tx, found.id, limit=windows)
    last = newest[0] if newest else None
    return Telemetry(
        summaries=[_summary(*key, rows) for key, rows in _grouped(newest).items()],
        host=last.host if last else {},
        sent_bytes=last.sent_bytes if last else None,
        received_bytes=last.received_bytes if last else None,
    )


def _grouped(rows: Sequence[Window]) -> dict[tuple[AliasName, Digest], list[Window]]:
    groups: dict[tuple[AliasName, Digest], list[Window]] = defaultdict(list)
    for row in rows:
        groups[row.alias, row.bundle].append(row)
    return groups


def _summary(alias: AliasName, bundle: Digest, rows: Sequence[Window]) -> Summary:
    sums = telemetry.add_up(rows)
    times = [row.received_at for row in rows]
    return Summary(
        alias=alias,
        bundle=bundle,
        windows=len(rows),
        since=min(times),
        until=max(times),
        requests=sums.requests,
        errors=sums.errors,
        latency_p50_ms=quantile_ms(sums.latency, 0.5),
        latency_p99_ms=quantile_ms(sums.latency, 0.99),
        compute_p50_ms=quantile_ms(sums.compute, 0.5),
        compute_p99_ms=quantile_ms(sums.compute, 0.99),
        labelled=sums.labelled,
        accuracy=sums.right / sums.labelled if sums.labelled else None,
    )
