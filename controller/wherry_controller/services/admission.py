"""Who is let in: tokens given out and taken back, keys that wait and what an operator decides.

A token and an approval name the device; what a request says of itself is a wish. Each serves one
request, which may come again. What is decided about one is in `core.identity`.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass

from msgspec.structs import replace

from wherry.enrolment import EnrolRequest, Token, secret_digest, token_text
from wherry.errors import Unavailable, Untrusted
from wherry.names import DeviceId, Digest
from wherry_controller.authority import DAY_S, Request
from wherry_controller.core import identity as core
from wherry_controller.core.audit import Kind
from wherry_controller.core.identity import Decision, Pending, TokenRecord
from wherry_controller.services import audit
from wherry_controller.services.fleet import device_of
from wherry_controller.services.missing import Missing
from wherry_controller.store import identities
from wherry_controller.store.database import Store, Transaction

log = logging.getLogger(__name__)

LEAST_PREFIX = 16  # Of a fingerprint: 64 bits that nobody finds a second key for.


class UnknownPendingKey(Missing):
    kind, remedy = "waiting key", "see `wherry device pending`"


class UnknownEnrolmentToken(Missing):
    kind, remedy = "token", "see `wherry token list`"


class TooManyPending(Unavailable):
    """More keys wait for approval than are kept."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.most = most

    def __str__(self) -> str:
        return (
            f"{self.most} keys wait for approval already: approve or reject some "
            "(`wherry device pending`), or enrol with a token."
        )


class ApprovalUsed(Untrusted):
    """A key that was approved for another request than the one that came."""

    def __init__(self, fingerprint: str) -> None:
        super().__init__(fingerprint)
        self.fingerprint = fingerprint

    def __str__(self) -> str:
        return (
            f"the key {self.fingerprint[:16]} was approved for another request: "
            "enrol with a new key, or with a token."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How long what is given out lasts; a certificate is renewed by its device at two thirds."""

    certificate_s: float = 30 * DAY_S
    renew_grace_s: float = 365 * DAY_S
    token_s: float = 3600.0
    longest_token_s: float = 30 * DAY_S
    pending_s: float = DAY_S
    most_pending: int = 256
    poll_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Given:
    """A new token; its text is shown once."""

    record: TokenRecord
    text: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came, and from which address."""

    wishes: EnrolRequest
    request: Request
    address: str


class Admission:
    """Tokens and keys that wait; `ca` is the fingerprint that tokens carry. One thread calls it."""

    def __init__(self, store: Store, *, ca: Digest, policy: Policy) -> None:
        self._store = store
        self._ca = ca
        self._policy = policy

    def create_token(self, device: DeviceId, *, lifetime_s: float | None, now: float) -> Given:
        """Give out a token for one device; raise `UnknownDevice` or `BadLifetime`."""
        wanted_s = self._policy.token_s if lifetime_s is None else lifetime_s
        longest_s = self._policy.longest_token_s
        if not 1 <= wanted_s <= longest_s:
            raise core.BadLifetime(wanted_s, longest_s)
        secret = secrets.token_urlsafe(32)
        record = TokenRecord(
            id=secrets.token_hex(4),
            digest=secret_digest(secret),
            device=device,
            created_at=now,
            expires_at=now + wanted_s,
        )
        with self._store.transaction() as tx:
            device_of(tx, device)
            identities.save_token(tx, record)
            audit.note(tx, Kind.TOKEN_CREATED, {"token": record.id, "device": device}, now)
        return Given(record, token_text(Token(secret, self._ca)))

    def revoke_token(self, token: str, *, now: float) -> None:
        """Take a token back; raise `UnknownEnrolmentToken`."""
        with self._store.transaction() as tx:
            record = identities.get_token(tx, token)
            if record is None:
                raise UnknownEnrolmentToken(token)
            self._revoke_token(tx, record, now)

    def approve(self, fingerprint: str, device: DeviceId, *, now: float) -> Pending:
        """Let a key that waits become a device; raise `UnknownPendingKey` or `UnknownDevice`."""
        with self._store.transaction() as tx:
            profile = device_of(tx, device).profile
            pending = replace(
                _waiting(tx, fingerprint),
                device=device,
                profile=profile,
                decision=Decision.APPROVED,
                decided_at=now,
                seen_at=now,
            )
            identities.save_pending(tx, pending)
            facts = {"fingerprint": pending.fingerprint, "device": device}
            audit.note(tx, Kind.APPROVED, facts, now)
        return pending

    def reject(self, fingerprint: str, *, now: float) -> Pending:
        """Let a key that waits become no device; raise `UnknownPendingKey`."""
        with self._store.transaction() as tx:
            waiting = _waiting(tx, fingerprint)
            pending = replace(waiting, decision=Decision.REJECTED, decided_at=now, seen_at=now)
            identities.save_pending(tx, pending)
            audit.note(tx, Kind.REJECTED, {"fingerprint": pending.fingerprint}, now)
        return pending

    def withdraw(self, tx: Transaction, device: DeviceId, now: float) -> None:
        """Take back what would still let a device in: unused tokens, and keys approved for it."""
        for token in identities.tokens_of(tx, device):
            if token.used_at is None and token.revoked_at is None and token.expires_at > now:
                self._revoke_token(tx, token, now)
        identities.drop_approvals(tx, device)

    def find_name(
        self, tx: Transaction, asked: Asked, facts: dict[str, str], now: float
    ) -> DeviceId | None:
        """Return the name that a request is for, None while nobody has approved it.

        What is found out on the way is added to `facts`. Raises the refusals of `core.identity`,
        `ApprovalUsed` and `TooManyPending`.
        """
        facts["fingerprint"] = asked.request.fingerprint
        if asked.wishes.token is None:
            return self._find_approval(tx, asked, now)
        token = identities.find_token(tx, secret_digest(asked.wishes.token))
        if token is None:
            raise core.UnknownToken
        facts |= {"token": token.id, "device": token.device}
        csr = asked.request.digest
        core.judge_token(token, csr, asked.wishes.device, now)
        identities.save_token(tx, replace(token, used_at=token.used_at or now, csr=csr))
        return token.device

    def _find_approval(self, tx: Transaction, asked: Asked, now: float) -> DeviceId | None:
        identities.drop_pending(tx, now - self._policy.pending_s)
        pending = identities.get_pending(tx, asked.request.fingerprint)
        if pending is None or pending.decision is Decision.WAITING:
            self._keep_waiting(tx, pending, asked, now)
            return None
        if pending.decision is Decision.REJECTED:
            raise core.KeyRejected(pending.fingerprint)
        if pending.csr != asked.request.digest:
            raise ApprovalUsed(pending.fingerprint)
        assert pending.device is not None
        core.judge_name(pending.device, asked.wishes.device)
        return pending.device

    def _keep_waiting(
        self, tx: Transaction, pending: Pending | None, asked: Asked, now: float
    ) -> None:
        """Keep a key that waits, with what it says of itself now."""
        if pending is None:
            if identities.count_pending(tx) >= self._policy.most_pending:
                raise TooManyPending(self._policy.most_pending)
            facts = {"fingerprint": asked.request.fingerprint, "address": asked.address}
            log.info("identity.asked", extra=facts)
        kept = Pending(
            fingerprint=asked.request.fingerprint,
            csr=asked.request.digest,
            device=asked.wishes.device,
            profile=asked.wishes.profile,
            facts=asked.wishes.facts,
            address=asked.address,
            asked_at=pending.asked_at if pending else now,
            seen_at=now,
        )
        identities.save_pending(tx, kept)

    def _revoke_token(self, tx: Transaction, token: TokenRecord, now: float) -> None:
        identities.save_token(tx, replace(token, revoked_at=token.revoked_at or now))
        audit.note(tx, Kind.TOKEN_REVOKED, {"token": token.id, "device": token.device}, now)


def _waiting(tx: Transaction, fingerprint: str) -> Pending:
    """Return the key that waits and has this fingerprint, or alone begins so."""
    start = fingerprint.lower().replace(":", "")
    found = [one for one in identities.list_pending(tx) if one.fingerprint.startswith(start)]
    if len(start) < LEAST_PREFIX or len(found) != 1:
        raise UnknownPendingKey(fingerprint)
    return found[0]
