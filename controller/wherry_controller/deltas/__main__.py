"""The process that makes one delta: `python -m wherry_controller.deltas BASE BLOB DELTA`.

It writes the delta once it has rebuilt the blob from it, and ends with 0. The files are mapped,
so they count little; what else it may take is bounded by `MEMORY_BYTES`.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import resource
import sys
from pathlib import Path

from wherry import files
from wherry.delta import Expected, Header, rebuild
from wherry.names import Digest
from wherry_controller.deltas.encode import encode

MEMORY_BYTES = 1 << 30
NICENESS = 10


def main(arguments: list[str]) -> int:
    """Make the delta from a file to another; return the exit status."""
    base, blob, delta = (Path(argument) for argument in arguments)
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    make(base, blob, delta)
    return 0


def make(base_path: Path, blob_path: Path, delta_path: Path) -> None:
    """Write the delta; raise `DeltaRefused`, and leave nothing, where it does not rebuild."""
    with mapped(base_path) as base, mapped(blob_path) as blob:
        header = Header(
            base=_digest(base), base_bytes=len(base), blob=_digest(blob), blob_bytes=len(blob)
        )
        files.write_parts(delta_path, encode(base, blob, header))
    try:
        check(base_path, delta_path, header)
    except BaseException:
        delta_path.unlink(missing_ok=True)
        raise


def check(base_path: Path, delta_path: Path, header: Header) -> None:
    """Rebuild the blob as a device does; raise `DeltaRefused` where another one comes out."""
    expected = Expected(header.base, header.base_bytes, header.blob, header.blob_bytes)
    with mapped(base_path) as base, delta_path.open("rb") as delta:
        for _ in rebuild(delta.read, lambda at, length: bytes(base[at : at + length]), expected):
            pass


def mapped(path: Path) -> memoryview:
    """Return a file's bytes without reading them; an empty file has none to map."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _digest(data: memoryview) -> Digest:
    return Digest(hashlib.sha256(data).hexdigest())


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
