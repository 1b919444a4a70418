"""Fills a folder with what a package of ours installs: our code, and wheels for each Python.

    LIB/app          what is the same for every Python, ours too
    LIB/cp311, …     what was compiled for one

Wheels are taken for another processor as they are, so that nothing of it runs here. Nothing that
changes from one build to the next stays: no bytecode, no record of the installation.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
OLD_PYTHON = "3.10"
GLIBC = tuple(f"manylinux_2_{minor}" for minor in (5, 12, 17, 24, 26, 27, 28, 31, 34)) + (
    "manylinux2014",
)
MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "armhf": "armv7l"}
# What pip writes about itself, and what it puts beside packages for somebody to run.
LEFTOVERS = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
TESTS = ("tests", "test", "testing")


def folder_of(python: str) -> str:
    """Return the name of the folder for what was compiled for a Python: `cp311`."""
    return "cp" + python.replace(".", "")


def install(names: Iterable[str], target: Path, *, python: str, arch: str) -> None:
    """Install distributions, each at the version that the constraints pin, without what they need."""
    versions = pinned(
        ROOT / ("constraints-py310.txt" if python == OLD_PYTHON else "constraints.txt")
    )
    wanted = [f"{name}=={versions[name]}" for name in names]
    platforms = [f"--platform={glibc}_{MACHINES[arch]}" for glibc in GLIBC]
    _pip(
        *("--target", str(target), "--no-deps", "--only-binary=:all:", "--no-compile"),
        *("--implementation", "cp", "--python-version", python),
        *platforms,
        *wanted,
    )


def install_ours(names: Sequence[str], target: Path) -> None:
    """Install our own distributions from this checkout; they are pure Python."""
    for name in names:
        shutil.copytree(
            ROOT / name, target / Path(name).name, ignore=shutil.ignore_patterns("__pycache__")
        )


def pinned(constraints: Path) -> dict[str, str]:
    """Return the exact version of each distribution."""
    lines = (line.split("#")[0].strip() for line in constraints.read_text().splitlines())
    return dict(line.split("==") for line in lines if "==" in line)


def clean(folder: Path) -> None:
    """Delete what no device needs and what is not the same in two builds."""
    for leftover in [*folder.rglob("__pycache__"), folder / "bin"]:
        shutil.rmtree(leftover, ignore_errors=True)
    for place in folder.rglob("*"):
        if place.name in LEFTOVERS and place.parent.suffix == ".dist-info":
            place.unlink()
        elif place.is_dir() and place.name in TESTS and place.parent.parent == folder:
            shutil.rmtree(place)


def share(folders: Sequence[Path], common: Path) -> None:
    """Move what is the same in all folders to `common`."""
    common.mkdir(parents=True, exist_ok=True)
    shared = set.intersection(*({each.name for each in folder.iterdir()} for folder in folders))
    for name in sorted(shared):
        places = [folder / name for folder in folders]
        if len({digest_of(place) for place in places}) == 1:
            places[0].rename(common / name)
            for place in places[1:]:
                shutil.rmtree(place) if place.is_dir() else place.unlink()


def digest_of(place: Path) -> str:
    """Return the digest of a file, or of a folder's names and files."""
    if place.is_file():
        return hashlib.sha256(place.read_bytes()).hexdigest()
    inside = (
        f"{each.relative_to(place)} {digest_of(each)}"
        for each in sorted(place.rglob("*"))
        if each.is_file()
    )
    return hashlib.sha256("\n".join(inside).encode()).hexdigest()


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *words]
    subprocess.run(command, check=True)
