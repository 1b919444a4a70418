"""Receipts are signed by the device's own key, in a child, and say what was measured."""

from __future__ import annotations

import queue
import sys
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from tests.builders import A_TIME, a_deployment_id, a_device_id, a_digest, a_profile, an_alias
from tests.enrolled import an_enrolled_home
from wherry import __version__, codec
from wherry.enrolment import fingerprint_of
from wherry.messages import Receipt, SignedReceipt
from wherry_agent.attest import Attester
from wherry_agent.attesting import sign
from wherry_agent.core.receipts import Attested, Claim
from wherry_agent.settings import KEY_FILE

CLAIM = Claim(
    alias=an_alias(),
    deployment=a_deployment_id("d-1"),
    bundle=a_digest("new"),
    outputs=a_digest("outputs"),
    requests=120,
    p50_ms=1.5,
    p99_ms=None,
    memory_bytes=60_000_000,
    runtime="onnxruntime",
    runtime_version="1.31.1",
)
ME = a_device_id("pi-7")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return an_enrolled_home(tmp_path, "mqtt://127.0.0.1:1", ME, a_profile().name, b"{}", epoch=3)


def key_of(home: Path) -> ec.EllipticCurvePublicKey:
    key = load_pem_private_key((home / KEY_FILE).read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key.public_key()


def check(receipt: SignedReceipt, home: Path, signed: bytes) -> None:
    key_of(home).verify(bytes.fromhex(receipt.sig), signed, ec.ECDSA(hashes.SHA256()))


def attested(home: Path, **facts: tuple[str, ...]) -> Attested:
    news: queue.SimpleQueue[Attested] = queue.SimpleQueue()
    Attester(home, news.put, **facts).sign(CLAIM, at=A_TIME)
    return news.get(timeout=30)


def test_a_receipt_says_who_attests_what_and_is_signed_by_the_devices_key(home: Path) -> None:
    receipt = attested(home).receipt
    assert receipt is not None
    said = codec.decode(Receipt, bytes(receipt.signed))
    assert (said.device, said.epoch, said.at) == (ME, 3, A_TIME)
    assert said.agent_version == __version__
    for name in CLAIM.__struct_fields__:
        assert getattr(said, name) == getattr(CLAIM, name)
    check(receipt, home, bytes(receipt.signed))
    public = key_of(home).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert receipt.keyid == fingerprint_of(public)


def test_a_receipt_that_was_altered_is_not_what_was_signed(home: Path) -> None:
    receipt = sign(home, CLAIM, at=A_TIME)
    altered = bytes(receipt.signed).replace(b'"requests":120', b'"requests":121')
    assert altered != bytes(receipt.signed)
    with pytest.raises(InvalidSignature):
        check(receipt, home, altered)


def test_what_keeps_a_device_from_signing_is_said(home: Path, tmp_path: Path) -> None:
    (home / KEY_FILE).unlink()
    gone = attested(home)
    assert (gone.deployment, gone.receipt) == (CLAIM.deployment, None)
    assert "key.pem" in gone.why
    assert "enrol" in attested(tmp_path / "nowhere").why


def test_a_child_that_dies_or_babbles_gives_no_receipt(home: Path) -> None:
    for words in ("raise SystemExit(3)", "print('{}')"):
        came = attested(home, command=(sys.executable, "-c", words))
        assert came.receipt is None
        assert came.why.startswith("its child failed")
