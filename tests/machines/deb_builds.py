"""Packages that are built from a copy of this checkout: the same again, and a next version."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    *("shared", "agent", "controller", "packaging", "systemd"),
    *("constraints.txt", "constraints-py310.txt"),
)
VERSIONED = "shared/wherry/__init__.py"
LONGEST_S = 590
RUNTIME_MIB = 30
LARGEST_MIB = {
    "wherry-agent": 6,
    "wherry-agent-onnx": RUNTIME_MIB,
    "wherry-agent-litert": RUNTIME_MIB,
    "wherry-agent-tflite": RUNTIME_MIB,
    "wherry-controller": 30,
}
# Made once, in minutes of emulation.
ARMHF_WHEELS = "build/armhf/wheels"


def version_of_this() -> str:
    return (ROOT / VERSIONED).read_text().partition('__version__ = "')[2].partition('"')[0]


def next_version() -> str:
    major, minor, patch = version_of_this().split(".")
    return f"{major}.{minor}.{int(patch) + 1}"


def built_again(scratch: Path, package: str) -> Path:
    """Return a package of the same sources, built in another place."""
    return _built(_copied(scratch / "again"), package, version_of_this())


def built_next(scratch: Path, package: str, arch: str = "amd64") -> Path:
    """Return a package of the same sources under the next version."""
    checkout = _copied(scratch / "next")
    place = checkout / VERSIONED
    place.write_text(place.read_text().replace(version_of_this(), next_version()))
    return _built(checkout, package, next_version(), arch)


def _copied(target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, target / name, ignore=ignored)
        else:
            shutil.copy(source, target / name)
    if (ROOT / ARMHF_WHEELS).is_dir():
        shutil.copytree(ROOT / ARMHF_WHEELS, target / ARMHF_WHEELS)
    return target


def _built(checkout: Path, package: str, version: str, arch: str = "amd64") -> Path:
    subprocess.run(
        [sys.executable, "packaging/debs.py", arch, package],
        cwd=checkout,
        env={**os.environ, "SOURCE_DATE_EPOCH": _epoch()},
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=LONGEST_S,
    )
    return checkout / "dist" / f"{package}_{version}_{arch}.deb"


def _epoch() -> str:
    """Return the time that packages of this checkout bear; a copy of it has no history."""
    if told := os.environ.get("SOURCE_DATE_EPOCH"):
        return told
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
