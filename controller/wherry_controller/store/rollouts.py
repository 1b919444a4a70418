"""Rollouts in the database: each with its machine's state and unperformed effects in one row."""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import col, select

from wherry.names import RolloutName
from wherry_controller.store.convert import get, save, to_record
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import RolloutRecord
from wherry_controller.store.tables import RolloutRow


def get_rollout(tx: Transaction, name: RolloutName) -> RolloutRecord | None:
    return get(tx, RolloutRow, name, RolloutRecord)


def save_rollout(tx: Transaction, rollout: RolloutRecord) -> None:
    """Add or replace the whole row: state and effects are one write."""
    save(tx, RolloutRow, rollout)


def list_rollouts(tx: Transaction) -> Sequence[RolloutRecord]:
    """Return every rollout, the newest first."""
    rows = tx.exec(select(RolloutRow).order_by(col(RolloutRow.created_at).desc()))
    return [to_record(row, RolloutRecord) for row in rows]


def open_rollouts(tx: Transaction) -> Sequence[RolloutRecord]:
    """Return the rollouts that have not ended, the oldest first."""
    rows = tx.exec(
        select(RolloutRow)
        .where(col(RolloutRow.ended_at).is_(None))
        .order_by(col(RolloutRow.created_at))
    )
    return [to_record(row, RolloutRecord) for row in rows]
