"""The process that makes one delta: `python -m wherry_controller.deltas BASE BLOB DELTA`.

Base and blob are named by their digests, as in a blob folder. It ends with 0 when the delta is
written and the blob was rebuilt from it. The files are mapped, so they count little; what else it
may take is bounded by `MEMORY_BYTES`.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import resource
import signal
import sys
from pathlib import Path

from wherry import files
from wherry.blobs import WrongBytes
from wherry.delta import Expected, Header, rebuild
from wherry.names import Digest
from wherry_controller.deltas.encode import encode

MEMORY_BYTES = 1 << 30
NICENESS = 10
PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Make the delta from a file to another; return the exit status."""
    base, blob, delta = (Path(argument) for argument in arguments)
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # Not without the controller.
    make(base, blob, delta)
    return 0


def make(base_path: Path, blob_path: Path, delta_path: Path) -> None:
    """Write the delta between two files named by their digests.

    Raises `WrongBytes` for a file whose name lies, and `DeltaRefused` where it does not rebuild;
    then nothing stands there.
    """
    with mapped(base_path) as base, mapped(blob_path) as blob:
        header = Header(
            base=_checked(base, base_path.name),
            base_bytes=len(base),
            blob=_checked(blob, blob_path.name),
            blob_bytes=len(blob),
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


def _checked(data: memoryview, name: str) -> Digest:
    actual = Digest(hashlib.sha256(data).hexdigest())
    if actual != name:
        raise WrongBytes(name, actual)
    return actual


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
