"""A device's papers are the old ones or the new ones, whole, wherever the power fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.builders import a_device_id
from tests.enrolled import an_enrolled_home, papers_of
from wherry.names import ProfileName
from wherry_agent.papers import (
    Asked,
    forget_asked,
    read_asked,
    read_papers,
    write_asked,
    write_papers,
)
from wherry_agent.settings import Identity, read_identity, read_root, read_settings

PI = a_device_id("pi-1")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return an_enrolled_home(
        tmp_path / "home", "mqtts://b.example", PI, ProfileName("pi"), b"{}", epoch=3
    )


def test_an_enrolled_home_is_what_the_agent_reads(home: Path) -> None:
    assert (read_identity(home).device, read_identity(home).epoch) == (PI, 3)
    assert read_settings(home).broker == "mqtts://b.example"
    assert read_root(home) == b"{}"
    assert read_papers(home) == papers_of(PI, 3)


def test_only_the_owner_reads_the_key(home: Path) -> None:
    assert (home / "identity" / "key.pem").stat().st_mode & 0o077 == 0
    write_asked(home, Asked(b"key", b"request"))
    assert (home / "identity-asked" / "key.pem").stat().st_mode & 0o077 == 0


def renewed(identity: Identity) -> Identity:
    return replace(identity, serial="ab" * 10)


def test_new_papers_take_the_place_of_the_old_ones_whole(home: Path) -> None:
    new = renewed(read_identity(home))
    write_papers(home, papers_of(PI, 9), new)
    assert (read_identity(home), read_papers(home)) == (new, papers_of(PI, 9))
    assert [path.name for path in home.glob("identity-*")] == [f"identity-{new.serial}"]


@pytest.mark.parametrize("kept", ["key.pem", "cert.pem", "ca.pem", "identity.json"])
def test_papers_that_a_power_cut_left_half_written_are_nobodys(home: Path, kept: str) -> None:
    old, papers = read_identity(home), read_papers(home)
    half = home / f"identity-{renewed(old).serial}"
    half.mkdir()
    (half / kept).write_bytes(b"torn")
    (home / "identity-link").symlink_to(half.name)
    assert (read_identity(home), read_papers(home)) == (old, papers)
    write_papers(home, papers_of(PI, 9), renewed(old))
    assert read_papers(home) == papers_of(PI, 9)
    assert read_identity(home) == renewed(old)


def test_what_was_asked_for_is_kept_until_it_is_answered(home: Path) -> None:
    assert read_asked(home) is None
    write_asked(home, Asked(b"key", b"request"))
    assert read_asked(home) == Asked(b"key", b"request")
    forget_asked(home)
    assert read_asked(home) is None
