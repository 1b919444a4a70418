"""What a runtime made of a model for this very processor, kept to be loaded the next time.

    <folder>/<digest of the model>-<sha256 of what it was made for>-<sha256 of the file>.onnx

It is made for a runtime version, processor features, a provider and a level: another of any of
them is another file. One that does not hold what its name says is removed, and so is one that
does not load or fails the golden check: the original is always at hand. A few are kept, the last
used ones. On a disk that takes no writes what is kept is used, and what is wrong is left there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from wherry import files
from wherry.names import Digest

MOST_KEPT = 8
READ_BYTES = 1 << 18


def key_of(model: Digest, conditions: Sequence[str]) -> str:
    """Return the first parts of the name of what is made of a model under `conditions`."""
    return f"{model}-{hashlib.sha256(' '.join(conditions).encode()).hexdigest()}"


def find_kept(folder: Path, key: str) -> Path | None:
    """Return the whole file that was kept under `key`, or None; remove what is not whole."""
    for path in folder.glob(f"{key}-*.onnx"):
        if path.name == _name(key, path):
            with suppress(OSError):
                os.utime(path)
            return path
        _remove(path)
    return None


def keep(folder: Path, key: str, write: Callable[[Path], None]) -> None:
    """Keep under `key` the file that `write` writes to the path that it is given.

    Raises OSError where there is no room, and what `write` raises; nothing is left then.
    """
    files.make_folder(folder)
    made = folder / f"{files.TEMPORARY}{key}-{os.getpid()}"
    try:
        write(made)
        files.adopt(made, folder / _name(key, made))
    finally:
        _remove(made)
    for path in sorted(folder.glob("*.onnx"), key=_used_at_ns, reverse=True)[MOST_KEPT:]:
        _remove(path)


def forget(folder: Path, beginning: str) -> bool:
    """Remove what is kept of a model, or under a key; say if there was anything."""
    found = list(folder.glob(f"{beginning}-*.onnx"))
    for path in found:
        _remove(path)
    return bool(found)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _name(key: str, path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(READ_BYTES):
            digest.update(part)
    return f"{key}-{digest.hexdigest()}.onnx"


def _used_at_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
