"""An OCI image layout on this machine's disk: a folder, or the same files as one tar.

Written whole or not at all, under a name that was free. A tar has its members in order and no
times or owners, so that equal layouts are equal bytes. What is read is bounded by what its
descriptor says, and verified by whoever asked for it.
"""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from wherry.blobs import WrongBytes
from wherry.files import TEMPORARY, sync_folder
from wherry.names import Digest
from wherry_controller.cli.outcome import Ended, Exit
from wherry_controller.core.exchange import (
    BLOBS,
    INDEX_FILE,
    LARGEST_DOCUMENT_BYTES,
    BadLayout,
    Layout,
)

TAR = ".tar"
PIECE_BYTES = 1 << 20

Filler = Callable[[Digest, IO[bytes]], None]


class Opened(Protocol):
    """A layout that can be read: a folder or a tar."""

    def open(self, path: str) -> IO[bytes]:
        """Return a file of the layout; raise `BadLayout` where there is none."""


class Folder:
    def __init__(self, place: Path) -> None:
        self._place = place

    def open(self, path: str) -> IO[bytes]:
        file = self._place / path
        if not file.is_file():
            raise BadLayout(f"{path} is missing")
        return file.open("rb")


class Tar:
    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._members = {member.name: member for member in archive if member.isreg()}

    def open(self, path: str) -> IO[bytes]:
        member = self._members.get(path)
        file = self._archive.extractfile(member) if member else None
        if file is None:
            raise BadLayout(f"{path} is missing")
        return file


@contextmanager
def opened(place: Path) -> Iterator[Opened]:
    """Open the layout at `place`; raise `BadLayout` where there is none."""
    if place.is_dir():
        yield Folder(place)
        return
    try:
        with tarfile.open(place, "r:") as archive:
            yield Tar(archive)
    except FileNotFoundError as error:
        raise Ended(Exit.USAGE, f"{place} is not there: give a layout's folder or tar.") from error
    except tarfile.TarError as error:
        raise BadLayout(f"{place} is neither a folder nor a tar ({error})") from error


def index_of(layout: Opened) -> bytes:
    with layout.open(INDEX_FILE) as file:
        return file.read(LARGEST_DOCUMENT_BYTES + 1)


def reader_of(layout: Opened) -> Callable[[Digest, int], bytes]:
    """Return what gives a document of the layout, never more than one byte too much."""

    def read(digest: Digest, size: int) -> bytes:
        with layout.open(f"{BLOBS}/{digest}") as file:
            return file.read(size + 1)

    return read


def check_blob(layout: Opened, digest: Digest, size: int) -> None:
    """Read a blob piece by piece; raise `WrongBytes` where it is not what its name says."""
    hasher, length = hashlib.sha256(), 0
    with layout.open(f"{BLOBS}/{digest}") as file:
        while length <= size and (piece := file.read(PIECE_BYTES)):
            hasher.update(piece)
            length += len(piece)
    if length != size or hasher.hexdigest() != digest:
        raise WrongBytes(digest, hasher.hexdigest())


def write(layout: Layout, to: Path, fill: Filler) -> None:
    """Write a layout to `to`; `fill` gives the blobs' bytes. A name that is taken is refused."""
    if to.exists():
        raise Ended(Exit.REFUSED, f"{to} is there already: choose another name.")
    if not to.parent.is_dir():
        raise Ended(Exit.USAGE, f"{to.parent} is no folder: make it first.")
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=to.parent) as place:
        made = Path(place) / "layout"
        _write_folder(layout, made, fill)
        if to.suffix == TAR:
            packed = Path(place) / "layout.tar"
            _pack(made, packed)
            made = packed
        made.replace(to)
    sync_folder(to.parent)


def _write_folder(layout: Layout, folder: Path, fill: Filler) -> None:
    for path, data in layout.documents.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    for digest, size in layout.blobs.items():
        with (folder / BLOBS / digest).open("wb") as sink:
            fill(digest, sink)
        check_blob(Folder(folder), digest, size)


def _pack(folder: Path, to: Path) -> None:
    files = {
        file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()
    }
    with tarfile.open(to, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size = files[name].stat().st_size
            with files[name].open("rb") as file:
                archive.addfile(member, file)
