"""The blob folder: bytes named by their sha256, bounded going in, verified coming out."""

from __future__ import annotations

from pathlib import Path

from wherry import files
from wherry.blobs import LARGEST_BLOB_BYTES, check_digest, digest_of
from wherry.errors import Malformed
from wherry.names import Digest
from wherry_controller.store.refusals import Unknown


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

    def get(self, digest: Digest) -> bytes:
        """Return the bytes of a blob; raise `Unknown`, or `WrongBytes` where the disk lies."""
        try:
            data = self.path(digest).read_bytes()
        except FileNotFoundError as error:
            raise Unknown("blob", digest) from error
        return check_digest(data, digest)

    def has(self, digest: Digest) -> bool:
        return self.path(digest).exists()

    def path(self, digest: Digest) -> Path:
        """Return where a blob stands; whoever reads it there verifies it."""
        return self._folder / digest[:2] / digest
