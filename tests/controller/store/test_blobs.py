"""The blob folder: named by digest, bounded, verified."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import a_digest
from wherry.blobs import WrongBytes
from wherry_controller.store.blobs import BlobFolder, LostBlob, TooLarge


def test_a_blob_comes_back_by_its_digest(tmp_path: Path) -> None:
    folder = BlobFolder(tmp_path / "blobs")
    digest = folder.put(b"some bytes")
    assert folder.put(b"some bytes") == digest
    assert folder.get(digest) == b"some bytes"
    assert folder.part(digest, 5, 100) == b"bytes"


def test_a_blob_that_the_disk_changed_is_not_given_out(tmp_path: Path) -> None:
    folder = BlobFolder(tmp_path)
    digest = folder.put(b"some bytes")
    folder.path(digest).write_bytes(b"same bytes")
    with pytest.raises(WrongBytes):
        folder.get(digest)
    with pytest.raises(WrongBytes):
        folder.copy(digest, tmp_path / "copy")


def test_a_blob_over_the_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TooLarge, match="11 bytes and 10 are allowed"):
        BlobFolder(tmp_path, limit_bytes=10).put(bytes(11))


def test_a_blob_that_is_not_there_is_lost(tmp_path: Path) -> None:
    with pytest.raises(LostBlob, match="restore"):
        BlobFolder(tmp_path).get(a_digest())
    with pytest.raises(LostBlob, match="restore"):
        BlobFolder(tmp_path).copy(a_digest(), tmp_path / "copy")
