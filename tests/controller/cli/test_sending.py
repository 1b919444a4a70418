"""Tests of what is sent with a card: image folders as zips of the same bytes, whole files."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from tests.controller.cli.conftest import Wherry
from tests.controller.scripted import write_version
from wherry_controller.cli.outcome import Exit
from wherry_controller.cli.sending import images_in, pack

IMAGES = {"cat/2.png": b"two", "cat/10.png": b"ten", "dog/1.png": b"one"}


def write_images(folder: Path) -> Path:
    for name, data in IMAGES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A version whose evaluation rows are images that nobody packed."""
    folder = write_version(tmp_path / "v1")
    card = (folder / "model.toml").read_text()
    (folder / "model.toml").write_text(card.replace("evaluation.npz", "images.zip"))
    (folder / "evaluation.npz").unlink()
    write_images(folder / "images")
    return folder


def test_the_same_images_are_packed_to_the_same_bytes(tmp_path: Path) -> None:
    one, other = write_images(tmp_path / "one"), write_images(tmp_path / "other")
    os.utime(other / "cat" / "2.png", (1e9, 1e9))
    (other / "cat" / "2.png").chmod(0o600)
    (other / ".DS_Store").touch()
    (other / "dog" / "Thumbs.db").touch()
    told: list[int] = []
    for folder in (one, other):
        pack(folder, images_in(folder), folder.with_suffix(".zip"), told.append)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "other.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == IMAGES
        assert archive.namelist() == sorted(IMAGES)
    assert told == [3] * 6


def test_a_folder_of_images_is_sent_as_the_zip_that_the_card_names(
    online: Wherry, version: Path
) -> None:
    before = sorted(version.rglob("*"))
    first = online("model", "add", version, "--json")
    assert first.status == 0, first.err
    assert online("model", "add", version, "--json").json["lineage"] == first.json["lineage"]
    assert sorted(version.rglob("*")) == before
    files = online("model", "show", "digits:v1", "--json").json["files"]
    assert isinstance(files, list) and "images.zip" in [file["name"] for file in files]


def test_a_zip_that_is_there_is_sent_and_not_the_folder(online: Wherry, version: Path) -> None:
    packed = online("model", "add", version, "--json").json
    (version / "images.zip").write_bytes(b"another")
    assert online("model", "add", version, "--json").status == Exit.REFUSED
    assert packed["status"] == "registered"


def test_a_folder_without_images_ends_with_a_sentence(online: Wherry, version: Path) -> None:
    for image in images_in(version / "images"):
        image.unlink()
    ended = online("model", "add", version)
    assert ended.status == Exit.USAGE
    assert "holds no images" in ended.err


def test_a_large_file_arrives_whole(online: Wherry, tmp_path: Path) -> None:
    folder = write_version(tmp_path / "v1")
    (folder / "weights.pt").write_bytes(os.urandom(9 << 20))
    assert online("model", "add", folder).status == 0
    files = online("model", "show", "digits:v1", "--json").json["files"]
    assert isinstance(files, list)
    assert {file["name"]: file["size_bytes"] for file in files}["weights.pt"] == 9 << 20
