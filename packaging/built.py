"""Which commit a package in dist/ was built from, so that it need not be built twice.

A mark stands beside what was gathered for the package. Where files of this checkout differ from
the commit there is no mark, and a package is always built.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from staging import ROOT

MARK = "built-from"


def mark_built(deb: Path, folder: Path) -> None:
    """Note in a package's folder from which commit it was built."""
    (folder / MARK).write_text(_mark_of(deb))


def is_built(deb: Path, folder: Path) -> bool:
    """Return whether a package is there that was built from this very commit."""
    mark = folder / MARK
    return (
        deb.is_file() and mark.is_file() and bool(_commit()) and mark.read_text() == _mark_of(deb)
    )


def _mark_of(deb: Path) -> str:
    return f"{_commit()} {hashlib.sha256(deb.read_bytes()).hexdigest()}\n"


def _commit() -> str:
    """Return the commit, or nothing where there is none or files differ from it."""
    if _git("status", "--porcelain") != "":
        return ""
    return _git("rev-parse", "HEAD") or ""


def _git(*words: str) -> str | None:
    done = subprocess.run(
        ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None
