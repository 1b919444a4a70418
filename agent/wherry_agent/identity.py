"""Keys and certificates of a device: the one module that knows x509, and the child that renews.

`python -m wherry_agent.identity HOME --floor SECONDS` renews the papers of HOME once and prints
what came of it as one line of JSON. A child does it, so that the supervisor never imports x509.

What came back is believed no further than it must be: a certificate for this very key, under the
same name, issued by the CA that is pinned.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from wherry import codec
from wherry.enrolment import Enrolled, Renewal, RenewRequest, fingerprint_of
from wherry.errors import REFUSALS, Malformed, Unavailable, Untrusted
from wherry.names import Digest
from wherry_agent.core.dates import Dates, Verdict
from wherry_agent.core.renewal import Outcome, Renewed
from wherry_agent.door import Door, DoorBusy
from wherry_agent.papers import (
    Asked,
    Papers,
    forget_asked,
    read_asked,
    read_papers,
    write_asked,
    write_papers,
)
from wherry_agent.settings import Identity, NotEnrolled, read_identity, read_settings


class WrongCertificate(Untrusted):
    """A certificate that is not the one that was asked for."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"the controller's certificate {self.problem}: enrol again, and tell the operator."


def ask(home: Path) -> Asked:
    """Return what to ask a controller to certify: what was asked before and not answered, or anew.

    It is on the disk before anyone is asked. The request names nobody: the controller does.
    """
    known = read_asked(home)
    if known is not None and _is_whole(known):
        return known
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "wherry-agent")])
    request = x509.CertificateSigningRequestBuilder(name).sign(key, hashes.SHA256())
    asked = Asked(
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        request=request.public_bytes(Encoding.PEM),
    )
    write_asked(home, asked)
    return asked


def fingerprint_of_key(asked: Asked) -> Digest:
    """Return what an operator compares before he approves a key."""
    public = _key_in(asked.key).public_key()
    return fingerprint_of(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def identify(asked: Asked, answer: Enrolled, ca: bytes) -> Identity:
    """Return the identity that came back; raise `WrongCertificate` where it is not sound.

    `ca` is the one that is pinned, whatever the answer names.
    """
    certificate = _sound_certificate(asked, answer, ca)
    return Identity(
        device=answer.device,
        epoch=answer.epoch,
        serial=f"{certificate.serial_number:x}",
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
    )


def papers_of(asked: Asked, answer: Enrolled, ca: bytes) -> Papers:
    """Return the papers of an identity that was found sound."""
    return Papers(key=asked.key, certificate=answer.certificate.encode(), ca=ca)


def accept(home: Path, asked: Asked, answer: Enrolled, ca: bytes, *, renews: Identity) -> Identity:
    """Make what came back the papers of `home`: the same device's, in the same epoch.

    Raises `WrongCertificate` where it is not sound.
    """
    if (answer.device, answer.epoch) != (renews.device, renews.epoch):
        raise WrongCertificate(f"is for {answer.device}, epoch {answer.epoch}")
    identity = identify(asked, answer, ca)
    write_papers(home, papers_of(asked, answer, ca), identity)
    forget_asked(home)
    return identity


def renew(home: Path, *, floor: float, now: float) -> Renewed:
    """Renew the papers of `home` at its controller's door.

    Whoever renews for a year after the end proves only the key, so the old papers are enough.
    """
    peers: list[tuple[Dates, Verdict]] = []
    settings, old, papers = read_settings(home), read_identity(home), read_papers(home)
    if settings.controller is None:
        return Renewed(outcome=Outcome.REFUSED, why="no door is set: enrol again.")
    asked = ask(home)
    door = Door(
        url=settings.controller,
        ca=papers.ca,
        floor=max(floor, old.not_before),
        on_peer=lambda dates, verdict: peers.append((dates, verdict)),
    )
    at = max(now, floor, old.not_before)
    answer = door.renew(_proof(old, papers, asked, at))
    new = accept(home, asked, answer, papers.ca, renews=old)
    return Renewed(
        outcome=Outcome.RENEWED,
        proved_s=max(new.not_before, *(dates.begins for dates, _ in peers)),
        clock_ahead=any(verdict is Verdict.CLOCK_AHEAD for _, verdict in peers),
    )


def main(arguments: list[str] | None = None) -> int:
    """Renew once and say what came of it; the exit code is 0 where it was said."""
    parser = argparse.ArgumentParser(prog="wherry_agent.identity")
    parser.add_argument("home", type=Path)
    parser.add_argument("--floor", type=float, required=True)
    options = parser.parse_args(arguments)
    renewed = _told(lambda: renew(options.home, floor=options.floor, now=time.time()))
    sys.stdout.buffer.write(codec.encode(renewed) + b"\n")
    return 0


def _told(act: Callable[[], Renewed]) -> Renewed:
    try:
        return act()
    except DoorBusy as error:
        return Renewed(outcome=Outcome.UNAVAILABLE, why=str(error), wait_s=error.wait_s)
    except NotEnrolled as error:
        return Renewed(outcome=Outcome.REFUSED, why=str(error))
    except (Unavailable, OSError) as error:
        return Renewed(outcome=Outcome.UNAVAILABLE, why=str(error))
    except REFUSALS as error:
        return Renewed(outcome=Outcome.REFUSED, why=str(error))


def _proof(old: Identity, papers: Papers, asked: Asked, at: float) -> RenewRequest:
    renewal = codec.encode(
        Renewal(device=old.device, serial=old.serial, csr=asked.request.decode(), at=math.ceil(at))
    )
    signature = _key_in(papers.key).sign(renewal, ec.ECDSA(hashes.SHA256()))
    return RenewRequest(renewal=msgspec.Raw(renewal), signature=signature.hex())


def _sound_certificate(asked: Asked, answer: Enrolled, ca: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(answer.certificate.encode())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca))
    except (ValueError, TypeError, InvalidSignature) as error:
        raise WrongCertificate("is not issued by its CA") from error
    if certificate.public_key() != _key_in(asked.key).public_key():
        raise WrongCertificate("is for another key")
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if [name.value for name in names] != [answer.device]:
        raise WrongCertificate("bears another name")
    return certificate


def _is_whole(asked: Asked) -> bool:
    """Say whether a request that a power cut may have torn is sound, and its key's."""
    try:
        request = x509.load_pem_x509_csr(asked.request)
        return request.public_key() == _key_in(asked.key).public_key()
    except (ValueError, Malformed):
        return False


def _key_in(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise WrongCertificate("is for a key of another kind")
    return key


if __name__ == "__main__":
    sys.exit(main())
