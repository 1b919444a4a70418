"""Rollouts in the database: each with its machine's state and unperformed effects in one row."""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import col, select

from wherry.names import RolloutName
from wherry_controller.store.convert import add, replace, to_record
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import RolloutRecord
from wherry_controller.store.refusals import Taken, Unknown
from wherry_controller.store.tables import RolloutRow


def add_rollout(tx: Transaction, rollout: RolloutRecord) -> None:
    """Add a rollout; raise `Taken`."""
    if tx.get(RolloutRow, rollout.name) is not None:
        raise Taken("rollout", rollout.name)
    add(tx, RolloutRow, rollout)


def save_rollout(tx: Transaction, rollout: RolloutRecord) -> None:
    """Replace the whole row, state and effects in one write; raise `Unknown`."""
    replace(_row(tx, rollout.name), rollout)


def get_rollout(tx: Transaction, name: RolloutName) -> RolloutRecord:
    """Return a rollout; raise `Unknown`."""
    return to_record(_row(tx, name), RolloutRecord)


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


def _row(tx: Transaction, name: RolloutName) -> RolloutRow:
    row = tx.get(RolloutRow, name)
    if row is None:
        raise Unknown("rollout", name)
    return row
