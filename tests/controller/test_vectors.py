"""Golden vectors of what a controller keeps and takes: read, and written as the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.vectors import holding
from tests.vectors.cases import (
    FOLDER,
    Case,
    EntryCase,
    FileCase,
    KeyFileCase,
    LayoutCase,
    TokenCase,
    read,
)
from wherry import codec
from wherry.blobs import digest_of
from wherry.enrolment import Enrolled, EnrolRequest, Renewal, RenewRequest
from wherry.files import make_folder
from wherry.names import Digest
from wherry_controller import authority
from wherry_controller.cli import ceremonies
from wherry_controller.core import audit
from wherry_controller.core.audit import Kind
from wherry_controller.core.exchange import BLOBS, INDEX_FILE, read_layout
from wherry_controller.key_files import (
    KeyRole,
    Passphrase,
    open_key,
    read_public,
    seal,
    write_public,
)
from wherry_controller.key_files import PublicKey as Public


def test_every_file_is_what_would_be_written_today() -> None:
    kept = {f"controller/{path.name}": path for path in (FOLDER / "controller").glob("*.json")}
    written = holding.files()
    assert sorted(kept) == sorted(written)
    assert [name for name in kept if kept[name].read_bytes() != written[name]] == []


def test_the_kept_log_is_whole_and_its_entries_are_of_every_kind() -> None:
    cases = read("controller/audit.json", EntryCase)
    assert audit.verify(case.text for case in cases) == (len(cases), cases[-1].digest)
    assert [digest_of(case.text.encode()) for case in cases] == [case.digest for case in cases]
    entries = [codec.decode(audit.Entry, case.text.encode()) for case in cases]
    assert {entry.kind for entry in entries} == {kind.value for kind in Kind}
    assert [codec.encode(entry).decode() for entry in entries] == [case.text for case in cases]


def test_kept_key_files_open_and_are_sealed_as_the_same_bytes(tmp_path: Path) -> None:
    again = make_folder(tmp_path / "again")
    for case in read("controller/key_files.json", KeyFileCase):
        private, public = tmp_path / f"{case.role}.key.json", tmp_path / f"{case.role}.pub.json"
        private.write_text(case.private)
        public.write_text(case.public)
        role, key = open_key(private, case.passphrase)
        assert (role, key.private_bytes_raw().hex()) == (KeyRole(case.role), case.seed_hex)
        assert read_public(public) == Public(role, key.public_key())
        assert sealed_again(case) == case.private.encode()
        assert write_public(again, read_public(public)).read_text() == case.public


def sealed_again(case: KeyFileCase) -> bytes:
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(case.seed_hex))
    passphrase = Passphrase(case.passphrase, holding.CHEAPEST)
    salt, nonce = bytes.fromhex(case.salt_hex), bytes.fromhex(case.nonce_hex)
    return seal(key, KeyRole(case.role), passphrase, salt=salt, nonce=nonce)


def test_kept_files_of_a_ceremony_are_judged_as_they_were(tmp_path: Path) -> None:
    for case in read("controller/ceremony.json", FileCase):
        (tmp_path / case.path).write_text(case.text)
    is_met = {
        path.name: ceremonies.read_paper(path).is_met
        for path in tmp_path.iterdir()
        if path.name.count(".") == 2
    }
    assert is_met == {
        "1.root.json": True,
        "1.targets.json": True,
        "2.root.json": False,
        "2.targets.json": True,
        "4.bins-11.json": True,
    }


def test_kept_layouts_are_read_and_laid_out_as_the_same_bytes() -> None:
    wanted = holding.packages_of_layouts()
    for case in read("controller/layout.json", LayoutCase):
        documents = {path: text.encode() for path, text in case.documents.items()}
        packages, blobs = read_layout(documents[INDEX_FILE], _reader(documents))
        assert set(packages) == set(wanted[case.name])
        assert blobs == case.blobs


def _reader(documents: Mapping[str, bytes]) -> Callable[[Digest, int], bytes]:
    return lambda digest, _size: documents[f"{BLOBS}/{digest}"]


def test_kept_requests_are_read_and_the_kept_proof_is_by_the_key_of_the_kept_certificate() -> None:
    enrol = codec.decode(EnrolRequest, text_of("enrol", "with_a_token"))
    renew = codec.decode(RenewRequest, text_of("renew", "default"))
    answer = codec.decode(Enrolled, text_of("enrolled", "by_default"))
    renewal = codec.decode(Renewal, bytes(renew.renewal))
    assert (renewal.device, renewal.serial) == (answer.device, answer.serial)
    assert bytes(renew.renewal) == text_of("renewal", "default")
    first, second = (authority.read_request(csr) for csr in (enrol.csr, renewal.csr))
    assert first.fingerprint != second.fingerprint
    assert authority.is_signed_by(answer.certificate, bytes(renew.renewal), renew.signature)
    other = bytes(renew.renewal).replace(b"pi-1", b"pi-2")
    assert not authority.is_signed_by(answer.certificate, other, renew.signature)


def test_the_kept_ca_is_read_from_its_files(tmp_path: Path) -> None:
    (tmp_path / authority.CA_KEY).write_bytes(text_of("papers", "ca_key"))
    (tmp_path / authority.CA).write_bytes(text_of("papers", "ca"))
    read_back = authority.read_authority(tmp_path)
    assert authority.certificate_pem(read_back) == text_of("papers", "ca")
    assert authority.private_pem(read_back.key) == text_of("papers", "ca_key")
    (token,) = read("token.json", TokenCase)
    assert authority.ca_fingerprint(read_back) == token.ca


def text_of(name: str, case: str) -> bytes:
    (found,) = (one for one in read(f"{name}.json", Case) if one.name == case)
    return found.text.encode()
