"""The identities of devices: tokens and approvals in, certificates out, and their revocation.

What is decided is in `core.identity`. Each step is one transaction with its line in the audit log;
what must be told follows it (the list of revoked certificates, the broker's rights, the orders of
a new epoch) and may be told twice. A refusal that concerns a device or a token of this controller
is audited too; what strangers try is logged, so that they cannot fill the log that is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import msgspec
from msgspec.structs import replace

from wherry.enrolment import Enrolled, Renewal, Waiting
from wherry.errors import Unsuitable, Untrusted
from wherry.names import DeviceId
from wherry_controller.authority import (
    Authority,
    Request,
    ca_fingerprint,
    certificate_pem,
    is_signed_by,
    issue_client,
)
from wherry_controller.core import identity as core
from wherry_controller.core.audit import Kind
from wherry_controller.core.identity import Certificate
from wherry_controller.services import audit
from wherry_controller.services.admission import Admission, Asked, Policy
from wherry_controller.services.crl import Revocations
from wherry_controller.services.fleet import device_of
from wherry_controller.store import devices, identities
from wherry_controller.store.database import Store, Transaction

log = logging.getLogger(__name__)


class NeverEnrolled(Unsuitable):
    """A device without any identity to revoke."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self.device = device

    def __str__(self) -> str:
        return f"{self.device} has no identity to revoke: see `wherry device list`."


class BrokerRights(Protocol):
    """Who may do what on the broker."""

    def grant(self, device: DeviceId) -> None:
        """Let a device connect as itself; twice is the same as once."""

    def revoke(self, device: DeviceId) -> None:
        """Let a device connect no more, and end its live sessions."""


class OpenBroker:
    """A broker without TLS, the embedded one or another: it checks nobody, and cuts nobody off."""

    def grant(self, device: DeviceId) -> None:
        pass

    def revoke(self, device: DeviceId) -> None:
        pass


STRANGERS = (core.UnknownToken, core.UnknownCertificate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where an enrolled device finds the broker and the door to blobs."""

    broker: str
    fetch_broker: str | None = None
    blobs: str | None = None


class Identities:
    """The identities of this controller's devices; one thread calls it."""

    def __init__(
        self,
        store: Store,
        authority: Authority,
        revocations: Revocations,
        *,
        rights: BrokerRights,
        root: Callable[[Transaction], bytes],
        places: Places,
        policy: Policy,
    ) -> None:
        self._store = store
        self._authority = authority
        self._revocations = revocations
        self._rights = rights
        self._root = root
        self._places = places
        self._policy = policy
        ca = ca_fingerprint(authority)
        self.admission = Admission(store, ca=ca, policy=policy)

    # Enrolling

    def enrol(self, asked: Asked, *, now: float) -> Enrolled | Waiting:
        """Certify a device's key, or say that an operator is to approve it.

        The name is the token's or the approval's. The same request gets the same certificate.
        Raises the refusals of `core.identity`, `TooManyPending` and `UnknownDevice`.
        """
        revoked: tuple[Certificate, ...] = ()
        with (
            self._auditing_refusals({"address": asked.address}, now) as facts,
            self._store.transaction() as tx,
        ):
            named = self.admission.find_name(tx, asked, facts, now)
            if named is None:
                return Waiting(fingerprint=asked.request.fingerprint, poll_s=self._policy.poll_s)
            known = _answered(tx, asked.request, named)
            if known is None:
                known, revoked = self._enrol(tx, named, asked.request, facts, now)
            answer = self._answer(tx, known, now)
        if revoked:
            self._cut_off(named, now)
        self._rights.grant(named)  # Also for a request that came again: the first may have died.
        return answer

    def renew(
        self, renewal: Renewal, data: bytes, signature: str, request: Request, *, now: float
    ) -> Enrolled:
        """Certify a new key of a device, by proof of the old one; `data` is what was signed.

        The epoch stays. Raises the refusals of `core.identity`.
        """
        facts = {"device": renewal.device, "serial": renewal.serial}
        with self._auditing_refusals(facts, now), self._store.transaction() as tx:
            held = identities.certificates_of(tx, renewal.device)
            old = core.certificate_in(held, renewal.device, renewal.serial)
            if not is_signed_by(old.pem, data, signature):
                raise core.BadProof(renewal.device, "is not signed by that key")
            grace_s = self._policy.renew_grace_s
            core.judge_renewal(held, old, at=renewal.at, now=now, grace_s=grace_s)
            known = _answered(tx, request, renewal.device)
            if known is not None:
                return self._answer(tx, known, now)
            lost = core.replaced_by_renewal(held, old)
            _revoke(tx, lost, now)
            made = self._certify(tx, renewal.device, request, epoch=old.epoch, now=now, renews=old)
            audit.note(tx, Kind.RENEWED, _facts_of(made) | {"renews": old.serial}, now)
            answer = self._answer(tx, made, now)
        if lost:
            self._revocations.issue(now)
        return answer

    # Approving and revoking

    def revoke(self, device: DeviceId, *, now: float) -> int:
        """Revoke a device's certificates, tokens and approvals and cut it off.

        Returns how many certificates it had.

        Raises `NeverEnrolled`. Twice is the same as once: it is cut off again.
        """
        with self._store.transaction() as tx:
            held = identities.certificates_of(tx, device)
            if not held:
                raise NeverEnrolled(device)
            live = core.live_of(held)
            _revoke(tx, live, now)
            self.admission.withdraw(tx, device, now)
            serials = " ".join(one.serial for one in live)
            audit.note(tx, Kind.REVOKED, {"device": device, "serials": serials}, now)
            _note_offline(tx, device)  # Its will has no rights by then.
        self._cut_off(device, now)
        return len(live)

    def forget(self, device: DeviceId, *, now: float) -> None:
        """Revoke what a removed device may still have."""
        try:
            self.revoke(device, now=now)
        except NeverEnrolled:
            with self._store.transaction() as tx:
                self.admission.withdraw(tx, device, now)
            self._rights.revoke(device)

    def tick(self, now: float) -> None:
        """Issue the daily list of revoked certificates."""
        self._revocations.tick(now)

    # Within a transaction

    def _enrol(
        self,
        tx: Transaction,
        device: DeviceId,
        request: Request,
        facts: Mapping[str, str],
        now: float,
    ) -> tuple[Certificate, tuple[Certificate, ...]]:
        """Give a device its one live identity; return it, and what it revoked."""
        record = device_of(tx, device)
        held = identities.certificates_of(tx, device)
        revoked = core.live_of(held)
        _revoke(tx, revoked, now)
        epoch = max(core.next_epoch(held), record.epoch + 1)
        made = self._certify(tx, device, request, epoch=epoch, now=now, renews=None)
        devices.save_device(tx, replace(record, epoch=epoch, flagged=None, earlier={}))
        audit.note(tx, Kind.ENROLLED, {**facts, **_facts_of(made)}, now)
        return made, revoked

    def _certify(
        self,
        tx: Transaction,
        device: DeviceId,
        request: Request,
        *,
        epoch: int,
        now: float,
        renews: Certificate | None,
    ) -> Certificate:
        lifetime_s = self._policy.certificate_s
        issued = issue_client(
            self._authority, device, request.public, now=now, lifetime_s=lifetime_s
        )
        made = Certificate(
            serial=issued.serial,
            device=device,
            epoch=epoch,
            csr=request.digest,
            fingerprint=request.fingerprint,
            pem=issued.pem,
            not_before=issued.not_before,
            not_after=issued.not_after,
            issued_at=now,
            renews=renews.serial if renews else None,
        )
        identities.save_certificate(tx, made)
        return made

    def _answer(self, tx: Transaction, certificate: Certificate, now: float) -> Enrolled:
        return Enrolled(
            device=certificate.device,
            profile=device_of(tx, certificate.device).profile,
            epoch=certificate.epoch,
            serial=certificate.serial,
            not_before=certificate.not_before,
            not_after=certificate.not_after,
            at=now,
            certificate=certificate.pem,
            ca=certificate_pem(self._authority).decode(),
            root=msgspec.Raw(self._root(tx)),
            broker=self._places.broker,
            fetch_broker=self._places.fetch_broker,
            blobs=self._places.blobs,
        )

    # Telling

    @contextmanager
    def _auditing_refusals(self, facts: Mapping[str, str], now: float) -> Iterator[dict[str, str]]:
        """Audit what a block refuses, after its transaction is gone; give it facts to add to."""
        known = dict(facts)
        try:
            yield known
        except Untrusted as error:
            known["reason"] = type(error).__name__
            log.warning("identity.refused", extra=known)
            if not isinstance(error, STRANGERS):
                with self._store.transaction() as tx:
                    audit.note(tx, Kind.REFUSED, known, now)
            raise

    def _cut_off(self, device: DeviceId, now: float) -> None:
        self._revocations.issue(now)
        self._rights.revoke(device)


def _answered(tx: Transaction, request: Request, device: DeviceId) -> Certificate | None:
    """Return the certificate that this request was answered with before.

    Raises `CertificateRevoked` where that was revoked since, and `OtherDevice`.
    """
    known = identities.certificates_for(tx, request.digest)
    if not known:
        return None
    newest = known[-1]
    core.judge_name(newest.device, device)
    if newest.revoked_at is not None:
        raise core.CertificateRevoked(device, newest.serial)
    return newest


def _revoke(tx: Transaction, certificates: Iterable[Certificate], now: float) -> None:
    for one in certificates:
        identities.save_certificate(tx, replace(one, revoked_at=now))


def _note_offline(tx: Transaction, device: DeviceId) -> None:
    record = devices.get_device(tx, device)
    if record is not None and record.online:
        devices.save_device(tx, replace(record, online=False))


def _facts_of(made: Certificate) -> dict[str, str]:
    return {
        "device": made.device,
        "serial": made.serial,
        "epoch": str(made.epoch),
        "fingerprint": made.fingerprint,
    }
