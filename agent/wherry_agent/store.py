"""The device's store: what the agent has to know and have when it comes up again.

    STATE/agent.db       saved state, trust, outbox and counters (SQLite, WAL, synchronous=FULL)
    STATE/manifests/     verified envelopes, by bundle digest
    STATE/chunks/        verified chunks on their way, by digest
    STATE/blobs/         whole verified blobs, by digest
    STATE/rebuilding/    a delta and what is made of it; nothing there outlives the process

A file is written whole and only after its bytes were verified, so what is there is right, and
is never fetched again. On a disk that takes no writes, because it is read-only or was full when the
agent came up, the store is volatile: `database` is in memory, and no file can be added.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from wherry import codec
from wherry.blobs import Blob, WrongBytes, check_digest, checked, chunk_sizes, digest_of
from wherry.errors import Malformed, Unavailable
from wherry.files import make_folder, sweep, sync_folder, write_parts
from wherry.manifest import Manifest, blobs_of
from wherry.measures import Traffic
from wherry.names import Digest, StoreId, parse_store_id
from wherry.reasons import Reason
from wherry.trust.keeping import Trust
from wherry_agent.core.agent import Saved
from wherry_agent.core.budget import Spent
from wherry_agent.database import (
    FILE,
    CannotSave,
    check_version,
    copy_to_memory,
    errno_reason,
    is_read_only,
    lock,
    open_database,
    saving,
)

REPORTS_IN_ADVANCE = 100


class DiskFull(Unavailable):
    """A file that finds no room, or a disk that takes none."""

    def __init__(self, folder: Path, problem: str) -> None:
        super().__init__(folder, problem)
        self.folder, self.problem = folder, problem

    def __str__(self) -> str:
        return (
            f"the disk of {self.folder} takes no more ({self.problem}): "
            "make room, then order the bundle again."
        )


class Store:
    """One open store; used by the deciding thread only.

    `fault` is why it is volatile, None where it is not.
    """

    def __init__(self, folder: Path) -> None:
        self.fault = Reason.DISK_READ_ONLY if is_read_only(folder) else None
        self.folder = make_folder(folder)
        self._manifests, self._chunks = folder / "manifests", folder / "chunks"
        self.blobs, self.rebuilding = folder / "blobs", folder / "rebuilding"
        self._lock = lock(folder)
        try:
            self.database, self._report_seqs = self._open()
            self.store_id = self._store_id()
        except Malformed:
            self._lock.close()
            raise
        if self.fault is None:
            self._tidy()

    def close(self) -> None:
        self.database.close()
        self._lock.close()

    def transaction(self) -> AbstractContextManager[None]:
        """Commit at the end of the block what was written in it, all or nothing.

        Raises `CannotSave` where the disk refuses it.
        """
        return saving(self.database, self.folder)

    def load(self) -> Saved:
        return _saved_of(self._fact("saved"))

    def save(self, saved: Saved) -> None:
        self._set_fact("saved", codec.encode(saved))

    def load_trust(self) -> Trust | None:
        """Return what this device trusts; None where it has not come that far."""
        return _trust_of(self.database)

    def save_trust(self, trust: Trust) -> None:
        """Write within the caller's transaction what is trusted from now on."""
        row = (codec.encode(trust),)
        self.database.execute("INSERT OR REPLACE INTO trust VALUES (1, ?)", row)

    def next_report_seq(self) -> int:
        """Return a number for `reported` that was never given out before.

        Numbers are taken from the disk in advance, so that a full one can be reported.
        """
        seq = next(self._report_seqs, None)
        if seq is None:
            self._report_seqs = _take_report_seqs(self.database, self.folder)
            seq = next(self._report_seqs)
        return seq

    def traffic(self) -> Traffic:
        """Return the bytes at the sockets that the newest window told, those of all its agents."""
        known = self._fact("traffic")
        return codec.decode(Traffic, known) if known else Traffic()

    def spent(self) -> Spent:
        """Return what was fetched in the last hours."""
        known = self._fact("spent")
        return msgspec.json.decode(known, type=codec.learned(Spent)) if known else Spent()

    def save_spent(self, spent: Spent) -> None:
        with self.transaction():
            self._set_fact("spent", codec.encode(spent))

    def save_traffic(self, traffic: Traffic) -> None:
        """Write within the caller's transaction what a window tells."""
        self._set_fact("traffic", codec.encode(traffic))

    # Bundles

    def manifest_path(self, bundle: Digest) -> Path:
        return self._manifests / bundle

    def put_manifest(self, bundle: Digest, envelope: bytes) -> None:
        _write(self.manifest_path(bundle), (envelope,))

    def has_manifest(self, bundle: Digest) -> bool:
        return self.manifest_path(bundle).exists()

    def manifest_envelope(self, bundle: Digest) -> bytes | None:
        place = self.manifest_path(bundle)
        return place.read_bytes() if place.exists() else None

    def has_blob(self, blob: Digest) -> bool:
        return (self.blobs / blob).exists()

    def chunk(self, chunk: Digest) -> bytes | None:
        """Return a chunk's bytes; None where it is not on disk."""
        place = self._chunks / chunk
        return place.read_bytes() if place.exists() else None

    def missing_of(self, blob: Blob) -> dict[Digest, int]:
        """Return the chunks of one blob that are not on disk, with their lengths in bytes."""
        sizes = chunk_sizes(blob)
        return {chunk: size for chunk, size in sizes.items() if not (self._chunks / chunk).exists()}

    def missing_chunks(self, manifest: Manifest) -> dict[Digest, int]:
        """Return the chunks of the bundle that are not on disk, with their lengths in bytes."""
        absent = (blob for blob in blobs_of(manifest) if not self.has_blob(blob.digest))
        return {chunk: size for blob in absent for chunk, size in self.missing_of(blob).items()}

    def needed_bytes(self, manifest: Manifest) -> int:
        """Return what the bundle will yet take of the disk.

        A chunk takes its place twice for a moment: as itself and in its blob.
        """
        absent = (blob for blob in blobs_of(manifest) if not self.has_blob(blob.digest))
        blobs_bytes = sum(blob.size_bytes for blob in absent)
        return blobs_bytes + sum(self.missing_chunks(manifest).values())

    def put_chunk(self, chunk: Digest, data: bytes) -> None:
        """Keep a chunk; raise `WrongBytes` where `data` is not what it is called, or `DiskFull`."""
        _write(self._chunks / chunk, (check_digest(data, chunk),))

    def assemble(self, manifest: Manifest) -> None:
        """Make the bundle's blobs of their chunks; raise `WrongBytes` or `DiskFull`."""
        blobs = blobs_of(manifest)
        for blob in blobs:
            if not self.has_blob(blob.digest):
                chunks = ((self._chunks / chunk).read_bytes() for chunk in blob.chunks)
                # Part by part: a model may be larger than the memory that serving leaves.
                _write(self.blobs / blob.digest, checked(chunks, blob))
        _remove(self._chunks, lambda name: any(name in blob.chunks for blob in blobs))

    def drop_rotten_chunks(self, manifest: Manifest) -> None:
        """Delete the chunks of a bundle whose bytes the disk has changed."""
        names = {chunk for blob in blobs_of(manifest) for chunk in blob.chunks}
        _remove(self._chunks, lambda name: name in names and not self._is_sound(Digest(name)))

    def _is_sound(self, chunk: Digest) -> bool:
        return digest_of((self._chunks / chunk).read_bytes()) == chunk

    def join(self, blob: Blob, to: Path) -> None:
        """Write what a blob's chunks on disk make; raise `WrongBytes` or `DiskFull`.

        Like `adopt` it may be called beside the deciding thread, which touches neither file.
        """
        _write(to, checked(((self._chunks / chunk).read_bytes() for chunk in blob.chunks), blob))

    def adopt(self, made: Path, blob: Digest) -> None:
        """Take a file as the blob that its bytes make it; raise `WrongBytes` for any other."""
        with made.open("rb") as file:
            found = hashlib.sha256()
            while piece := file.read(1 << 20):
                found.update(piece)
            if not hmac.compare_digest(found.hexdigest(), blob):
                raise WrongBytes(blob, found.hexdigest())
            os.fsync(file.fileno())
        made.replace(self.blobs / blob)
        sync_folder(self.blobs)

    def keep(
        self,
        manifests: Iterable[Manifest],
        bundles: Iterable[Digest],
        *,
        chunks: Collection[Digest] = (),
    ) -> None:
        """Delete every manifest, blob and chunk that neither these bundles nor `chunks` name."""
        if self.fault is not None:
            return
        names = frozenset(bundles)
        blobs = [blob for manifest in manifests for blob in blobs_of(manifest)]
        whole = frozenset(blob.digest for blob in blobs)
        parts = frozenset(chunk for blob in blobs for chunk in blob.chunks).union(chunks)
        _remove(self._manifests, lambda name: name not in names)
        _remove(self.blobs, lambda name: name not in whole)
        _remove(self._chunks, lambda name: name not in parts)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free

    def _open(self) -> tuple[sqlite3.Connection, Iterator[int]]:
        """Return the database and numbers for `reported`; a copy where the disk takes no writes."""
        if self.fault is None:
            try:
                return _opened(self.folder)
            except CannotSave as error:
                self.fault = error.reason
        copy = copy_to_memory(self.folder)
        return copy, _take_report_seqs(copy, self.folder)

    def _tidy(self) -> None:
        for place in (self._manifests, self._chunks, self.blobs, self.rebuilding):
            make_folder(place)
            sweep(place)
        _remove(self.rebuilding, lambda _name: True)

    def _store_id(self) -> StoreId:
        known = self._fact("store_id")
        if known is None or self.fault is not None:
            known = secrets.token_hex(16).encode()
            with self.transaction():
                self._set_fact("store_id", known)
        return parse_store_id(known.decode())

    def _fact(self, name: str) -> bytes | None:
        row = self.database.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
        return bytes(row[0]) if row else None

    def _set_fact(self, name: str, value: bytes) -> None:
        self.database.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (name, value))


@dataclass(frozen=True, slots=True)
class Seen:
    """What somebody who only looks finds on a device."""

    saved: Saved
    trust: Trust | None


def look(folder: Path) -> Seen:
    """Return what is on disk, whether or not an agent runs.

    SQLite writes beside a database to read it: where the disk takes no writes a copy is read.
    """
    place = folder / FILE
    if not place.exists():
        return Seen(Saved(), None)
    try:
        with closing(sqlite3.connect(f"{place.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return _seen(database, folder)
    except sqlite3.Error:
        with closing(copy_to_memory(folder)) as copy:
            return _seen(copy, folder)


def _seen(database: sqlite3.Connection, folder: Path) -> Seen:
    version = check_version(database, folder)
    row = database.execute("SELECT value FROM fact WHERE name = 'saved'").fetchone()
    trust = _trust_of(database) if version > 1 else None
    return Seen(_saved_of(bytes(row[0]) if row else None), trust)


def _opened(folder: Path) -> tuple[sqlite3.Connection, Iterator[int]]:
    """Return the database and numbers for `reported`; raise `CannotSave`, or what opening does."""
    database = open_database(folder)
    try:
        return database, _take_report_seqs(database, folder)
    except CannotSave:
        database.close()
        raise


def _take_report_seqs(database: sqlite3.Connection, folder: Path) -> Iterator[int]:
    """Return the next numbers for `reported`, which are given out once this has returned.

    Raises `CannotSave` where the disk refuses it.
    """
    with saving(database, folder):
        row = database.execute("SELECT value FROM fact WHERE name = 'report_seq'").fetchone()
        first = int(row[0]) + 1 if row else 1
        until = first + REPORTS_IN_ADVANCE
        known = ("report_seq", str(until - 1).encode())
        database.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", known)
    return iter(range(first, until))


def _trust_of(database: sqlite3.Connection) -> Trust | None:
    row = database.execute("SELECT value FROM trust").fetchone()
    return codec.decode(Trust, bytes(row[0]), limit_bytes=len(row[0])) if row else None


def _saved_of(data: bytes | None) -> Saved:
    """Return the state that the store itself has written, however long it is."""
    return codec.decode(Saved, data, limit_bytes=len(data)) if data else Saved()


def _write(path: Path, parts: Iterable[bytes]) -> None:
    try:
        write_parts(path, parts)
    except OSError as error:
        if errno_reason(error) is None:
            raise
        raise DiskFull(path.parent, error.strerror or str(error)) from error


def _remove(folder: Path, is_rubbish: Callable[[str], bool]) -> None:
    for place in folder.iterdir():
        if is_rubbish(place.name):
            place.unlink(missing_ok=True)
