"""Registers a card with its files: image folders are packed, and large files show how far they are.

Packing is the same bytes for the same images, so the version stays the same one.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from wherry_controller.cli import show
from wherry_controller.cli.outcome import Ended, Exit
from wherry_controller.cli.remote import connect
from wherry_controller.core.card import files_of, parse_card

CARD = "model.toml"
IMAGES = ".zip"
LARGE_BYTES = 8 << 20
EARLIEST = (1980, 1, 1, 0, 0, 0)  # That a zip can say.
READABLE = 0o100644 << 16
LEFT_BEHIND = ("Thumbs.db", "__MACOSX")  # By file managers, as are names that begin with a dot.


def register(card: Path) -> bytes:
    """Send a card and the files that it names; return the API's answer."""
    remote = connect()
    with _files_beside(card) as files, _bars() as bars:
        return remote.upload("/versions", card, files, opened=_opener(bars))


def read_card(card: Path) -> bytes:
    try:
        return card.read_bytes()
    except OSError as error:
        problem = f"{card} cannot be read ({error.strerror}): give the folder that holds {CARD}."
        raise Ended(Exit.USAGE, problem) from error


@contextmanager
def _files_beside(card: Path) -> Iterator[list[Path]]:
    """Yield the files that the card names; a missing one is said before anything is sent."""
    files = [card.parent / name for name in files_of(parse_card(read_card(card)))]
    for file in files:
        if not (file.is_file() or _is_folder_of_images(file)):
            problem = f"{card} names {file.name}, which is not beside it: put it there."
            raise Ended(Exit.USAGE, problem)
    if all(file.is_file() for file in files):
        yield files
        return
    with tempfile.TemporaryDirectory(prefix=".packed-", dir=card.parent) as packed:
        yield [file if file.is_file() else _packed(file, Path(packed)) for file in files]


def _is_folder_of_images(file: Path) -> bool:
    return file.suffix == IMAGES and file.with_suffix("").is_dir()


def _packed(file: Path, to: Path) -> Path:
    """Return `file` made in `to` from the folder of its name; images are stored as they are."""
    folder = file.with_suffix("")
    images = images_in(folder)
    if not images:
        problem = f"{folder} holds no images: put a folder for each label in it."
        raise Ended(Exit.USAGE, problem)
    with _bars() as bars:
        total = sum(image.stat().st_size for image in images)
        task = bars.add_task(f"packing {file.name}", total=total)
        pack(folder, images, to / file.name, lambda done: bars.advance(task, done))
    return to / file.name


def images_in(folder: Path) -> list[Path]:
    """Return the files below `folder` in the order of their names, without hidden ones."""
    files = (file for file in folder.rglob("*") if file.is_file())
    named = {file.relative_to(folder).as_posix(): file for file in files}
    return [named[name] for name in sorted(named) if not _is_hidden(name)]


def pack(folder: Path, files: Iterable[Path], to: Path, tell: Callable[[int], object]) -> None:
    """Store `files` under their names in `folder`; the same names and bytes give the same zip."""
    with zipfile.ZipFile(to, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            member = zipfile.ZipInfo(file.relative_to(folder).as_posix(), EARLIEST)
            member.external_attr, member.create_system = READABLE, 3
            member.file_size = file.stat().st_size
            with file.open("rb") as image, archive.open(member, "w") as stored:
                shutil.copyfileobj(image, stored)
            tell(member.file_size)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part in LEFT_BEHIND for part in name.split("/"))


def _bars() -> Progress:
    return show.bars(TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())


def _opener(bars: Progress) -> Callable[[Path], IO[bytes]]:
    """Return what opens a file so that a bar shows how much of it was read, if it is large."""

    def opened(file: Path) -> IO[bytes]:
        if file.stat().st_size < LARGE_BYTES:
            return file.open("rb")
        return bars.open(file, "rb", description=f"sending {file.name}")

    return opened
