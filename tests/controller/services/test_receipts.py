"""Receipts: whose, of what, signed by which key; and what becomes of those that do not hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec.structs import replace

from tests import builders
from tests.builders import A_TIME, a_device_id, a_digest, a_reported, an_alias, an_event
from tests.controller.doors import a_device_key, a_request
from tests.controller.services.test_ingest import (
    BUNDLE,
    DEVICE,
    a_fleet_of_one,
    audited,
    ended,
    event,
    said,
)
from tests.controller.stores import add_devices
from wherry import codec
from wherry.messages import EventKind, Receipt, SignedReceipt
from wherry.names import DeploymentId, DeviceId
from wherry.reasons import Reason, Status
from wherry_controller.authority import Authority, found_authority, issue_client, read_request
from wherry_controller.core.audit import Kind
from wherry_controller.core.identity import Certificate
from wherry_controller.core.receipt import BadReceipt
from wherry_controller.services import receipts
from wherry_controller.services.ingest import Drop, Ingest, Message
from wherry_controller.store import identities
from wherry_controller.store.database import Store

Change = Callable[[Receipt], Receipt]


def a_receipt() -> Receipt:
    return builders.a_receipt(bundle=BUNDLE)


class Attester:
    """A device's key, and the certificate that it was issued in an enrolment."""

    def __init__(self, authority: Authority, *, epoch: int = 1, device: DeviceId = DEVICE) -> None:
        self.key = a_device_key()
        request = read_request(a_request(self.key))
        issued = issue_client(authority, device, request.public, now=A_TIME)
        self.certificate = Certificate(
            serial=issued.serial,
            device=device,
            epoch=epoch,
            csr=request.digest,
            fingerprint=request.fingerprint,
            pem=issued.pem,
            not_before=issued.not_before,
            not_after=issued.not_after,
            issued_at=A_TIME,
        )

    def sign(self, receipt: Receipt) -> SignedReceipt:
        data = codec.encode(receipt)
        sig = self.key.sign(data, ec.ECDSA(hashes.SHA256())).hex()
        return SignedReceipt(signed=msgspec.Raw(data), keyid=self.certificate.fingerprint, sig=sig)

    def enrol(self, store: Store, *, revoked_at: float | None = None) -> None:
        with store.transaction() as tx:
            identities.save_certificate(tx, replace(self.certificate, revoked_at=revoked_at))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return found_authority(tmp_path_factory.mktemp("authority"), A_TIME)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return a_fleet_of_one(tmp_path)


@pytest.fixture
def attester(authority: Authority, store: Store) -> Attester:
    attester = Attester(authority)
    attester.enrol(store)
    return attester


def attesting(signed: SignedReceipt, seq: int = 1) -> Message:
    return said(replace(an_event(seq, EventKind.RECEIPT), deployment=None, receipt=signed))


def kept(store: Store) -> list[Receipt]:
    with store.reading() as tx:
        return [one.says for one in receipts.of_device(tx, DEVICE)]


def test_a_receipt_is_kept_as_it_was_signed(store: Store, attester: Attester) -> None:
    signed = attester.sign(a_receipt())
    ingest = Ingest(store)
    taken = ingest.take([attesting(signed)], now=5.0)
    with store.reading() as tx:
        (found,) = receipts.of_device(tx, DEVICE)
    assert (found.says, found.received_at) == (a_receipt(), 5.0)
    assert (bytes(found.signed.signed), found.signed.sig) == (bytes(signed.signed), signed.sig)
    assert (taken.acks[DEVICE].seq, ingest.dropped.total()) == (1, 0)


def test_a_receipt_in_a_report_is_kept_too(store: Store, attester: Attester) -> None:
    report = replace(a_reported(), receipts={an_alias(): attester.sign(a_receipt())})
    Ingest(store).take([said(report)], now=5.0)
    assert kept(store) == [a_receipt()]


def test_the_first_receipt_of_a_deployment_stays(store: Store, attester: Attester) -> None:
    ingest = Ingest(store)
    ingest.take([attesting(attester.sign(a_receipt()))], now=5.0)
    again = attester.sign(replace(a_receipt(), requests=999))
    ingest.take([attesting(again, seq=2)], now=6.0)
    assert kept(store) == [a_receipt()]
    assert ingest.dropped.total() == 0


def test_a_receipt_outlives_the_renewal_of_its_key(
    store: Store, attester: Attester, authority: Authority
) -> None:
    Attester(authority).enrol(store)
    Ingest(store).take([attesting(attester.sign(a_receipt()))], now=5.0)
    assert kept(store) == [a_receipt()]


CHANGES: list[tuple[Change, str]] = [
    (lambda one: replace(one, device=a_device_id("pi-2")), "is of another device"),
    (lambda one: replace(one, epoch=2), "is of another enrolment than the key that signed it"),
    (lambda one: replace(one, alias=an_alias("eye")), "names another alias than was ordered"),
    (lambda one: replace(one, bundle=a_digest("x")), "names another bundle than was ordered"),
    (
        lambda one: replace(one, deployment=DeploymentId("digits-v9:pi-1")),
        "is of a deployment that it was never ordered",
    ),
    (lambda one: replace(one, critical=("more",)), "is none that this release understands"),
]


@pytest.mark.parametrize(("change", "problem"), CHANGES)
def test_a_receipt_of_something_else_is_refused_counted_and_audited_once(
    store: Store, attester: Attester, change: Change, problem: str
) -> None:
    ingest = Ingest(store)
    for seq in (1, 2):
        ingest.take([attesting(attester.sign(change(a_receipt())), seq)], now=5.0)
    assert kept(store) == []
    assert ingest.dropped == {Drop.RECEIPT_REFUSED: 2}
    (entry,) = audited(store)
    assert entry.kind == Kind.REFUSED
    assert entry.facts == {"device": DEVICE, "reason": "bad_receipt", "detail": problem}


def test_a_bad_receipt_whose_batch_was_undone_is_audited_when_it_comes_again(
    store: Store, attester: Attester
) -> None:
    ingest, bad = Ingest(store), attester.sign(replace(a_receipt(), epoch=2))
    nonsense: Any = object()
    with pytest.raises(AssertionError):
        ingest.take([attesting(bad, 1), Message(DEVICE, nonsense, live=True)], now=5.0)
    assert audited(store) == []
    ingest.take([attesting(bad, 1)], now=5.0)
    assert len(audited(store)) == 1


def refused(store: Store, signed: SignedReceipt, device: DeviceId = DEVICE) -> str:
    """Return why a receipt that a device sent is refused."""
    with pytest.raises(BadReceipt) as why, store.transaction() as tx:
        receipts.take(tx, device, signed, 5.0)
    assert str(why.value).endswith("revoke the device if its key is in other hands.")
    return why.value.problem


UNSIGNED = "is not signed by a key of its certificates"


def test_only_a_key_that_the_device_was_certified_signs_its_receipts(
    store: Store, attester: Attester, authority: Authority
) -> None:
    stranger = Attester(authority)
    assert refused(store, stranger.sign(a_receipt())) == UNSIGNED
    posing = replace(stranger.sign(a_receipt()), keyid=attester.certificate.fingerprint)
    assert refused(store, posing) == UNSIGNED
    misnamed = replace(attester.sign(a_receipt()), keyid=stranger.certificate.fingerprint)
    assert refused(store, misnamed) == UNSIGNED
    for sig in ("", "00", "no hex"):
        assert refused(store, replace(attester.sign(a_receipt()), sig=sig)) == UNSIGNED


def test_what_was_changed_after_it_was_signed_is_refused(store: Store, attester: Attester) -> None:
    faster = codec.encode(replace(a_receipt(), p50_ms=0.1))
    signed = replace(attester.sign(a_receipt()), signed=msgspec.Raw(faster))
    assert refused(store, signed) == UNSIGNED


def test_a_revoked_key_attests_nothing(store: Store, attester: Attester) -> None:
    attester.enrol(store, revoked_at=4.0)
    assert refused(store, attester.sign(a_receipt())) == UNSIGNED


def test_a_key_attests_for_its_own_enrolment_only(
    store: Store, attester: Attester, authority: Authority
) -> None:
    later = Attester(authority, epoch=2)
    later.enrol(store)
    problem = "is of another enrolment than the key that signed it"
    assert refused(store, later.sign(a_receipt())) == problem


def test_another_device_cannot_attest_what_this_one_was_ordered(
    store: Store, attester: Attester, authority: Authority
) -> None:
    pi_2 = a_device_id("pi-2")
    with store.transaction() as tx:
        add_devices(tx, pi_2)
    other = Attester(authority, device=pi_2)
    other.enrol(store)
    signed = other.sign(replace(a_receipt(), device=pi_2))
    assert refused(store, signed) == UNSIGNED
    problem = "is of a deployment that it was never ordered"
    assert refused(store, signed, pi_2) == problem
    Ingest(store).take([attesting(attester.sign(a_receipt()))], now=5.0)
    assert refused(store, signed, pi_2) == problem


def test_a_deployment_that_was_reverted_has_no_receipt(store: Store, attester: Attester) -> None:
    Ingest(store).take([event(1, ended(Status.REVERTED, Reason.SLOW))], now=5.0)
    problem = "is of a deployment that the device did not keep"
    assert refused(store, attester.sign(a_receipt())) == problem


def test_a_receipt_too_long_for_one_is_refused(store: Store, attester: Attester) -> None:
    long = replace(a_receipt(), runtime_version="1" * receipts.LARGEST_RECEIPT_BYTES)
    assert refused(store, attester.sign(long)) == "is none that this release understands"


def test_a_receipt_that_does_not_hold_keeps_nothing_else_out(
    store: Store, attester: Attester
) -> None:
    bad = attester.sign(replace(a_receipt(), epoch=2))
    report = replace(a_reported(), receipts={an_alias(): bad})
    Ingest(store).take([said(report), event(1, ended(Status.SUCCEEDED, Reason.CONFIRMED))], 5.0)
    with store.reading() as tx:
        assert receipts.of_device(tx, DEVICE) == []
    assert audited(store)[0].facts["reason"] == "bad_receipt"
