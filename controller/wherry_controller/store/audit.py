"""The audit log in the database: it grows, and nothing else (triggers see to that)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlmodel import col, select

from wherry import codec
from wherry.names import Digest
from wherry_controller.core.audit import ORIGIN, Entry, digest_of_entry
from wherry_controller.store.database import Transaction, take_turn
from wherry_controller.store.tables import AuditRow


def last_of_audit(tx: Transaction) -> tuple[int, Digest]:
    """Return the number and digest of the last entry; in a writing transaction nobody adds one."""
    take_turn(tx, "audit")
    row = tx.exec(select(AuditRow).order_by(col(AuditRow.seq).desc()).limit(1)).first()
    return (0, ORIGIN) if row is None else (row.seq, Digest(row.digest))


def add_entries(tx: Transaction, entries: Iterable[Entry]) -> None:
    """Add entries that follow from the last one."""
    tx.add_all(
        AuditRow(
            seq=entry.seq,
            kind=entry.kind,
            body=codec.encode(entry).decode(),
            digest=digest_of_entry(entry),
        )
        for entry in entries
    )
    tx.flush()


def list_entries(tx: Transaction, *, after: int = 0, limit: int = 1000) -> Sequence[str]:
    """Return entries as they were written, the oldest first."""
    rows = select(AuditRow.body).where(col(AuditRow.seq) > after).order_by(col(AuditRow.seq))
    return tx.exec(rows.limit(limit)).all()


def newest_entries(tx: Transaction, *, kind: str | None = None, limit: int = 100) -> Sequence[str]:
    """Return the newest entries as they were written, of one kind or of all, the newest first."""
    rows = select(AuditRow.body).order_by(col(AuditRow.seq).desc()).limit(limit)
    return tx.exec(rows if kind is None else rows.where(AuditRow.kind == kind)).all()
