"""What one package has, as `debs.py` builds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from staging import PYTHONS

SCRIPTS = Path(__file__).parent / "debian"
# What the wheels were linked against.
LIBC = "libc6 (>= 2.28)"
CPP = ("libgcc-s1", "libstdc++6 (>= 8)")


@dataclass(frozen=True, slots=True)
class Package:
    """What one package has.

    `compiled` libraries have a wheel for each Python, `common` ones have one for all. `files` are
    ours that stand at a place of their own; `words` fill the scripts.
    """

    name: str
    summary: str
    compiled: tuple[str, ...]
    depends: tuple[str, ...]
    common: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    conffiles: Mapping[str, Path] = field(default_factory=dict)
    manual: Path | None = None
    words: Mapping[str, str] = field(default_factory=dict)
    recommends: tuple[str, ...] = ()
    pythons: tuple[str, ...] = PYTHONS


def part(name: str) -> str:
    """Return a part of a script."""
    return (SCRIPTS / name).read_text().rstrip("\n")
