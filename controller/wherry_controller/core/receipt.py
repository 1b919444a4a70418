"""What makes a receipt one of the deployment that it names.

A receipt is the device's own word on what it runs, signed by the key of a certificate that it was
issued. It is believed of that device and that enrolment, and of what was ordered there: the rest
of it are figures that nobody else could have measured.
"""

from __future__ import annotations

from wherry.errors import Untrusted
from wherry.messages import Receipt
from wherry.names import AliasName, DeviceId, Digest
from wherry.reasons import Status

ENDED_BADLY = (Status.REJECTED, Status.FAILED, Status.REVERTED, Status.TIMED_OUT)


class BadReceipt(Untrusted):
    """A receipt that is not what its device was ordered and could attest."""

    def __init__(self, device: str, problem: str) -> None:
        super().__init__(device, problem)
        self.device, self.problem = device, problem

    def __str__(self) -> str:
        return (
            f"the receipt of {self.device} {self.problem}: look at `wherry device show "
            f"{self.device}`, and revoke the device if its key is in other hands."
        )


def check_receipt(
    receipt: Receipt,
    device: DeviceId,
    *,
    epoch: int,
    alias: AliasName,
    bundle: Digest,
    status: Status,
) -> None:
    """Raise `BadReceipt` where a receipt tells of another thing than `device` was ordered.

    `epoch` is of the certificate whose key signed it; alias, bundle and status are as the
    controller knows the deployment.
    """
    if receipt.device != device:
        raise BadReceipt(device, "is of another device")
    if receipt.epoch != epoch:
        raise BadReceipt(device, "is of another enrolment than the key that signed it")
    if receipt.alias != alias:
        raise BadReceipt(device, "names another alias than was ordered")
    if receipt.bundle != bundle:
        raise BadReceipt(device, "names another bundle than was ordered")
    if status in ENDED_BADLY:
        raise BadReceipt(device, "is of a deployment that the device did not keep")
