"""TLS as the controller speaks it with its broker: no other authority, name, time or version."""

from __future__ import annotations

import ssl
from datetime import timedelta
from pathlib import Path

import pytest

from tests.certificates import NOW, Certificate, an_authority
from tests.handshakes import a_server, shake_hands
from wherry_controller.core.rights import CONTROLLER
from wherry_controller.mqtt import context_of

OURS = an_authority()


@pytest.fixture
def dialler(tmp_path: Path) -> ssl.SSLContext:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(OURS.certificate)
    return context_of(ca, *OURS.issue_client(CONTROLLER).write(tmp_path, "own"))


def test_a_broker_of_the_own_authority_is_spoken_to(
    dialler: ssl.SSLContext, tmp_path: Path
) -> None:
    shake_hands(dialler, a_server(tmp_path, OURS.issue_server()))


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        (an_authority("another").issue_server(), "unable to get local issuer certificate"),
        (OURS.issue_server(["broker.example"]), "IP address mismatch"),
        (OURS.issue_server(ends=NOW - timedelta(seconds=1)), "certificate has expired"),
        (OURS.issue_client("one", names=["127.0.0.1"]), "unsuitable certificate purpose"),
    ],
    ids=["another authority", "another name", "ended", "a device"],
)
def test_any_other_broker_is_refused(
    dialler: ssl.SSLContext, tmp_path: Path, shown: Certificate, why: str
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=why):
        shake_hands(dialler, a_server(tmp_path, shown))


def test_a_broker_that_knows_no_tls_1_3_is_refused(dialler: ssl.SSLContext, tmp_path: Path) -> None:
    server = a_server(tmp_path, OURS.issue_server())
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)unsupported protocol|protocol version"):
        shake_hands(dialler, server)
