"""Steps kept by content: the same source, recipe and tools give the folder that was made before.

    key = sha256(kind, facts, versions of the tools, the builder's own code)

A step fills a temporary folder, which is renamed when it is whole, so a build that was killed
leaves nothing that looks done. Two processes that want one step take turns, and the second finds
it made.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from wherry import codec
from wherry.blobs import digest_of
from wherry.files import make_folder, write_whole
from wherry_controller.core.build import TOOLS

T = TypeVar("T")

VALUE = "value.json"


@functools.cache
def tools() -> dict[str, str]:
    """Return the versions of everything that has a hand in a build, by name."""
    found = {name: version for name in TOOLS if (version := _version(name))}
    return found | {"builder": code_digest(Path(__file__).parents[1])}


@dataclass(frozen=True, slots=True)
class Cache:
    """The steps below `folder`, which is of one version: no other version's build writes there."""

    folder: Path
    made_by: Mapping[str, str] = field(default_factory=tools)

    def made(self, kind: str, facts: object, make: Callable[[Path], None]) -> Path:
        """Return the folder of a step; `make` fills an empty one if there is none yet."""
        place = self._place(kind, facts)
        if place.is_dir():
            return place
        make_folder(place.parent)
        with _turn(place.with_suffix(".lock")):
            if not place.is_dir():
                _fill(place, make)
        return place

    def value(self, kind: str, facts: object, shape: type[T], find: Callable[[], T]) -> T:
        """Return a step's result of type `shape`, which `find` works out if it is not known."""

        def write(folder: Path) -> None:
            write_whole(folder / VALUE, codec.encode(find()))

        data = (self.made(kind, facts, write) / VALUE).read_bytes()
        return codec.decode(shape, data)

    def known(self, kind: str, facts: object) -> Path | None:
        """Return the folder of a step that is made already, or None."""
        place = self._place(kind, facts)
        return place if place.is_dir() else None

    def _place(self, kind: str, facts: object) -> Path:
        return self.folder / kind / digest_of(codec.encode((kind, facts, self.made_by)))[:32]


def digest_of_file(file: Path) -> str:
    """Return the sha256 of a file's bytes without holding them all."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def code_digest(package: Path) -> str:
    """Return the digest of the builder's and the cores' source, so that a change makes all anew."""
    digest = hashlib.sha256()
    for file in sorted((*package.glob("builder/**/*.py"), *package.glob("core/*.py"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _fill(place: Path, make: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory(prefix=".making-", dir=place.parent) as temporary:
        folder = make_folder(Path(temporary) / "step")
        make(folder)
        folder.rename(place)


@contextmanager
def _turn(lock: Path) -> Iterator[None]:
    descriptor = os.open(lock, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def copy_into(source: Path, folder: Path) -> None:
    """Put the files of `source` into `folder`."""
    for file in sorted(source.rglob("*")):
        if file.is_file():
            to = folder / file.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            copy_file(file, to)


def copy_file(source: Path, to: Path) -> None:
    """Put a file at `to`, by a hard link where the disk allows it."""
    to.unlink(missing_ok=True)
    try:
        os.link(source, to)
    except OSError:
        shutil.copyfile(source, to)


def struct_facts(value: msgspec.Struct) -> object:
    """Return a struct as facts for a key."""
    return msgspec.to_builtins(value)
