"""Telemetry as evidence: what a bundle did on a device over a span of time."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from wherry.histogram import merge
from wherry.measures import Feedback
from wherry.messages import Telemetry
from wherry.names import DeviceId, Digest
from wherry_controller.core.gate import Side
from wherry_controller.store import telemetry
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import Window


def window_of(device: DeviceId, said: Telemetry, now: float) -> Window:
    """Return what is kept of a window; times are the controller's, for clocks of devices lie."""
    host = said.host
    return Window(
        device=device,
        store_id=said.store_id,
        seq=said.seq,
        alias=said.alias,
        bundle=said.bundle,
        received_at=now,
        window_s=said.window_s,
        requests=said.requests,
        errors=sum(said.errors.values()),
        latency=said.latency,
        compute=said.compute,
        labelled=said.feedback.labelled,
        right=said.feedback.right,
        sent_bytes=said.traffic.sent_bytes,
        received_bytes=said.traffic.received_bytes,
        host={name: getattr(host, name) for name in host.__struct_fields__},
        error_classes=said.errors,
        feedback=said.feedback,
        inputs=said.inputs,
        outputs=said.outputs,
        shadow=said.shadow,
        worker_bytes=said.worker_bytes,
        restarts=said.restarts,
        dropped_windows=said.dropped_windows,
    )


class Sides:
    """The sides of gates' comparisons, each read on from where the last reading ended.

    A window's time is when this controller took it in, so none comes in behind a reading.
    """

    def __init__(self) -> None:
        self._read: dict[tuple[DeviceId, Digest, float], tuple[float, Side]] = {}

    def candidate(
        self, tx: Transaction, device: DeviceId, bundle: Digest, *, since: float, until: float
    ) -> Side:
        """Return what a bundle did in `since <= t < until`, its compute times window by window."""
        key = (device, bundle, since)
        read_until, side = self._read.get(key, (since, Side()))
        windows = telemetry.list_windows(tx, device, bundle, since=read_until, until=until)
        self._read[key] = (max(read_until, until), _grown(side, windows))
        return self._read[key][1]

    def incumbent(
        self, tx: Transaction, device: DeviceId, bundle: Digest, *, since: float, until: float
    ) -> Side:
        """Return the same with all compute times in one histogram, for they are not judged."""
        side = self.candidate(tx, device, bundle, since=since, until=until)
        whole = replace(side, compute=(merge(side.compute),))
        self._read[device, bundle, since] = (self._read[device, bundle, since][0], whole)
        return whole

    def forget(self) -> None:
        self._read.clear()


def _grown(side: Side, windows: Sequence[Window]) -> Side:
    return Side(
        feedback=Feedback(
            labelled=side.feedback.labelled + sum(window.labelled for window in windows),
            right=side.feedback.right + sum(window.right for window in windows),
        ),
        compute=(*side.compute, *(window.compute for window in windows)),
        shadow=sum((window.shadow for window in windows if window.shadow), side.shadow),
    )
