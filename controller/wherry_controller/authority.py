"""The controller's certificate authority: X.509, P-256, for devices, doors and the broker.

Values in, values out, but for the two functions that read and write its folder. Whoever calls
says what time it is; the dates are what devices judge by themselves, so nothing here is dated
into the future. A certificate names one device and nothing else: the name is the caller's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wherry.enrolment import fingerprint_of
from wherry.errors import Malformed, Unavailable
from wherry.files import write_whole
from wherry.names import Digest

CA_KEY, CA = "ca.key.pem", "ca.pem"
CRL_PEM, CRL_DER = "crl.pem", "crl.der"

DAY_S = 86_400.0
CA_LIFETIME_S = 30 * 365 * DAY_S
SERVER_LIFETIME_S = 90 * DAY_S
CRL_LIFETIME_S = 30 * DAY_S
BACKDATE_S = 3600.0  # The broker's clock may be behind the controller's.
_USAGE_OF_CA = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    crl_sign=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)
_USAGE_OF_LEAF = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=False,
    crl_sign=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


class NoAuthority(Unavailable):
    """A controller's folder without its CA."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return (
            f"{self.path} is missing or no longer what it was: restore it from a copy, "
            "or run `wherry init` in a new folder."
        )


class BadRequest(Malformed):
    """A certificate request that this CA does not take."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"the request for a certificate {self.problem}: send one with a P-256 key in PEM."


@dataclass(frozen=True, slots=True)
class Authority:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


@dataclass(frozen=True, slots=True)
class Request:
    """A certificate request whose own signature is valid: its sha256 and its key's."""

    digest: Digest
    fingerprint: Digest
    public: ec.EllipticCurvePublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate; times are UNIX seconds."""

    serial: str
    pem: str
    not_before: float
    not_after: float


@dataclass(frozen=True, slots=True)
class Revoked:
    serial: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Crl:
    """A revocation list in both forms; times are UNIX seconds."""

    number: int
    issued_at: float
    ends_at: float
    pem: bytes
    der: bytes


def make_authority(now: float) -> Authority:
    """Return a new CA, named by its own key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = f"Wherry CA {fingerprint_of(_spki(key.public_key()))[:12]}"
    certificate = (
        _builder(name, key.public_key(), issuer=name, start=now, end=now + CA_LIFETIME_S)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_USAGE_OF_CA, critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(key, certificate)


def found_authority(folder: Path, now: float) -> Authority:
    """Return the CA in `folder`, made there where there is none; its key is for the owner alone."""
    if not (folder / CA).exists():  # Written last, so a torn founding is begun again.
        made = make_authority(now)
        write_whole(folder / CA_KEY, private_pem(made.key), mode=0o600)
        write_whole(folder / CA, certificate_pem(made))
    return read_authority(folder)


def read_authority(folder: Path) -> Authority:
    """Return the CA in `folder`; raise `NoAuthority` where it is not whole."""
    try:
        certificate = x509.load_pem_x509_certificate((folder / CA).read_bytes())
        key = load_pem_private_key((folder / CA_KEY).read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise NoAuthority(folder / CA) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not _is_of(key, certificate):
        raise NoAuthority(folder / CA_KEY)
    return Authority(key, certificate)


def certificate_pem(authority: Authority) -> bytes:
    return authority.certificate.public_bytes(Encoding.PEM)


def ca_fingerprint(authority: Authority) -> Digest:
    """Return what a device pins: the sha256 of the CA's certificate in DER."""
    return fingerprint_of(authority.certificate.public_bytes(Encoding.DER))


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_request(pem: str) -> Request:
    """Return the request in `pem`; raise `BadRequest`.

    Its own signature proves that who asks has the key. What it says of names is not read.
    """
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        public = request.public_key()
        is_sound = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadRequest("cannot be read") from error
    if not _is_p256(public):
        raise BadRequest("has a key of another kind")
    if not is_sound:
        raise BadRequest("is not signed by its own key")
    assert isinstance(public, ec.EllipticCurvePublicKey)
    digest = fingerprint_of(request.public_bytes(Encoding.DER))
    return Request(digest, fingerprint_of(_spki(public)), public)


def is_signed_by(certificate: str, data: bytes, signature: str) -> bool:
    """Say whether the key in a certificate made this signature (hexadecimal) over `data`."""
    public = x509.load_pem_x509_certificate(certificate.encode()).public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    try:
        public.verify(bytes.fromhex(signature), data, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


def issue_client(
    authority: Authority,
    name: str,
    public: ec.EllipticCurvePublicKey,
    *,
    now: float,
    lifetime_s: float = SERVER_LIFETIME_S,
) -> Issued:
    """Certify the key of a device, or of the controller itself: to show it, and nothing else."""
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = _leaf(authority, name, public, now=now, lifetime_s=lifetime_s)
    return _issued(builder.add_extension(usage, critical=True), authority)


def issue_server(
    authority: Authority,
    names: Sequence[str],
    public: ec.EllipticCurvePublicKey,
    *,
    now: float,
    lifetime_s: float = SERVER_LIFETIME_S,
) -> Issued:
    """Certify a server's key under its DNS names and addresses."""
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    builder = (
        _leaf(authority, names[0], public, now=now, lifetime_s=lifetime_s)
        .add_extension(
            x509.SubjectAlternativeName([_general(one) for one in names]), critical=False
        )
        .add_extension(usage, critical=True)
    )
    return _issued(builder, authority)


def make_crl(
    authority: Authority, revoked: Iterable[Revoked], before: Crl | None, now: float
) -> Crl:
    """Return the list of what is revoked, newer than the one before.

    OpenSSL takes the newest of several by their dates, which have whole seconds: two lists of one
    second would leave the older in force.
    """
    number = before.number + 1 if before else 1
    issued_at = float(int(now - BACKDATE_S))
    if before is not None:
        issued_at = max(issued_at, before.issued_at + 1)
    ends_at = float(int(now + CRL_LIFETIME_S))
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(_moment(issued_at))
        .next_update(_moment(ends_at))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_signer(authority), critical=False)
    )
    for one in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(int(one.serial, 16))
            .revocation_date(_moment(one.at))
            .build()
        )
    made = builder.sign(authority.key, hashes.SHA256())
    return Crl(
        number=number,
        issued_at=issued_at,
        ends_at=ends_at,
        pem=made.public_bytes(Encoding.PEM),
        der=made.public_bytes(Encoding.DER),
    )


def write_crl(folder: Path, crl: Crl) -> None:
    """Put a list into `folder` in both forms, PEM last: that is the one that is read back."""
    write_whole(folder / CRL_DER, crl.der)
    write_whole(folder / CRL_PEM, crl.pem)


def read_crl(folder: Path) -> Crl | None:
    """Return the list in `folder`, None where there is none that can be read."""
    try:
        pem = (folder / CRL_PEM).read_bytes()
        crl = x509.load_pem_x509_crl(pem)
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except (OSError, ValueError, x509.ExtensionNotFound):
        return None
    ends = crl.next_update_utc
    return Crl(
        number=number,
        issued_at=crl.last_update_utc.timestamp(),
        ends_at=ends.timestamp() if ends else 0.0,
        pem=pem,
        der=crl.public_bytes(Encoding.DER),
    )


def _builder(
    name: str, public: ec.EllipticCurvePublicKey, *, issuer: str, start: float, end: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_moment(start - BACKDATE_S))
        .not_valid_after(_moment(end))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _leaf(
    authority: Authority,
    name: str,
    public: ec.EllipticCurvePublicKey,
    *,
    now: float,
    lifetime_s: float,
) -> x509.CertificateBuilder:
    (issuer,) = authority.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return (
        _builder(name, public, issuer=str(issuer.value), start=now, end=now + lifetime_s)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_USAGE_OF_LEAF, critical=True)
        .add_extension(_signer(authority), critical=False)
    )


def _issued(builder: x509.CertificateBuilder, authority: Authority) -> Issued:
    certificate = builder.sign(authority.key, hashes.SHA256())
    return Issued(
        serial=f"{certificate.serial_number:x}",
        pem=certificate.public_bytes(Encoding.PEM).decode(),
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
    )


def _signer(authority: Authority) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(int(seconds), UTC)


def _spki(public: ec.EllipticCurvePublicKey) -> bytes:
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _is_p256(public: object) -> bool:
    return isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1)


def _is_of(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> bool:
    return key.public_key() == certificate.public_key()
