"""Bundles go from one controller to another as files, and only with a signature that is trusted."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders import a_key
from tests.controller.cli.conftest import Wherry
from tests.controller.cli.test_remote_commands import PROFILE, ends
from tests.controller.scripted import a_profile_file, write_version
from tests.controller.served import TOKEN, Served, a_served_controller
from tests.controller.trusts import target_of
from wherry import signing
from wherry.names import parse_digest
from wherry_controller import key_files
from wherry_controller.cli.outcome import Exit
from wherry_controller.key_files import KeyRole, PublicKey
from wherry_controller.services.trust import Trust


@pytest.fixture
def key(tmp_path: Path) -> Path:
    public = PublicKey(KeyRole.BUNDLE, a_key(2).public_key())
    return key_files.write_public(tmp_path, public)


@pytest.fixture
def built(online: Wherry, tmp_path: Path) -> Wherry:
    """A command line whose controller has built one version."""
    profile = tmp_path / "profile.toml"
    profile.write_bytes(a_profile_file(PROFILE))
    assert online("profile", "add", profile).status == 0
    assert online("model", "add", write_version(tmp_path / "v1")).status == 0
    assert online("build", "digits:v1", "-p", PROFILE).status == 0
    return online


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "elsewhere").mkdir()
    with a_served_controller(tmp_path / "elsewhere") as served:
        yield served


def layout_of(built: Wherry, to: Path) -> Path:
    assert built("bundle", "export", "digits:v1", "-o", to).status == 0
    return to


@pytest.fixture
def away(built: Wherry, elsewhere: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A layout of what one controller has built; commands go to another one from here on."""
    layout = layout_of(built, tmp_path / "one.tar")
    monkeypatch.setenv("WHERRY_URL", elsewhere.url)
    monkeypatch.setenv("WHERRY_TOKEN", TOKEN)
    return layout


def test_the_same_bundles_are_exported_as_the_same_bytes(built: Wherry, tmp_path: Path) -> None:
    (listed,) = built("bundle", "list", "--json").items
    one = layout_of(built, tmp_path / "one.tar")
    other = tmp_path / "other.tar"
    assert built("bundle", "export", str(listed["bundle"]), "digits:v1", "-o", other).status == 0
    assert one.read_bytes() == other.read_bytes()
    folder = layout_of(built, tmp_path / "folder")
    with tarfile.open(one) as archive:
        for member in archive:
            packed = archive.extractfile(member)
            assert packed and packed.read() == (folder / member.name).read_bytes()


def test_an_exported_bundle_is_inspected_and_verified_where_no_controller_is(
    built: Wherry, key: Path, tmp_path: Path
) -> None:
    (listed,) = built("bundle", "list", "--json").items
    for place in (layout_of(built, tmp_path / "folder"), layout_of(built, tmp_path / "one.tar")):
        assert str(listed["bundle"]) in built("bundle", "inspect", place).out
        verified = built("bundle", "verify", place, "--key", key)
        assert verified.status == 0 and str(listed["bundle"]) in verified.out
    other = tmp_path / "other.pem"
    other.write_bytes(signing.public_pem(a_key(9).public_key()))
    ends(built("bundle", "verify", place, "--key", other), Exit.REFUSED, "signed by")


def test_a_blob_that_was_altered_in_a_layout_is_found(
    built: Wherry, key: Path, tmp_path: Path
) -> None:
    folder = layout_of(built, tmp_path / "folder")
    largest = max((folder / "blobs/sha256").iterdir(), key=lambda file: file.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[-1] ^= 1
    largest.write_bytes(data)
    ends(built("bundle", "verify", folder, "--key", key), Exit.REFUSED, "were altered")


def test_a_bundle_is_taken_in_by_another_controller_and_exported_again_as_it_was(
    built: Wherry, key: Path, away: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        assert "is imported" in built("bundle", "import", away, "--key", key).out
    (imported,) = built("bundle", "list", "--json").items
    assert str(imported["bundle"]) in built("bundle", "inspect", away).out
    assert layout_of(built, tmp_path / "again.tar").read_bytes() == away.read_bytes()
    told = built("audit", "list", "--kind", "imported").out
    assert told.count("digits:v1") == 1


def test_devices_are_told_that_an_imported_bundle_is_vouched_for(
    built: Wherry, key: Path, away: Path, elsewhere: Served
) -> None:
    assert built("bundle", "import", away, "--key", key).status == 0
    (imported,) = built("bundle", "list", "--json").items
    target = target_of(elsewhere.store, Trust(dict), parse_digest(str(imported["bundle"])))
    assert target is not None and target.version == "v1"


def test_an_imported_version_cannot_be_built_before_its_files_are_added(
    built: Wherry, key: Path, away: Path, tmp_path: Path
) -> None:
    built("bundle", "import", away, "--key", key)
    ends(built("build", "digits:v1", "-p", PROFILE), Exit.REFUSED, "imported without its files")
    assert built("model", "add", tmp_path / "v1").status == 0
    assert built("build", "digits:v1", "-p", PROFILE).status == 0


def test_a_bundle_that_a_stranger_signed_is_not_taken_in(
    built: Wherry, away: Path, tmp_path: Path
) -> None:
    stranger = tmp_path / "stranger.pem"
    stranger.write_bytes(signing.public_pem(a_key(9).public_key()))
    ends(built("bundle", "import", away, "--key", stranger), Exit.REFUSED, "signed by")
    assert built("bundle", "list", "--json").items == []
    assert list((tmp_path / "elsewhere" / "blobs").rglob("*")) == []


def test_a_bundle_for_another_hardware_class_of_the_same_name_is_not_taken_in(
    built: Wherry, key: Path, away: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.toml"
    other.write_bytes(a_profile_file(PROFILE) + b"\nthreads = 3\n")
    assert built("profile", "add", other).status == 0
    ends(built("bundle", "import", away, "--key", key), Exit.REFUSED, "rename one of them")


def test_a_name_that_is_taken_is_not_written_over(built: Wherry, tmp_path: Path) -> None:
    tar = layout_of(built, tmp_path / "one.tar")
    before = tar.read_bytes()
    again = built("bundle", "export", "digits:v1", "-o", tar)
    ends(again, Exit.REFUSED, "there already")
    assert tar.read_bytes() == before


def test_what_is_no_layout_is_refused_in_one_line(built: Wherry, key: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ends(built("bundle", "verify", tmp_path / "empty", "--key", key), Exit.USAGE, "index.json")
    (tmp_path / "not.tar").write_bytes(b"no tar")
    ends(built("bundle", "import", tmp_path / "not.tar", "--key", key), Exit.USAGE, "tar")
    gone = tmp_path / "gone.tar"
    ends(built("bundle", "inspect", gone), Exit.USAGE, "not there")


def test_members_of_a_tar_that_are_no_files_are_not_followed(
    built: Wherry, key: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(json.dumps({"schemaVersion": 2}))
    with tarfile.open(tmp_path / "links.tar", "w") as archive:
        link = tarfile.TarInfo("index.json")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(link, io.BytesIO())
    ends(built("bundle", "inspect", tmp_path / "links.tar"), Exit.USAGE, "index.json is missing")
