"""Tokens, certificates and keys that wait, in the database.

`get_` returns None where there is nothing, `save_` adds or replaces, `list_` is in order.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import col, delete, func, select

from wherry.names import DeviceId, Digest
from wherry_controller.core.identity import Certificate, Decision, Pending, TokenRecord
from wherry_controller.store.convert import get, save, to_record
from wherry_controller.store.database import Transaction
from wherry_controller.store.tables import IdentityRow, PendingRow, TokenRow


def get_token(tx: Transaction, token: str) -> TokenRecord | None:
    return get(tx, TokenRow, token, TokenRecord)


def find_token(tx: Transaction, digest: str) -> TokenRecord | None:
    """Return the token whose secret has this sha256."""
    row = tx.exec(select(TokenRow).where(TokenRow.digest == digest)).one_or_none()
    return None if row is None else to_record(row, TokenRecord)


def save_token(tx: Transaction, token: TokenRecord) -> None:
    save(tx, TokenRow, token)


def list_tokens(tx: Transaction) -> Sequence[TokenRecord]:
    """Return the tokens, the newest first."""
    rows = tx.exec(select(TokenRow).order_by(col(TokenRow.created_at).desc(), col(TokenRow.id)))
    return [to_record(row, TokenRecord) for row in rows]


def tokens_of(tx: Transaction, device: DeviceId) -> Sequence[TokenRecord]:
    rows = tx.exec(select(TokenRow).where(TokenRow.device == device).order_by(col(TokenRow.id)))
    return [to_record(row, TokenRecord) for row in rows]


def save_certificate(tx: Transaction, certificate: Certificate) -> None:
    save(tx, IdentityRow, certificate)


def certificates_of(tx: Transaction, device: DeviceId) -> Sequence[Certificate]:
    """Return every certificate that a device of this name was issued, the oldest first."""
    rows = tx.exec(
        select(IdentityRow).where(IdentityRow.device == device).order_by(col(IdentityRow.issued_at))
    )
    return [to_record(row, Certificate) for row in rows]


def certificates_for(tx: Transaction, csr: Digest) -> Sequence[Certificate]:
    """Return the certificates that a request was answered with, the oldest first."""
    rows = tx.exec(
        select(IdentityRow).where(IdentityRow.csr == csr).order_by(col(IdentityRow.issued_at))
    )
    return [to_record(row, Certificate) for row in rows]


def list_enrolled(tx: Transaction) -> Sequence[DeviceId]:
    """Return the devices that have a certificate which is not revoked."""
    held = select(IdentityRow.device).where(col(IdentityRow.revoked_at).is_(None)).distinct()
    return [DeviceId(device) for device in tx.exec(held.order_by(col(IdentityRow.device)))]


def list_revoked(tx: Transaction, ended_after: float) -> Sequence[Certificate]:
    """Return the certificates that are revoked and ended after a time, or have yet to."""
    rows = tx.exec(
        select(IdentityRow)
        .where(col(IdentityRow.revoked_at).is_not(None), col(IdentityRow.not_after) > ended_after)
        .order_by(col(IdentityRow.serial))
    )
    return [to_record(row, Certificate) for row in rows]


def get_pending(tx: Transaction, fingerprint: Digest) -> Pending | None:
    return get(tx, PendingRow, fingerprint, Pending)


def save_pending(tx: Transaction, pending: Pending) -> None:
    save(tx, PendingRow, pending)


def list_pending(tx: Transaction) -> Sequence[Pending]:
    """Return the keys that wait for a decision, the oldest first."""
    rows = tx.exec(
        select(PendingRow)
        .where(PendingRow.decision == Decision.WAITING.value)
        .order_by(col(PendingRow.asked_at), col(PendingRow.fingerprint))
    )
    return [to_record(row, Pending) for row in rows]


def count_pending(tx: Transaction) -> int:
    """Return how many keys are kept, decided ones too."""
    return tx.exec(select(func.count()).select_from(PendingRow)).one()


def drop_approvals(tx: Transaction, device: DeviceId) -> None:
    """Forget the keys that were approved for a device: whoever has one asks anew."""
    is_approved = col(PendingRow.decision) == Decision.APPROVED.value
    tx.exec(delete(PendingRow).where(is_approved, col(PendingRow.device) == device))


def drop_pending(tx: Transaction, before: float) -> None:
    """Forget the keys that last asked before a time."""
    tx.exec(delete(PendingRow).where(col(PendingRow.seen_at) < before))
