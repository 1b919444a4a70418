"""Fills a folder with what a package of ours installs: our code, and wheels for each Python.

    LIB/app          what is the same for every Python, ours too
    LIB/cp311, …     what was compiled for one

Wheels are taken for another processor as they are, so that nothing of it runs here. Nothing that
changes from one build to the next stays: no bytecode, no record of the installation. What the
folders of several Pythons share stands in one of them, and the others link to it.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
OLD_PYTHON = "3.10"
GLIBC = (
    "manylinux2014",
    *(f"manylinux_2_{minor}" for minor in (5, 12, 17, 24, 26, 27, 28, 31, 34)),
)
MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "armhf": "armv7l"}
STRIP = {
    "amd64": "x86_64-linux-gnu-strip",
    "arm64": "aarch64-linux-gnu-strip",
    "armhf": "arm-linux-gnueabihf-strip",
}
# Libraries that patchelf has moved into wheels: strip breaks some of them.
NEVER_STRIPPED = "*.libs/*"
# What no device asks for: what pip writes about itself, programs, sources, tests.
UNNEEDED = (
    "*.dist-info/RECORD",
    "*.dist-info/INSTALLER",
    "*.dist-info/REQUESTED",
    "*.dist-info/direct_url.json",
    "*.dist-info/sboms/*",
    "bin/*",
    "*.c",
    "*.h",
    "*.hpp",
    "*.a",
    "*.pxd",
    "*.pxi",
    "*.pyi",
    "*.pyx",
    "*/__pycache__/*",
    "*/tests/*",
    "*/test_data/*",
    "*/.gitignore",
    "*/test-*.sh",
    # cryptography needs the compiled half of cffi alone.
    "cffi/*",
    # zstandard brings its other half for PyPy.
    "zstandard/_cffi.*",
    "zstandard/backend_cffi.py",
    # For programs in C; Python's module has all of it inside.
    "onnxruntime/capi/libonnxruntime.so*",
    # For building models.
    "onnxruntime/datasets/*",
    "onnxruntime/quantization/*",
    "onnxruntime/tools/*",
    "onnxruntime/transformers/*",
    "numpy/f2py/*",
    "numpy/distutils/*",
    "numpy/_core/_simd.*",
    "numpy/_core/_*_tests.*",
    "numpy/random/lib/*",
    "ai_edge_litert/aot/*",
    "ai_edge_litert/tools/*",
    "ai_edge_litert/vendors/*",
    "ai_edge_litert/libLiteRtWebGpuAccelerator.so",
)
LINK_FROM_BYTES = 1024
# At the oldest Python's version everywhere, so that its OpenBLAS stands in a package once.
ONE_VERSION = ("numpy",)


def folder_of(python: str) -> str:
    """Return the name of the folder for what was compiled for a Python: `cp311`."""
    return "cp" + python.replace(".", "")


def install_common(
    names: Iterable[str], target: Path, arch: str, pythons: Sequence[str] = PYTHONS
) -> None:
    """Install distributions whose one wheel serves every Python: pure, or of the stable ABI."""
    versions = pinned(ROOT / "constraints.txt")
    install([f"{name}=={versions[name]}" for name in names], target, pythons[0], arch)


def install_compiled(
    names: Iterable[str], lib: Path, arch: str, pythons: Sequence[str] = PYTHONS
) -> None:
    """Install distributions that have a wheel for each Python."""
    oldest, newest = (pinned(ROOT / name) for name in ("constraints-py310.txt", "constraints.txt"))
    newest |= {name: oldest[name] for name in ONE_VERSION}
    for python in pythons:
        versions = oldest if python == OLD_PYTHON else newest
        wanted = [f"{name}=={versions[name]}" for name in names]
        install(wanted, lib / folder_of(python), python, arch)


def install(
    wanted: Sequence[str], target: Path, python: str, arch: str, options: Sequence[str] = ()
) -> None:
    """Install exact distributions from wheels for a Python on another machine, by pip's words."""
    if not wanted:
        return
    platforms = [f"--platform={glibc}_{MACHINES[arch]}" for glibc in GLIBC]
    command = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    what = ["--target", str(target), "--no-deps", "--only-binary=:all:", "--no-compile"]
    which = ["--implementation", "cp", "--python-version", python, *platforms]
    subprocess.run([*command, *what, *which, *options, *wanted], check=True)


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


def prune(folder: Path) -> None:
    """Delete what no device needs and what is not the same in two builds."""
    for place in sorted(folder.rglob("*"), reverse=True):
        name = str(place.relative_to(folder))
        if place.is_dir():
            if not any(place.iterdir()):
                place.rmdir()
        elif any(fnmatch.fnmatch(name, pattern) for pattern in UNNEEDED):
            place.unlink()


def strip(folder: Path, arch: str) -> None:
    """Take from compiled modules what only debuggers read."""
    modules = [
        str(place)
        for place in sorted(folder.rglob("*.so"))
        if not fnmatch.fnmatch(str(place), f"*/{NEVER_STRIPPED}")
    ]
    if modules:
        subprocess.run([STRIP[arch], "--strip-unneeded", *modules], check=True)


def link_what_is_the_same(lib: Path) -> None:
    """Replace files that stand in the folder of an earlier Python too by links to them."""
    first: dict[tuple[str, str], Path] = {}
    for folder in (lib / folder_of(python) for python in reversed(PYTHONS)):
        for place in sorted(folder.rglob("*")):
            if place.is_symlink() or not place.is_file():
                continue
            if place.stat().st_size < LINK_FROM_BYTES:
                continue
            known = first.setdefault((str(place.relative_to(folder)), digest_of(place)), place)
            if known != place:
                place.unlink()
                place.symlink_to(os.path.relpath(known, place.parent))


def settle_modes(folder: Path) -> None:
    """Give every file the rights that its kind has, whatever a wheel or a umask said."""
    for place in folder.rglob("*"):
        if not place.is_symlink():
            place.chmod(0o755 if place.is_dir() else 0o644)


def digest_of(place: Path) -> str:
    return hashlib.sha256(place.read_bytes()).hexdigest()
