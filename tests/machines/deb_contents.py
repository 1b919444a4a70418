"""What stands in our packages for Python 3.10, which no Debian has: checked and not run."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from tests.machines.deb_roots import Failed

OLD, NEXT = "cp310", "cp311"


def check_old_python(*debs: Path) -> None:
    """Raise `Failed` unless each package has for 3.10 what it has for 3.11, and compiled for it."""
    for deb in debs:
        folders = _by_python(deb)
        missing = folders[NEXT].keys() - folders[OLD].keys()
        if missing or not folders[OLD]:
            raise Failed(["make", "deb"], f"{deb.name} lacks for Python 3.10: {sorted(missing)}")
        for name, files in folders[OLD].items():
            strangers = [file for file in files if "cpython-3" in file and "-310-" not in file]
            if strangers:
                raise Failed(["make", "deb"], f"{deb.name}: {name} for 3.10 has {strangers[0]}")


def _by_python(deb: Path) -> Mapping[str, Mapping[str, list[str]]]:
    """Return the compiled files in each folder of a Python, by their library."""
    listed = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", str(deb)], check=True, stdout=subprocess.PIPE
    )
    names = subprocess.run(
        ["tar", "--list"], check=True, input=listed.stdout, stdout=subprocess.PIPE
    )
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for line in names.stdout.decode().splitlines():
        parts = Path(line).parts
        for python in (OLD, NEXT):
            if python in parts and line.endswith(".so"):
                at = parts.index(python) + 1
                found[python][parts[at].partition(".")[0]].append("/".join(parts[at:]))
    return found
