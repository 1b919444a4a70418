"""A device's papers by fixed keys: what it asks the controller's door, and what it is answered.

Signatures here are made deterministically (RFC 6979), which real ones are not: what they are made
of is the format.
"""

from __future__ import annotations

import datetime
from functools import cache

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests import builders as a
from tests.builders import A_TIME
from tests.vectors.cases import Case, TokenCase
from tests.vectors.repository import FIRST
from wherry import codec
from wherry.enrolment import (
    Enrolled,
    EnrolRequest,
    Renewal,
    RenewRequest,
    Token,
    Waiting,
    fingerprint_of,
    secret_digest,
    token_text,
)
from wherry.profile import Facts
from wherry_agent.settings import Identity

DAY_S = 86_400
SERIAL = 0x1F00D5EA5
SECRET = "q" * 43
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)  # noqa: UP017 (Python 3.10)


@cache
def p256(seed: int) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(seed, ec.SECP256R1())


CA, DEVICE, NEXT = p256(1001), p256(1002), p256(1003)


def key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@cache
def ca() -> x509.Certificate:
    builder = _builder("Wherry CA vectors", CA.public_key(), serial=1, days=3650)
    return builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(
        CA, hashes.SHA256(), ecdsa_deterministic=True
    )


@cache
def certificate() -> x509.Certificate:
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = _builder(a.a_device_id(), DEVICE.public_key(), serial=SERIAL, days=30)
    return builder.add_extension(usage, critical=True).sign(
        CA, hashes.SHA256(), ecdsa_deterministic=True
    )


def request_pem(key: ec.EllipticCurvePrivateKey) -> str:
    builder = x509.CertificateSigningRequestBuilder(_name("wherry-agent"))
    made = builder.sign(key, hashes.SHA256(), ecdsa_deterministic=True)
    return made.public_bytes(Encoding.PEM).decode()


def certificate_pem(of: x509.Certificate) -> str:
    return of.public_bytes(Encoding.PEM).decode()


def enrolments() -> dict[str, dict[str, msgspec.Struct]]:
    """Return what a device and the door say to one another, by the name of its format."""
    csr = request_pem(DEVICE)
    return {
        "enrol": {
            "with_a_token": EnrolRequest(csr=csr, token=SECRET),
            "for_approval": EnrolRequest(
                csr=csr,
                device=a.a_device_id(),
                profile=a.a_profile().name,
                facts=Facts(arch="x86_64", cpu_features=("avx2",), cores=4, memory_bytes=1 << 32),
            ),
        },
        "renewal": {"default": renewal()},
        "renew": {"default": proof()},
        "enrolled": {"by_default": answer(), "with_other_ways": _answer_with_other_ways()},
        "waiting": {"default": Waiting(fingerprint=a.a_digest("key"), poll_s=30.0)},
        "identity": {"default": identity()},
    }


def renewal() -> Renewal:
    return Renewal(
        device=a.a_device_id(),
        serial=f"{SERIAL:x}",
        csr=request_pem(NEXT),
        at=A_TIME + 20 * DAY_S,
    )


def proof() -> RenewRequest:
    """Return a request to renew as the old key signs it."""
    signed = codec.encode(renewal())
    scheme = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    return RenewRequest(renewal=msgspec.Raw(signed), signature=DEVICE.sign(signed, scheme).hex())


def answer() -> Enrolled:
    return Enrolled(
        device=a.a_device_id(),
        profile=a.a_profile().name,
        epoch=1,
        serial=f"{SERIAL:x}",
        not_before=float(A_TIME),
        not_after=float(A_TIME + 30 * DAY_S),
        at=A_TIME + 0.5,
        certificate=certificate_pem(certificate()),
        ca=certificate_pem(ca()),
        root=msgspec.Raw(FIRST.root.data),
        broker="mqtts://wherry.example:8883",
    )


def _answer_with_other_ways() -> Enrolled:
    return msgspec.structs.replace(
        answer(),
        fetch_broker="mqtts://wherry.example:8884",
        blobs="https://wherry.example:8444/v1/blobs",
    )


def identity() -> Identity:
    return Identity(
        device=a.a_device_id(),
        epoch=1,
        serial=f"{SERIAL:x}",
        not_before=float(A_TIME),
        not_after=float(A_TIME + 30 * DAY_S),
    )


def ca_files() -> tuple[Case, ...]:
    """Return the papers themselves, as PEM."""
    return (
        Case("ca_key", key_pem(CA)),
        Case("ca", certificate_pem(ca())),
        Case("key", key_pem(DEVICE)),
        Case("next_key", key_pem(NEXT)),
    )


def tokens() -> tuple[TokenCase, ...]:
    fingerprint = fingerprint_of(ca().public_bytes(Encoding.DER))
    text = token_text(Token(SECRET, fingerprint))
    return (TokenCase(SECRET, fingerprint, secret_digest(SECRET), text),)


def _builder(
    name: str, public: ec.EllipticCurvePublicKey, *, serial: int, days: int
) -> x509.CertificateBuilder:
    begins = _EPOCH + datetime.timedelta(seconds=A_TIME)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name("Wherry CA vectors"))
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(begins)
        .not_valid_after(begins + datetime.timedelta(days=days))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
