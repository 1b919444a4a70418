"""Certificates for tests: an authority of their own, and what it issues and revokes."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime.now(timezone.utc).replace(microsecond=0)  # noqa: UP017 (Python 3.10)
LOCALHOST = ("127.0.0.1", "localhost")
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Certificate:
    """A certificate with its private key, as PEM."""

    certificate: bytes
    key: bytes
    serial: int

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Put both into `folder`; return where the certificate and the key stand."""
        paths = folder / f"{name}.pem", folder / f"{name}.key"
        paths[0].write_bytes(self.certificate)
        paths[1].write_bytes(self.key)
        return paths


@dataclass(frozen=True)
class TestAuthority:
    """A certificate authority that issues whatever a test asks for."""

    __test__ = False

    parsed: x509.Certificate
    secret: ec.EllipticCurvePrivateKey

    @property
    def certificate(self) -> bytes:
        return self.parsed.public_bytes(serialization.Encoding.PEM)

    def issue_server(
        self,
        names: Sequence[str] = LOCALHOST,
        *,
        begins: datetime = NOW - _DAY,
        ends: datetime = NOW + 30 * _DAY,
    ) -> Certificate:
        alternative = x509.SubjectAlternativeName([_host(name) for name in names])
        usage = ExtendedKeyUsageOID.SERVER_AUTH
        return self._issue("broker", usage, begins, ends, alternative)

    def issue_client(
        self,
        name: str,
        *,
        names: Sequence[str] = (),
        begins: datetime = NOW - _DAY,
        ends: datetime = NOW + 30 * _DAY,
    ) -> Certificate:
        """Issue a device's certificate; with `names`, one that claims to be some host."""
        claims = [x509.SubjectAlternativeName([_host(one) for one in names])] if names else []
        return self._issue(name, ExtendedKeyUsageOID.CLIENT_AUTH, begins, ends, *claims)

    def revoked(self, *serials: int, number: int = 1, ends: datetime = NOW + 30 * _DAY) -> bytes:
        """Return the list of revoked certificates; of two lists the later counts."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.parsed.subject)
            .last_update(min(NOW, ends) - _DAY + timedelta(seconds=number))
            .next_update(ends)
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(self._identifier(), critical=False)
        )
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW)
            builder = builder.add_revoked_certificate(entry.build())
        signed = builder.sign(self.secret, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    def _issue(
        self,
        name: str,
        usage: x509.ObjectIdentifier,
        begins: datetime,
        ends: datetime,
        *extensions: x509.ExtensionType,
    ) -> Certificate:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(name, self.parsed.subject, key, begins, ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(self._identifier(), critical=False)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        made = builder.sign(self.secret, hashes.SHA256())
        pem = made.public_bytes(serialization.Encoding.PEM)
        return Certificate(pem, _private_pem(key), made.serial_number)

    def _identifier(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self.secret.public_key())


def an_authority(name: str = "Wherry") -> TestAuthority:
    key = ec.generate_private_key(ec.SECP256R1())
    own = _subject(name)
    ends = NOW + 3650 * _DAY
    builder = (
        _builder(name, own, key, NOW - 400 * _DAY, ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return TestAuthority(builder.sign(key, hashes.SHA256()), key)


def _builder(
    name: str,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    begins: datetime,
    ends: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_subject(name))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
