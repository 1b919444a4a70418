"""What the keys' holders bring to a controller, and the log of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import A_TIME, a_bundle_of, an_alias
from tests.controller.cli.conftest import Wherry
from tests.controller.served import Served
from tests.trusted import EVIL_KEY, ROOT_KEYS, TARGETS_KEY, a_root, a_targets
from wherry.trust.repository import bin_of, listing_of
from wherry_controller import key_files
from wherry_controller.cli.outcome import Exit
from wherry_controller.core.audit import Kind
from wherry_controller.key_files import KeyRole, Passphrase
from wherry_controller.services import audit
from wherry_controller.services.trust import Trust
from wherry_controller.store.database import Store

SECRET = "correct horse battery"


def test_status_shows_who_signs_what(online: Wherry) -> None:
    shown = online("keys", "status")
    assert shown.status == 0, shown.err
    rows = {line.split()[0]: line for line in shown.out.splitlines()}
    assert "2 of 3" in rows["root"] and "before" in rows["root"]
    assert "1 of 1" in rows["timestamp"] and "by itself" in rows["timestamp"]
    assert {"root", "targets", "snapshot", "timestamp", "director", "bundle"} <= rows.keys()


def test_files_are_fetched_changed_signed_and_published(online: Wherry, tmp_path: Path) -> None:
    table, secret = tmp_path / "table", tmp_path / "secret"
    secret.write_text(SECRET)
    made = key_files.make_key(
        tmp_path, KeyRole.TARGETS, Passphrase(SECRET, 1 << 14), key=TARGETS_KEY
    )
    assert online("keys", "fetch", table).status == 0
    assert sorted(path.name for path in table.iterdir()) == ["1.root.json", "1.targets.json"]
    key = ("--key", made.private_path, "--passphrase-file", secret)
    assert online("keys", "renew", "--on", table / "1.targets.json", *key).status == 0
    (signed,) = table.glob("2.targets.*.json")
    published = online("keys", "publish", signed)
    assert published.status == 0 and published.out.strip() == "targets/2 published."
    before = {path: path.read_bytes() for path in table.iterdir()}
    assert online("keys", "fetch", table).status == 0
    assert {path: path.read_bytes() for path in table.iterdir()} == before
    assert "published" in online("audit", "list").out


def test_what_is_refused_is_not_published_and_stands_in_the_log(
    online: Wherry, tmp_path: Path
) -> None:
    file = tmp_path / "2.root.json"
    file.write_bytes(a_root(2, signed_by=[ROOT_KEYS[0], EVIL_KEY]).data)
    refused = online("keys", "publish", file)
    assert refused.status == Exit.REFUSED and "1 of 2 signatures" in refused.err
    assert "refused" in online("audit", "list", "--kind", "refused").out
    assert " 1 " in online("keys", "status").out.splitlines()[1]


def test_copies_are_merged_when_they_are_published(online: Wherry, tmp_path: Path) -> None:
    files = []
    for index, key in enumerate(ROOT_KEYS[:2]):
        file = tmp_path / f"{index}.json"
        file.write_bytes(a_root(2, signed_by=[key]).data)
        files.append(file)
    published = online("keys", "publish", *files)
    assert (published.status, published.out.strip()) == (0, "root/2 published.")


def test_no_text_is_published_as_metadata(online: Wherry, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"\xff{}")
    assert online("keys", "publish", file).status == Exit.USAGE


def test_a_minimum_above_every_release_is_refused(online: Wherry, tmp_path: Path) -> None:
    file = tmp_path / "2.targets.json"
    file.write_bytes(a_targets(2, min_release={an_alias(): 7}).data)
    refused = online("keys", "publish", file)
    assert refused.status == Exit.REFUSED and "no release yet" in refused.err


@pytest.fixture
def store(served: Served) -> Store:
    with served.store.transaction() as tx:
        for number in range(3):
            audit.note(tx, Kind.ENROLLED, {"device": f"pi-{number}"}, A_TIME)
    return served.store


def test_a_log_is_verified_by_whoever_reads_it(online: Wherry, store: Store) -> None:
    verified = online("audit", "verify")
    assert verified.status == 0, verified.err
    assert "4 entries follow from one another" in verified.out
    head = verified.out.splitlines()[-1]
    with store.transaction() as tx:
        audit.note(tx, Kind.REVOKED, {"device": "pi-1"}, A_TIME)
    assert online("audit", "verify", "--head", head).status == 0


def test_a_head_that_is_missing_says_that_the_end_was_cut_off(online: Wherry, store: Store) -> None:
    refused = online("audit", "verify", "--head", "ab" * 32)
    assert refused.status == Exit.REFUSED and "the end is missing" in refused.err


@pytest.mark.usefixtures("store")
def test_entries_are_listed_by_kind(online: Wherry) -> None:
    listed = online("audit", "list", "--kind", "enrolled")
    assert [f"pi-{number}" in listed.out for number in range(4)] == [True, True, True, False]
    assert "signed" not in listed.out


def test_a_strange_file_under_a_fetched_name_stays(online: Wherry, tmp_path: Path) -> None:
    (tmp_path / "1.root.json").write_bytes(a_root(7).data)
    refused = online("keys", "fetch", tmp_path)
    assert refused.status == Exit.REFUSED and "there already" in refused.err
    assert (tmp_path / "1.root.json").read_bytes() == a_root(7).data


def test_bins_wait_for_a_bundle_key_on_another_machine(
    online: Wherry, served: Served, tmp_path: Path
) -> None:
    secret, bundle = tmp_path / "secret", a_bundle_of(b"weights")
    secret.write_text(SECRET)
    apart = key_files.make_key(tmp_path / "apart", KeyRole.BUNDLE, Passphrase(SECRET, 1 << 14))
    _, key = key_files.open_key(apart.private_path, SECRET)
    file = tmp_path / "2.targets.json"
    file.write_bytes(a_targets(2, bundle=key).data)
    assert online("keys", "publish", file).status == 0
    trust = served.rollouts._trust
    assert isinstance(trust, Trust)
    with served.store.transaction() as tx:
        trust.add_bundle(tx, bundle.manifest, bundle.digest, A_TIME)
    name = f"1.{bin_of(bundle.digest)}.json"
    assert "wait for the bundle key" in online("keys", "status").out
    assert online("keys", "fetch", tmp_path / "table").status == 0
    words = ("--key", apart.private_path, "--passphrase-file", secret)
    signed = online("keys", "sign", tmp_path / "table" / name, *words)
    assert signed.status == 0, signed.err
    published = online("keys", "publish", signed.out.strip())
    assert published.status == 0, published.err
    assert "wait for the bundle key" not in online("keys", "status").out
    with served.store.reading() as tx:
        assert listing_of(trust.repository(tx, [bundle.digest]), bundle.digest) is not None
