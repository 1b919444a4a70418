"""Receipts: what devices attest of deployments that they confirmed, verified and kept.

The first one of a deployment is kept, byte for byte as it was signed, so that whoever has the
device's certificate can verify it again. A device may attest twice (it was killed in between), and
its report repeats what its event said: what is known already costs no signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wherry import codec
from wherry.codec import BadDocument
from wherry.messages import Receipt, SignedReceipt
from wherry.names import DeviceId, RolloutName
from wherry_controller.authority import is_signed_by
from wherry_controller.core.identity import Certificate, live_of
from wherry_controller.core.receipt import BadReceipt, check_receipt
from wherry_controller.store import devices, identities, receipts
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import ReceiptRecord

LARGEST_RECEIPT_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class KeptReceipt:
    """A receipt as it was signed, and what it says."""

    signed: SignedReceipt
    says: Receipt
    received_at: float


def take(tx: Transaction, device: DeviceId, signed: SignedReceipt, now: float) -> None:
    """Verify a receipt and keep it, if it is the first of its deployment; raise `BadReceipt`."""
    receipt = _read(device, bytes(signed.signed))
    known = receipts.get_receipt(tx, receipt.deployment)
    if known is not None and known.device == device:
        return
    certificate = _signer(tx, device, signed)
    journey = devices.get_journey(tx, receipt.deployment)
    if journey is None or journey.device != device:
        raise BadReceipt(device, "is of a deployment that it was never ordered")
    check_receipt(
        receipt,
        device,
        epoch=certificate.epoch,
        alias=journey.alias,
        bundle=journey.bundle,
        status=journey.status,
    )
    record = ReceiptRecord(
        deployment=receipt.deployment,
        device=device,
        body=codec.encode(signed).decode(),
        received_at=now,
    )
    receipts.save_receipt(tx, record)


def of_device(tx: Transaction, device: DeviceId) -> Sequence[KeptReceipt]:
    """Return what a device attested, the newest first."""
    return [_kept(record) for record in receipts.receipts_of_device(tx, device)]


def of_rollout(tx: Transaction, rollout: RolloutName) -> Sequence[KeptReceipt]:
    """Return what devices attested of the deployments that a rollout ordered."""
    return [_kept(record) for record in receipts.receipts_of_rollout(tx, rollout)]


def _read(device: DeviceId, data: bytes) -> Receipt:
    try:
        return codec.decode(Receipt, data, limit_bytes=LARGEST_RECEIPT_BYTES)
    except BadDocument as error:
        raise BadReceipt(device, "is none that this release understands") from error


def _signer(tx: Transaction, device: DeviceId, signed: SignedReceipt) -> Certificate:
    """Return the certificate whose key signed a receipt, of those that are not revoked."""
    live = live_of(identities.certificates_of(tx, device))
    for one in live:
        if one.fingerprint == signed.keyid and is_signed_by(
            one.pem, bytes(signed.signed), signed.sig
        ):
            return one
    raise BadReceipt(device, "is not signed by a key of its certificates")


def _kept(record: ReceiptRecord) -> KeptReceipt:
    signed = codec.decode(SignedReceipt, record.body.encode())
    says = codec.decode(Receipt, bytes(signed.signed))
    return KeptReceipt(signed, says, record.received_at)
