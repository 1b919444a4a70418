"""What devices send, in the database: events with their acknowledgement, windows of telemetry.

Both are idempotent on (device, store, seq) and take any order. An acknowledgement covers what
has no gap below it, counted from `FIRST_SEQ`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec
from sqlalchemy import insert
from sqlmodel import col, select

from wherry.codec import learned
from wherry.histogram import merge
from wherry.measures import Feedback, ShadowCounts, sum_seen
from wherry.messages import Ack
from wherry.names import DeviceId, Digest, StoreId
from wherry_controller.store.convert import columns, to_record
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import EventRecord, SeenRecord, Sums, Window
from wherry_controller.store.tables import AckRow, EventRow, Row, WindowRow

FIRST_SEQ = 1

T = TypeVar("T", EventRecord, Window)


def add_events(tx: Transaction, events: Iterable[EventRecord]) -> dict[DeviceId, list[Ack]]:
    """Add those that are new; return how far each store that was touched is covered now."""
    acks: dict[DeviceId, list[Ack]] = {}
    for (device, store_id), rows in _by_store(events).items():
        known = tx.exec(
            select(EventRow.seq).where(
                EventRow.device == device,
                EventRow.store_id == store_id,
                col(EventRow.seq).in_(rows),
            )
        )
        _insert(tx, EventRow, rows, frozenset(known))
        acks.setdefault(device, []).append(_advance(tx, device, store_id))
    return acks


def has_event(tx: Transaction, device: DeviceId, store_id: StoreId, seq: int) -> bool:
    return tx.get(EventRow, (device, store_id, seq)) is not None


def begin_at(tx: Transaction, device: DeviceId, store_id: StoreId, oldest: int) -> None:
    """Count what is below `oldest` as covered: the device has it no more, and never sends it."""
    if covered(tx, device, store_id).seq < oldest - 1:
        tx.merge(AckRow(device=device, store_id=store_id, seq=oldest - 1))
        tx.flush()


def covered(tx: Transaction, device: DeviceId, store_id: StoreId) -> Ack:
    """Return how far the events of a device's store stand in the database without a gap."""
    row = tx.get(AckRow, (device, store_id))
    return Ack(store_id=store_id, seq=FIRST_SEQ - 1 if row is None else row.seq)


def list_events(tx: Transaction, device: DeviceId, *, limit: int = 100) -> Sequence[EventRecord]:
    """Return the device's newest events, the newest first."""
    rows = tx.exec(
        select(EventRow)
        .where(EventRow.device == device)
        .order_by(col(EventRow.received_at).desc(), col(EventRow.seq).desc())
        .limit(limit)
    )
    return [to_record(row, EventRecord) for row in rows]


def add_windows(tx: Transaction, windows: Iterable[Window]) -> None:
    """Add those that are new."""
    for (device, store_id), rows in _by_store(windows).items():
        known = tx.exec(
            select(WindowRow.seq).where(
                WindowRow.device == device,
                WindowRow.store_id == store_id,
                col(WindowRow.seq).in_(rows),
            )
        )
        _insert(tx, WindowRow, rows, frozenset(known))


def list_windows(
    tx: Transaction, device: DeviceId, bundle: Digest, *, since: float, until: float
) -> Sequence[Window]:
    """Return the windows of a bundle on a device that came in `since <= t < until`, in order."""
    rows = tx.exec(
        select(WindowRow)
        .where(
            WindowRow.device == device,
            WindowRow.bundle == bundle,
            WindowRow.received_at >= since,
            WindowRow.received_at < until,
        )
        .order_by(col(WindowRow.received_at), col(WindowRow.seq))
    )
    return [to_record(row, Window) for row in rows]


def newest_windows(tx: Transaction, device: DeviceId, *, limit: int = 20) -> Sequence[Window]:
    """Return what came last from a device under any alias, the newest first."""
    rows = tx.exec(
        select(WindowRow)
        .where(WindowRow.device == device)
        .order_by(col(WindowRow.received_at).desc(), col(WindowRow.seq).desc())
        .limit(limit)
    )
    return [to_record(row, Window) for row in rows]


def sums(tx: Transaction, device: DeviceId, bundle: Digest, *, since: float, until: float) -> Sums:
    """Return everything that a bundle did on a device in a span of time, added up."""
    return add_up(list_windows(tx, device, bundle, since=since, until=until))


def add_up(rows: Sequence[Window]) -> Sums:
    """Return the windows' counts and histograms, added up; the newest comes first."""
    shadows = [row.shadow for row in rows if row.shadow is not None]
    known_bytes = (row.worker_bytes for row in rows if row.worker_bytes is not None)
    return Sums(
        requests=sum(row.requests for row in rows),
        errors=sum(row.errors for row in rows),
        error_classes=dict(sum((Counter(row.error_classes) for row in rows), Counter[str]())),
        labelled=sum(row.labelled for row in rows),
        right=sum(row.right for row in rows),
        latency=merge([row.latency for row in rows]),
        compute=merge([row.compute for row in rows]),
        feedback=sum((row.feedback for row in rows if row.feedback is not None), Feedback()),
        inputs=sum_seen(row.inputs or () for row in rows),
        outputs=sum_seen(row.outputs or () for row in rows),
        shadow=sum(shadows, ShadowCounts()) if shadows else None,
        restarts=sum(row.restarts or 0 for row in rows),
        worker_bytes=next(known_bytes, None),
    )


def list_seen(tx: Transaction, *, since: float, limit: int) -> Sequence[SeenRecord]:
    """Return what the fleet's windows saw that came since, the newest ones of too many."""
    rows = tx.exec(
        select(
            col(WindowRow.device),
            col(WindowRow.bundle),
            col(WindowRow.inputs),
            col(WindowRow.outputs),
        )
        .where(WindowRow.received_at >= since, col(WindowRow.inputs).is_not(None))
        .order_by(col(WindowRow.received_at).desc())
        .limit(limit)
    )
    fields = ("device", "bundle", "inputs", "outputs")
    return [
        msgspec.convert(dict(zip(fields, row, strict=True)), learned(SeenRecord))
        for row in rows
        if row[2] or row[3]
    ]


def _by_store(records: Iterable[T]) -> dict[tuple[DeviceId, StoreId], dict[int, T]]:
    """Return the records by device and store, each sequence number once."""
    stores: dict[tuple[DeviceId, StoreId], dict[int, T]] = {}
    for record in records:
        stores.setdefault((record.device, record.store_id), {}).setdefault(record.seq, record)
    return stores


def _insert(
    tx: Transaction, kind: type[Row], rows: Mapping[int, msgspec.Struct], known: frozenset[int]
) -> None:
    new = [columns(record) for seq, record in rows.items() if seq not in known]
    if new:
        tx.exec(insert(kind), params=new)


def _advance(tx: Transaction, device: DeviceId, store_id: StoreId) -> Ack:
    reached = covered(tx, device, store_id).seq
    beyond = tx.exec(
        select(EventRow.seq)
        .where(EventRow.device == device, EventRow.store_id == store_id, EventRow.seq > reached)
        .order_by(col(EventRow.seq))
    )
    for seq in beyond:
        if seq != reached + 1:
            break
        reached = seq
    tx.merge(AckRow(device=device, store_id=store_id, seq=reached))
    tx.flush()
    return Ack(store_id=store_id, seq=reached)
