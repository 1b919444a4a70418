"""Who is no device stays outside: each attack on enrolment is refused by its own reason.

After a refusal nothing has changed: certificates, epochs, tokens, the broker's rights.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from msgspec.structs import replace

from tests.controller.doors import (
    DAY_S,
    PI,
    Guarded,
    Shown,
    a_device_key,
    a_request,
    enrolled,
    guarded_doors,
    name_in,
    refused,
    waiting,
)
from wherry import codec
from wherry.blobs import digest_of
from wherry.enrolment import ENROL_PATH, EnrolRequest
from wherry.names import parse_device_id
from wherry_controller.authority import issue_client, make_authority
from wherry_controller.core.bucket import Rate
from wherry_controller.door.serving import device_context
from wherry_controller.services.admission import Policy
from wherry_controller.store import devices, identities

TWO = parse_device_id("pi-2")


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Guarded]:
    with guarded_doors(tmp_path) as doors:
        yield doors


# Tokens


def test_a_stolen_token_that_is_used_twice_is_refused_and_audited(here: Guarded) -> None:
    token = here.a_token()
    enrolled(here.enrol(a_device_key(), token))
    before = here.state()
    assert refused(here.enrol(a_device_key(), token)) == (403, "token_used")
    assert here.state() == before
    assert here.audited()[-1] == ("refused", "TokenUsed")


def test_a_token_that_was_used_is_refused_as_used_after_its_time_too(here: Guarded) -> None:
    token = here.a_token()
    enrolled(here.enrol(a_device_key(), token))
    here.now += 3601
    assert refused(here.enrol(a_device_key(), token)) == (403, "token_used")


def test_a_lost_answer_is_given_again_to_the_same_request(here: Guarded) -> None:
    token, csr = here.a_token(), a_request(a_device_key())
    first = enrolled(here.send(csr, token))
    before = here.serials_of(), here.epoch_of()
    again = enrolled(here.send(csr, token))
    assert again.certificate == first.certificate
    assert (here.serials_of(), here.epoch_of()) == before


def test_a_lost_answer_is_not_given_again_after_the_tokens_time(here: Guarded) -> None:
    token, csr = here.a_token(), a_request(a_device_key())
    enrolled(here.send(csr, token))
    here.now += 3600
    before = here.state()
    assert refused(here.send(csr, token)) == (403, "token_expired")
    assert here.state() == before


def test_an_expired_token_is_refused(here: Guarded) -> None:
    token = here.a_token(lifetime_s=60)
    here.now += 60
    before = here.state()
    assert refused(here.enrol(a_device_key(), token)) == (403, "token_expired")
    assert here.state() == before
    assert here.audited()[-1] == ("refused", "TokenExpired")


def test_a_revoked_token_is_refused(here: Guarded) -> None:
    admission = here.identities.admission
    given = admission.create_token(PI, lifetime_s=None, now=here.now)
    admission.revoke_token(given.record.id, now=here.now)
    before = here.state()
    assert refused(here.enrol(a_device_key(), given.text)) == (403, "token_revoked")
    assert here.state() == before


def test_a_guessed_token_is_refused_and_leaves_the_audit_log_alone(here: Guarded) -> None:
    token = here.a_token()
    guess = f"wt1.{'A' * 43}.{token.split('.')[2]}"
    before, audited = here.state(), here.audited()
    assert refused(here.enrol(a_device_key(), guess)) == (403, "unknown_token")
    assert here.state() == before
    assert here.audited() == audited


def test_a_token_is_kept_as_its_digest_only(here: Guarded, tmp_path: Path) -> None:
    secret = here.a_token().split(".")[1].encode()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if secret in path.read_bytes()]


def test_a_token_of_one_device_does_not_enrol_another(here: Guarded) -> None:
    token = here.a_token()
    before = here.state()
    response = here.enrol(a_device_key(), token, device="pi-2")
    assert refused(response) == (403, "other_device")
    assert here.state() == before


# Requests


def test_the_name_in_a_certificate_is_the_tokens_whatever_the_request_says(here: Guarded) -> None:
    csr = a_request(a_device_key(), name="wherry:controller")
    answer = enrolled(here.send(csr, here.a_token()))
    assert name_in(answer.certificate) == answer.device == PI


def test_a_request_that_its_own_key_did_not_sign_is_refused(here: Guarded) -> None:
    pem = a_request(a_device_key())
    der = bytearray(ssl.PEM_cert_to_DER_cert(_as_certificate(pem)))
    der[-1] ^= 1
    csr = ssl.DER_cert_to_PEM_cert(bytes(der)).replace("CERTIFICATE", "CERTIFICATE REQUEST")
    before = here.state()
    assert refused(here.send(csr, here.a_token()))[1] == "bad_request"
    assert here.state()[:2] == before[:2]


@pytest.mark.parametrize("kind", ["rsa", "p384"])
def test_a_key_of_another_kind_is_refused(here: Guarded, kind: str) -> None:
    key = (
        rsa.generate_private_key(65537, 2048)
        if kind == "rsa"
        else ec.generate_private_key(ec.SECP384R1())
    )
    csr = a_request(key)  # type: ignore[arg-type]
    token = here.a_token()
    before = here.state()
    assert refused(here.send(csr, token)) == (422, "bad_request")
    assert here.state() == before


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff", b"[" * 5000, b'{"format":"wherry.enrol/1"}'])
def test_a_body_that_is_no_request_is_refused(here: Guarded, body: bytes) -> None:
    before = here.state()
    assert refused(here.post("/v1/enrol", body))[0] == 422
    assert refused(here.post("/v1/renew", body))[0] == 422
    assert here.state() == before


def test_a_body_that_is_too_long_is_refused(here: Guarded) -> None:
    assert refused(here.post("/v1/enrol", b" " * 40_000))[0] == 413


def test_who_asks_too_often_waits(tmp_path: Path) -> None:
    with guarded_doors(tmp_path, rate=Rate(0.5, 3)) as here:
        statuses = [here.post("/v1/enrol", b"{}").status_code for _ in range(4)]
        assert statuses == [422, 422, 422, 429]
        here.now += 2
        assert here.post("/v1/enrol", b"{}").status_code == 422


# One live identity a device


def test_enrolling_again_raises_the_epoch_and_revokes_what_was(here: Guarded) -> None:
    old, _ = here.an_enrolled()
    assert (old.epoch, here.fleet.times) == (1, 0)
    new, _ = here.an_enrolled()
    assert (new.epoch, here.epoch_of()) == (2, 2)
    assert here.serials_of() == {old.serial: False, new.serial: True}
    assert here.revoked_serials() == {old.serial}
    assert here.rights.told[-2:] == [("revoke", PI), ("grant", PI)]
    assert here.fleet.times == 1


def test_a_revoked_device_counts_as_gone_at_once(here: Guarded) -> None:
    """Its will cannot tell: by the time the broker ends its session it has no rights."""
    here.an_enrolled()
    with here.store.transaction() as tx:
        record = devices.get_device(tx, PI)
        assert record is not None
        devices.save_device(tx, replace(record, online=True))
    here.identities.revoke(PI, now=here.now)
    with here.store.reading() as tx:
        revoked = devices.get_device(tx, PI)
    assert revoked is not None and not revoked.online


def test_the_identity_of_before_cannot_be_renewed(here: Guarded) -> None:
    old, key = here.an_enrolled()
    here.an_enrolled()
    before = here.state()
    response = here.renew(old, key, a_request(a_device_key()))
    assert refused(response) == (403, "certificate_revoked")
    assert here.state() == before


def test_a_request_of_before_gets_no_certificate_after_enrolling_again(here: Guarded) -> None:
    token, csr = here.a_token(), a_request(a_device_key())
    enrolled(here.send(csr, token))
    here.an_enrolled()
    before = here.state()
    assert refused(here.send(csr, token)) == (403, "certificate_revoked")
    assert here.state() == before


def test_a_revoked_device_is_cut_off_and_told_to_the_broker(here: Guarded) -> None:
    papers = here.an_enrolled()
    spare = here.a_token()
    assert here.identities.revoke(PI, now=here.now) == 1
    assert here.revoked_serials() == {papers[0].serial}
    assert here.rights.told[-1] == ("revoke", PI)
    response = here.renew(*papers, a_request(a_device_key()))
    assert refused(response) == (403, "certificate_revoked")
    assert refused(here.enrol(a_device_key(), spare)) == (403, "token_revoked")
    kinds = [kind for kind, _ in here.audited()]
    assert kinds == [
        *("token_created", "enrolled", "token_created", "token_revoked", "revoked"),
        *("refused", "refused"),
    ]


def test_what_lets_in_later_ends_with_a_revocation(here: Guarded) -> None:
    papers, csr = here.an_enrolled(), a_request(a_device_key())
    key = waiting(here.send(csr, None)).fingerprint
    here.identities.admission.approve(key, PI, now=here.now)
    here.identities.revoke(PI, now=here.now)
    assert waiting(here.send(csr, None)).fingerprint == key
    assert here.serials_of() == {papers[0].serial: False}


def test_what_lets_in_later_ends_with_a_device_that_never_came(here: Guarded) -> None:
    token, csr = here.a_token(), a_request(a_device_key())
    key = waiting(here.send(csr, None)).fingerprint
    here.identities.admission.approve(key, PI, now=here.now)
    here.identities.forget(PI, now=here.now)
    assert refused(here.enrol(a_device_key(), token)) == (403, "token_revoked")
    waiting(here.send(csr, None))
    assert here.serials_of() == {}


def test_a_controller_that_died_before_it_told_of_a_revocation_makes_up_for_it(
    here: Guarded,
) -> None:
    serial = here.an_enrolled()[0].serial
    here.now += 10.0
    before = here.revocations.ensure(here.now)
    with here.store.transaction() as tx:
        (held,) = identities.certificates_of(tx, PI)
        identities.save_certificate(tx, replace(held, revoked_at=here.now))
    after = here.revocations.ensure(here.now + 1.0)
    assert after.number == before.number + 1
    assert here.revoked_serials() == {serial}
    assert here.revocations.ensure(here.now + 2.0).number == after.number


# Approval


def test_a_key_without_a_token_waits_and_nobody_becomes_a_device_unapproved(here: Guarded) -> None:
    csr = a_request(a_device_key())
    before = here.state()
    answer = waiting(here.send(csr, None, device="pi-1"))
    assert waiting(here.send(csr, None)) == answer
    assert here.state() == before
    here.identities.admission.approve(answer.fingerprint, PI, now=here.now)
    assert enrolled(here.send(csr, None)).device == PI
    assert here.epoch_of() == 1


def test_an_approval_serves_the_request_that_was_approved_and_no_other(here: Guarded) -> None:
    key = a_device_key()
    csr = a_request(key)
    answer = waiting(here.send(csr, None))
    here.identities.admission.approve(answer.fingerprint[:16], PI, now=here.now)
    before = here.state()
    assert refused(here.send(a_request(key), None)) == (403, "approval_used")
    waiting(here.send(a_request(a_device_key()), None))
    assert here.state() == before
    first = enrolled(here.send(csr, None))
    assert enrolled(here.send(csr, None)).serial == first.serial


def test_a_rejected_key_is_refused(here: Guarded) -> None:
    csr = a_request(a_device_key())
    answer = waiting(here.send(csr, None))
    here.identities.admission.reject(answer.fingerprint, now=here.now)
    before = here.state()
    assert refused(here.send(csr, None)) == (403, "key_rejected")
    assert here.state() == before


def test_an_approval_names_the_device_whatever_it_wished_for(here: Guarded) -> None:
    csr = a_request(a_device_key())
    answer = waiting(here.send(csr, None, device="pi-2"))
    here.identities.admission.approve(answer.fingerprint, PI, now=here.now)
    assert refused(here.send(csr, None, device="pi-2")) == (403, "other_device")
    assert name_in(enrolled(here.send(csr, None)).certificate) == PI


def test_the_address_of_a_key_that_waits_is_not_what_a_stranger_says(here: Guarded) -> None:
    body = codec.encode(EnrolRequest(csr=a_request(a_device_key())))
    waiting(here.post(ENROL_PATH, body, **{"X-Forwarded-For": "203.0.113.9"}))
    with here.store.reading() as tx:
        (pending,) = identities.list_pending(tx)
    assert pending.address == "127.0.0.1"


def test_strangers_cannot_fill_the_list_of_keys_that_wait(tmp_path: Path) -> None:
    with guarded_doors(tmp_path, policy=Policy(most_pending=2)) as here:
        for _ in range(2):
            waiting(here.enrol(a_device_key(), None))
        assert refused(here.enrol(a_device_key(), None)) == (503, "too_many_pending")
        here.now += DAY_S + 1
        waiting(here.enrol(a_device_key(), None))


# Renewal


def test_a_device_that_was_off_for_forty_days_comes_back(here: Guarded) -> None:
    old, key = here.an_enrolled()
    here.now += 40 * DAY_S
    new = enrolled(here.renew(old, key, a_request(a_device_key()), at=old.not_before))
    assert new.not_after > here.now
    assert (new.device, new.epoch) == (PI, 1)


def test_a_device_that_was_off_for_longer_than_the_grace_enrols_again(here: Guarded) -> None:
    old, key = here.an_enrolled()
    here.now += (30 + 365) * DAY_S + 1
    before = here.state()
    response = here.renew(old, key, a_request(a_device_key()))
    assert refused(response) == (403, "grace_over")
    assert here.state() == before


def test_a_renewal_leaves_the_old_certificate_to_its_own_end(here: Guarded) -> None:
    old, key = here.an_enrolled()
    here.now += 20 * DAY_S
    new = enrolled(here.renew(old, key, a_request(a_device_key())))
    assert here.serials_of() == {old.serial: True, new.serial: True}
    assert here.revoked_serials() == set()


def test_a_renewal_that_another_key_signed_is_refused(here: Guarded) -> None:
    old, _ = here.an_enrolled()
    before = here.state()
    response = here.renew(old, a_device_key(), a_request(a_device_key()))
    assert refused(response) == (403, "bad_proof")
    assert here.state() == before
    assert here.audited()[-1] == ("refused", "BadProof")


def test_a_certificate_of_one_device_renews_no_other(here: Guarded) -> None:
    old, key = here.an_enrolled()
    before = here.state()
    response = here.renew(old, key, a_request(a_device_key()), device=TWO)
    assert refused(response) == (403, "unknown_certificate")
    assert here.state() == before


def test_a_proof_from_before_the_certificate_is_refused(here: Guarded) -> None:
    old, key = here.an_enrolled()
    before = here.state()
    csr = a_request(a_device_key())
    assert refused(here.renew(old, key, csr, at=old.not_before - 1)) == (403, "bad_proof")
    assert here.state() == before
    enrolled(here.renew(old, key, csr, at=4_000_000_000))


def test_a_renewal_whose_answer_was_lost_is_answered_again(here: Guarded) -> None:
    old, key = here.an_enrolled()
    csr = a_request(a_device_key())
    first = enrolled(here.renew(old, key, csr))
    assert enrolled(here.renew(old, key, csr)).serial == first.serial
    assert len(here.serials_of()) == 2


def test_a_second_renewal_of_one_certificate_takes_the_place_of_the_first(here: Guarded) -> None:
    old, key = here.an_enrolled()
    lost = enrolled(here.renew(old, key, a_request(a_device_key())))
    here.now += 1
    new = enrolled(here.renew(old, key, a_request(a_device_key())))
    assert here.serials_of() == {old.serial: True, lost.serial: False, new.serial: True}
    assert here.revoked_serials() == {lost.serial}


def test_only_the_newest_certificate_and_the_one_before_renew(here: Guarded) -> None:
    first, first_key = here.an_enrolled()
    second_key = a_device_key()
    second = enrolled(here.renew(first, first_key, a_request(second_key)))
    here.now += 1
    third = enrolled(here.renew(second, second_key, a_request(a_device_key())))
    before = here.state()
    response = here.renew(first, first_key, a_request(a_device_key()))
    assert refused(response) == (403, "renewed_already")
    assert here.state() == before
    assert here.serials_of()[third.serial]


# The door to blobs


def test_the_blob_door_serves_ranges_to_devices_only(here: Guarded) -> None:
    digest = here.blobs.put(b"0123456789")
    papers = here.an_enrolled()
    path = f"/v1/blobs/{digest}"
    assert here.read_blob(path, papers) == (200, b"0123456789")
    assert here.read_blob(path, papers, Range="bytes=2-4") == (206, b"234")
    assert here.read_blob(f"/v1/blobs/{digest_of(b'none')}", papers)[0] == 404
    assert here.read_blob("/v1/blobs/..%2f..%2fkeys", papers)[0] in (404, 422)
    assert why_refused(here, None) == "peer did not return a certificate"
    with pytest.raises(OSError):
        here.read_blob(path, None)


def test_the_blob_door_refuses_who_was_revoked_and_who_was_in_the_same_second(
    here: Guarded,
) -> None:
    path = f"/v1/blobs/{here.blobs.put(b'bytes')}"
    one, two = here.an_enrolled(), here.an_enrolled()
    assert why_refused(here, one) == "certificate revoked"
    with pytest.raises(OSError):
        here.read_blob(path, one)
    assert here.read_blob(path, two) == (200, b"bytes")
    here.identities.revoke(PI, now=here.now)
    assert why_refused(here, two) == "certificate revoked"
    with pytest.raises(OSError):
        here.read_blob(path, two)


def test_the_blob_door_refuses_a_certificate_of_another_ca(here: Guarded) -> None:
    path = f"/v1/blobs/{here.blobs.put(b'bytes')}"
    answer, _ = here.an_enrolled()
    key = a_device_key()
    other = issue_client(make_authority(here.now), PI, key.public_key(), now=here.now)
    forged = (replace(answer, certificate=other.pem), key)
    assert why_refused(here, forged) == "unable to get local issuer certificate"
    with pytest.raises(OSError):
        here.read_blob(path, forged)


def test_the_blob_door_refuses_a_certificate_that_has_ended(here: Guarded) -> None:
    here.now -= 31 * DAY_S
    assert why_refused(here, here.an_enrolled()) == "certificate has expired"


def why_refused(here: Guarded, papers: Shown | None) -> str:
    """Return why TLS at the blob door does not take a device's papers."""
    client, server = ssl.MemoryBIO(), ssl.MemoryBIO()
    door = device_context(here.folder).wrap_bio(client, server, server_side=True)
    device = here.dialling(papers).wrap_bio(server, client, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        device.do_handshake()
    with contextlib.suppress(ssl.SSLWantReadError):
        door.do_handshake()
    device.do_handshake()
    with pytest.raises(ssl.SSLError) as refusal:
        door.do_handshake()
    error = refusal.value
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return str(error.reason).lower().replace("_", " ")


def _as_certificate(pem: str) -> str:
    return pem.replace("CERTIFICATE REQUEST", "CERTIFICATE")
