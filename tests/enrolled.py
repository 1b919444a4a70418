"""Homes of agents as enrolment writes them, without a door that they enrolled at.

Imports only what a device has, so that the agent's own tests can use it on its oldest Python.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from msgspec.structs import replace

from wherry.names import DeviceId, ProfileName
from wherry_agent.papers import Papers, write_papers, write_root
from wherry_agent.settings import Identity, Settings, write_settings

NOT_BEFORE_S, NOT_AFTER_S = 1_700_000_000.0, 4_000_000_000.0
_UTC = datetime.timezone(datetime.timedelta())
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=_UTC)


@dataclass(frozen=True)
class TestAuthority:
    """A CA for tests that need no controller."""

    __test__ = False

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


@cache
def an_authority(name: str = "a CA of the tests") -> TestAuthority:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _certificate(name, key.public_key(), issuer=name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return TestAuthority(key, certificate)


@cache
def papers_of(name: str, serial: int = 1) -> Papers:
    """Return papers for a device, by the CA of the tests."""
    ca = an_authority()
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = "a CA of the tests"
    certificate = _certificate(name, key.public_key(), issuer=issuer, serial=serial).sign(
        ca.key, hashes.SHA256()
    )
    return Papers(
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        certificate=certificate.public_bytes(Encoding.PEM),
        ca=ca.certificate.public_bytes(Encoding.PEM),
    )


def an_enrolled_home(
    folder: Path,
    broker: str,
    device: DeviceId,
    profile: ProfileName,
    root: bytes,
    epoch: int = 1,
    *,
    settings: Settings | None = None,
    papers: Papers | None = None,
) -> Path:
    """Write what enrolment writes into `folder`, and return it.

    `settings` names what else shall not be a default; `papers` are of another CA than the tests'.
    """
    given = settings or Settings(id=device, profile=profile, broker=broker)
    identity = Identity(
        device=device,
        epoch=epoch,
        serial=f"{epoch:040x}",
        not_before=NOT_BEFORE_S,
        not_after=NOT_AFTER_S,
    )
    write_papers(folder, papers or papers_of(device, epoch), identity)
    write_root(folder, root)
    write_settings(folder, replace(given, id=device, profile=profile, broker=broker))
    return folder


def _certificate(
    name: str, public: ec.EllipticCurvePublicKey, *, issuer: str, serial: int = 1
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(_EPOCH + datetime.timedelta(seconds=NOT_BEFORE_S))
        .not_valid_after(_EPOCH + datetime.timedelta(seconds=NOT_AFTER_S))
    )
