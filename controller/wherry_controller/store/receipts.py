"""What devices attested of their deployments, in the database: the first receipt of each."""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import col, select

from wherry.names import DeploymentId, DeviceId, RolloutName
from wherry_controller.store.convert import get, save, to_record
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import ReceiptRecord
from wherry_controller.store.tables import DeploymentRow, ReceiptRow


def get_receipt(tx: Transaction, deployment: DeploymentId) -> ReceiptRecord | None:
    return get(tx, ReceiptRow, deployment, ReceiptRecord)


def save_receipt(tx: Transaction, receipt: ReceiptRecord) -> None:
    save(tx, ReceiptRow, receipt)


def receipts_of_device(tx: Transaction, device: DeviceId) -> Sequence[ReceiptRecord]:
    """Return what a device attested, the newest first."""
    rows = tx.exec(
        select(ReceiptRow)
        .where(ReceiptRow.device == device)
        .order_by(col(ReceiptRow.received_at).desc(), col(ReceiptRow.deployment))
    )
    return [to_record(row, ReceiptRecord) for row in rows]


def receipts_of_rollout(tx: Transaction, rollout: RolloutName) -> Sequence[ReceiptRecord]:
    """Return what devices attested of the deployments that a rollout ordered."""
    rows = tx.exec(
        select(ReceiptRow)
        .join(DeploymentRow, col(DeploymentRow.id) == col(ReceiptRow.deployment))
        .where(DeploymentRow.rollout == rollout)
        .order_by(col(ReceiptRow.deployment))
    )
    return [to_record(row, ReceiptRecord) for row in rows]
