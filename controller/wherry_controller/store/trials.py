"""Trials of candidates on devices, in the database."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec.structs import replace
from sqlmodel import col, select

from wherry.messages import TrialResult
from wherry.names import DeviceId, TrialId
from wherry_controller.store.convert import get, save, to_record
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import TrialRecord
from wherry_controller.store.tables import TrialRow


def get_trial(tx: Transaction, trial: TrialId) -> TrialRecord | None:
    return get(tx, TrialRow, trial, TrialRecord)


def save_trials(tx: Transaction, trials: Collection[TrialRecord]) -> None:
    for trial in trials:
        save(tx, TrialRow, trial)


def trials_of_build(tx: Transaction, build: str) -> Sequence[TrialRecord]:
    """Return a build's trials, the oldest first."""
    rows = tx.exec(
        select(TrialRow)
        .where(TrialRow.build == build)
        .order_by(col(TrialRow.ordered_at), col(TrialRow.id))
    )
    return [to_record(row, TrialRecord) for row in rows]


def open_trials(tx: Transaction) -> Sequence[TrialRecord]:
    """Return the trials of all builds that are neither answered nor withdrawn."""
    rows = tx.exec(select(TrialRow).where(col(TrialRow.ended_at).is_(None)))
    return [to_record(row, TrialRecord) for row in rows]


def take_result(tx: Transaction, device: DeviceId, result: TrialResult, now: float) -> None:
    """Keep the answer to a trial that is open on that device; any other says nothing."""
    trial = get_trial(tx, result.trial)
    if trial is None or trial.device != device or trial.ended_at is not None:
        return
    save(tx, TrialRow, replace(trial, result=result, ended_at=now))
