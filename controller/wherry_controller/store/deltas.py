"""Deltas that were tried, in the database; their bytes stand in the blob folder."""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import select

from wherry_controller.store.convert import save, to_record
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import KeptDelta
from wherry_controller.store.tables import DeltaRow


def save_delta(tx: Transaction, delta: KeptDelta) -> None:
    save(tx, DeltaRow, delta)


def list_deltas(tx: Transaction) -> Sequence[KeptDelta]:
    return [to_record(row, KeptDelta) for row in tx.exec(select(DeltaRow))]
