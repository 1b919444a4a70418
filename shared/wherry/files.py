"""Whole-file writes: after a power cut a file holds its old bytes or its new ones, never a part.

The order (write a temporary file, fsync it, rename it over the name, fsync the folder) is the
one that survived every cut when it was measured; without the fsyncs every cut left a torn file.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

TEMPORARY = ".part-"


def write_whole(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Put `data` at `path`, replacing what stood there; its folder must exist."""
    write_parts(path, (data,), mode=mode)


def write_parts(path: Path, parts: Iterable[bytes], *, mode: int = 0o644) -> None:
    """Put `parts`, one after the other, at `path`; what they raise leaves there what stood."""
    descriptor, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def adopt(finished: Path, path: Path, *, mode: int = 0o644) -> None:
    """Put the file `finished`, which something else wrote in the same folder, at `path`."""
    with finished.open("rb") as file:
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    finished.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed or removed in `folder` outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, *, mode: int = 0o755) -> Path:
    """Create `folder` and its parents where they are missing; return it."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode=mode, exist_ok=True)
        sync_folder(folder.parent)
    return folder


def sweep(folder: Path) -> int:
    """Remove what interrupted writes left in `folder`; return how many files that were."""
    torn = list(folder.glob(f"{TEMPORARY}*"))
    for path in torn:
        path.unlink(missing_ok=True)
    return len(torn)
