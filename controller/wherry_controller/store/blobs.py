"""The blob folder: bytes named by their sha256, bounded going in, verified coming out."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import IO

from wherry import files
from wherry.blobs import LARGEST_BLOB_BYTES, WrongBytes, check_digest, digest_of
from wherry.errors import Malformed, Unavailable
from wherry.names import Digest

PIECE_BYTES = 1 << 20


class TooLarge(Malformed):
    """More bytes than a blob may have."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(size_bytes, limit_bytes)
        self.size_bytes, self.limit_bytes = size_bytes, limit_bytes

    def __str__(self) -> str:
        return (
            f"it has {self.size_bytes} bytes and {self.limit_bytes} are allowed: "
            "send a smaller file, or raise `largest_blob_bytes` in wherry.toml."
        )


class LostBlob(Unavailable):
    """A blob that is not in the folder."""

    def __init__(self, digest: str) -> None:
        super().__init__(digest)
        self.digest = digest

    def __str__(self) -> str:
        return (
            f"the blob {self.digest[:12]} is not in the blob folder: "
            "restore the folder, or build the version again."
        )


class BlobFolder:
    """A folder of blobs, in subfolders by the first two digits so that none grows too long."""

    def __init__(self, folder: Path, *, limit_bytes: int = LARGEST_BLOB_BYTES) -> None:
        self._folder = files.make_folder(folder)
        self._limit_bytes = limit_bytes

    def put(self, data: bytes) -> Digest:
        """Keep `data` and return its name; raise `TooLarge`."""
        if len(data) > self._limit_bytes:
            raise TooLarge(len(data), self._limit_bytes)
        digest = digest_of(data)
        path = self.path(digest)
        if not path.exists():
            files.write_whole(files.make_folder(path.parent) / path.name, data)
        return digest

    def take(self, source: IO[bytes]) -> tuple[Digest, int]:
        """Keep what `source` holds, piece by piece, and return its name and length in bytes.

        Raises `TooLarge` before more than the limit has been written.
        """
        descriptor, name = tempfile.mkstemp(prefix=files.TEMPORARY, dir=self._folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                digest, size_bytes = self._copy(source, file)
                file.flush()
                os.fsync(file.fileno())
            path = self.path(digest)
            Path(name).replace(files.make_folder(path.parent) / path.name)
        finally:
            Path(name).unlink(missing_ok=True)
        files.sync_folder(path.parent)
        return digest, size_bytes

    def get(self, digest: Digest) -> bytes:
        """Return the bytes of a blob; raise `LostBlob`, or `WrongBytes` where the disk lies."""
        try:
            data = self.path(digest).read_bytes()
        except FileNotFoundError as error:
            raise LostBlob(digest) from error
        return check_digest(data, digest)

    def copy(self, digest: Digest, to: Path) -> None:
        """Write a blob to `to`, however large; raise `LostBlob`, or `WrongBytes` as `get` does."""
        try:
            shutil.copyfile(self.path(digest), to)
        except FileNotFoundError as error:
            raise LostBlob(digest) from error
        with to.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise WrongBytes(digest, found)

    def part(self, digest: Digest, start: int, end: int) -> bytes:
        """Return bytes of a blob, unverified: its chunk's own digest tells; raise `LostBlob`."""
        try:
            with self.path(digest).open("rb") as file:
                file.seek(start)
                return file.read(end - start)
        except FileNotFoundError as error:
            raise LostBlob(digest) from error

    def has(self, digest: Digest) -> bool:
        return self.path(digest).exists()

    def path(self, digest: Digest) -> Path:
        """Return where a blob stands; whoever reads it there verifies it."""
        return self._folder / digest[:2] / digest

    def _copy(self, source: IO[bytes], file: IO[bytes]) -> tuple[Digest, int]:
        hasher = hashlib.sha256()
        size_bytes = 0
        while piece := source.read(PIECE_BYTES):
            size_bytes += len(piece)
            if size_bytes > self._limit_bytes:
                raise TooLarge(size_bytes, self._limit_bytes)
            hasher.update(piece)
            file.write(piece)
        return Digest(hasher.hexdigest()), size_bytes
