"""Telemetry as evidence: what a bundle did on a device over a span of time."""

from __future__ import annotations

from wherry.messages import Feedback, Telemetry
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
    )


def side_of(
    tx: Transaction, device: DeviceId, bundle: Digest, *, since: float, until: float
) -> Side:
    """Return one side of a gate's comparison: windows that came in `since <= t < until`."""
    windows = telemetry.list_windows(tx, device, bundle, since=since, until=until)
    return Side(
        feedback=Feedback(
            labelled=sum(window.labelled for window in windows),
            right=sum(window.right for window in windows),
        ),
        compute=tuple(window.compute for window in windows),
    )
