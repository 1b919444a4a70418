"""The device's database file: opened and migrated, or in memory where its disk takes no writes.

A device whose disk is full, or went read-only as a worn card does, still serves what it confirmed.
Its database is then a copy in memory, under an identity of its own: what it does is told, and is
gone at the next start. A write that the disk refuses is `CannotSave`; nothing of it has happened.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

from wherry.errors import Malformed, Unavailable
from wherry.reasons import Reason

FILE = "agent.db"

# One script for each version of the schema, from the one before it.
_STEPS = (
    """
    CREATE TABLE fact (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
    CREATE TABLE event (seq INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL) STRICT;
    CREATE TABLE telemetry (seq INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL) STRICT;
    """,
    # What a device trusts, one row; an earlier release must not open what it would not keep.
    """
    CREATE TABLE trust (id INTEGER PRIMARY KEY CHECK (id = 1), value BLOB NOT NULL) STRICT;
    """,
    # The tables are the same, but a saved state may be one that an earlier release cannot read.
    "",
)
SCHEMA_VERSION = len(_STEPS)


class NewerStore(Malformed):
    """A store that a later release wrote."""

    def __init__(self, folder: Path, version: int) -> None:
        super().__init__(folder, version)
        self.folder, self.version = folder, version

    def __str__(self) -> str:
        return (
            f"the store in {self.folder} has version {self.version} and this release knows "
            f"{SCHEMA_VERSION}: install the release that wrote it, or enrol in another home."
        )


class BrokenStore(Malformed):
    """A store that SQLite cannot open."""

    def __init__(self, folder: Path, problem: str) -> None:
        super().__init__(folder, problem)
        self.folder, self.problem = folder, problem

    def __str__(self) -> str:
        return (
            f"the store in {self.folder} cannot be opened: {self.problem}; "
            "check its disk and rights, or move the folder away and start anew."
        )


class StoreInUse(Unavailable):
    """Another agent runs on this home."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def __str__(self) -> str:
        return f"another agent runs on {self.folder}: stop it first."


class CannotSave(Unavailable):
    """A write that the disk refuses; `reason` is how a device reports it."""

    def __init__(self, folder: Path, reason: Reason, problem: str) -> None:
        super().__init__(folder, reason, problem)
        self.folder, self.reason, self.problem = folder, reason, problem

    def __str__(self) -> str:
        return (
            f"nothing can be saved in {self.folder}: {self.problem}; "
            "make room there, or make its disk writable; the agent serves on and tries again."
        )


def is_read_only(folder: Path) -> bool:
    """Say whether `folder` is there and lies on a disk that takes no writes."""
    return folder.is_dir() and bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def lock(folder: Path) -> IO[bytes]:
    """Hold the store for this process: the kernel lets go of it however the process ends."""
    file = (folder / "lock").open("rb" if is_read_only(folder) else "wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise StoreInUse(folder) from error
    return file


def open_database(folder: Path) -> sqlite3.Connection:
    """Return the database of `folder`, migrated.

    Raises `NewerStore`, `BrokenStore`, or `CannotSave` where the disk leaves no room to open it.
    """
    try:
        database = sqlite3.connect(folder / FILE)
    except sqlite3.Error as error:
        raise BrokenStore(folder, str(error)) from error
    return _prepared(database, folder)


def copy_to_memory(folder: Path) -> sqlite3.Connection:
    """Return a copy of the database of `folder`, migrated; raise `NewerStore` or `BrokenStore`.

    The file and its log are copied first, since SQLite must write to read what the log holds.
    """
    memory = sqlite3.connect(":memory:")
    with tempfile.TemporaryDirectory(dir=_writable()) as place:
        try:
            for file in folder.glob(f"{FILE}*"):
                shutil.copy(file, place)
            with closing(sqlite3.connect(Path(place) / FILE)) as copied:
                copied.backup(memory)
        except (sqlite3.Error, OSError) as error:
            memory.close()
            raise BrokenStore(folder, str(error)) from error
    return _prepared(memory, folder)


@contextmanager
def saving(database: sqlite3.Connection, folder: Path) -> Iterator[None]:
    """Commit at the end of the block what was written in it, all or nothing.

    Raises `CannotSave` where the disk refuses it.
    """
    try:
        with database:
            yield
    except sqlite3.OperationalError as error:
        reason = _reason(str(error))
        if reason is None:
            raise
        raise CannotSave(folder, reason, str(error)) from error


def check_version(database: sqlite3.Connection, folder: Path) -> int:
    """Return the version of the schema, 0 for none; raise `NewerStore`."""
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise NewerStore(folder, version)
    return version


def errno_reason(error: OSError) -> Reason | None:
    """Return how a device reports a file that could not be written; None: it is another fault."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Reason.DISK_FULL
    return Reason.DISK_READ_ONLY if error.errno == errno.EROFS else None


def _reason(sentence: str) -> Reason | None:
    """Return what SQLite's sentence means: its codes have no names before Python 3.11."""
    if "readonly" in sentence:
        return Reason.DISK_READ_ONLY
    # A write beyond what a file may have is told as an I/O error, and so is a dying disk.
    return Reason.DISK_FULL if "full" in sentence or "disk I/O error" in sentence else None


def _prepared(database: sqlite3.Connection, folder: Path) -> sqlite3.Connection:
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        _migrate(database, folder)
    except NewerStore:
        database.close()
        raise
    except sqlite3.Error as error:
        database.close()
        reason = _reason(str(error))
        if reason is not None:
            raise CannotSave(folder, reason, str(error)) from error
        raise BrokenStore(folder, str(error)) from error
    return database


def _migrate(database: sqlite3.Connection, folder: Path) -> None:
    version = check_version(database, folder)
    if version < SCHEMA_VERSION:
        steps = "".join(_STEPS[version:])
        database.executescript(
            f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )


def _writable() -> Path | None:
    """Return a folder in memory that can be written, where there is one."""
    shared = Path("/dev/shm")
    return shared if os.access(shared, os.W_OK) else None
