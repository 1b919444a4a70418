"""A device believes no certificate but one for its own key, by its own CA, under its own name."""

from __future__ import annotations

import datetime
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec.structs import replace

from tests.builders import a_device_id
from tests.enrolled import TestAuthority, an_authority, an_enrolled_home
from wherry.enrolment import Enrolled
from wherry.names import ProfileName
from wherry_agent.core.renewal import Outcome
from wherry_agent.identity import WrongCertificate, accept, ask, identify, renew
from wherry_agent.papers import Asked, read_asked, read_papers, write_asked
from wherry_agent.settings import NotEnrolled, read_identity

PI = a_device_id("pi-1")
UTC = datetime.timezone(datetime.timedelta())


def certified(asked: Asked, *, name: str = PI, by: TestAuthority | None = None) -> Enrolled:
    """Return an answer that certifies what was asked for."""
    authority = by or an_authority()
    now = datetime.datetime.now(UTC).replace(microsecond=0)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(authority.certificate.subject)
        .public_key(x509.load_pem_x509_csr(asked.request).public_key())
        .serial_number(77)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=30))
        .sign(authority.key, hashes.SHA256())
    )
    return Enrolled(
        device=PI,
        profile=ProfileName("pi"),
        epoch=1,
        serial="of no account",
        not_before=0.0,
        not_after=0.0,
        at=0.0,
        certificate=certificate.public_bytes(Encoding.PEM).decode(),
        ca="of no account",
        root=msgspec.Raw(b"{}"),
        broker="mqtts://b.example",
    )


CA_PEM = an_authority().certificate.public_bytes(Encoding.PEM)


def test_what_was_asked_for_becomes_the_papers_with_the_pinned_ca(tmp_path: Path) -> None:
    home = an_enrolled_home(tmp_path / "home", "mqtts://b", PI, ProfileName("pi"), b"{}")
    asked = ask(home)
    identity = accept(home, asked, certified(asked), CA_PEM, renews=read_identity(home))
    assert (identity.device, identity.serial) == (PI, "4d")
    assert identity.not_after - identity.not_before == 30 * 86_400
    assert read_identity(home) == identity
    assert read_papers(home).ca == CA_PEM
    assert read_asked(home) is None


def refuses(home: Path, asked: Asked, answer: Enrolled, problem: str) -> None:
    with pytest.raises(WrongCertificate, match=problem):
        identify(asked, answer, CA_PEM)
    home = an_enrolled_home(home / "home", "mqtts://b", PI, ProfileName("pi"), b"{}")
    old, papers = read_identity(home), read_papers(home)
    with pytest.raises(WrongCertificate, match=problem):
        accept(home, asked, answer, CA_PEM, renews=old)
    assert (read_identity(home), read_papers(home)) == (old, papers)


def test_a_certificate_of_another_ca_is_refused(tmp_path: Path) -> None:
    asked = ask(tmp_path)
    other = an_authority("another CA")
    refuses(tmp_path, asked, certified(asked, by=other), "is not issued by its CA")
    posing = TestAuthority(other.key, an_authority().certificate)
    refuses(tmp_path, asked, certified(asked, by=posing), "is not issued by its CA")


def test_a_certificate_for_another_key_is_refused(tmp_path: Path) -> None:
    asked = ask(tmp_path)
    answer = certified(ask(tmp_path / "another"))
    refuses(tmp_path, asked, answer, "is for another key")


def test_a_certificate_under_another_name_is_refused(tmp_path: Path) -> None:
    asked = ask(tmp_path)
    refuses(tmp_path, asked, certified(asked, name="pi-2"), "bears another name")


def test_what_is_no_certificate_is_refused(tmp_path: Path) -> None:
    asked = ask(tmp_path)
    refuses(tmp_path, asked, replace(certified(asked), certificate="none"), "is not issued by")


@pytest.mark.parametrize("change", [{"epoch": 2}, {"device": a_device_id("pi-2")}])
def test_a_renewal_stays_the_same_device_in_the_same_epoch(
    tmp_path: Path, change: dict[str, object]
) -> None:
    home = an_enrolled_home(tmp_path / "home", "mqtts://b", PI, ProfileName("pi"), b"{}")
    old, papers = read_identity(home), read_papers(home)
    asked = ask(home)
    answer = certified(asked, name=str(change.get("device", PI)))
    with pytest.raises(WrongCertificate, match="is for pi-"):
        accept(home, asked, replace(answer, **change), CA_PEM, renews=old)
    assert (read_identity(home), read_papers(home)) == (old, papers)


def test_the_same_is_asked_for_until_it_is_answered(tmp_path: Path) -> None:
    asked = ask(tmp_path)
    assert ask(tmp_path) == asked


def test_what_a_power_cut_tore_is_asked_for_anew(tmp_path: Path) -> None:
    asked, other = ask(tmp_path), ask(tmp_path / "other")
    write_asked(tmp_path, Asked(asked.key, b"torn"))
    assert ask(tmp_path).key != asked.key
    write_asked(tmp_path, Asked(asked.key, other.request))
    assert ask(tmp_path).key not in (asked.key, other.key)
    write_asked(tmp_path, Asked(b"torn", asked.request))
    assert ask(tmp_path).key not in (asked.key, other.key)


def test_a_home_without_a_door_is_never_renewed(tmp_path: Path) -> None:
    home = an_enrolled_home(tmp_path / "home", "mqtts://b", PI, ProfileName("pi"), b"{}")
    assert renew(home, floor=0.0, now=0.0).outcome is Outcome.REFUSED
    with pytest.raises(NotEnrolled):
        renew(tmp_path / "none", floor=0.0, now=0.0)
