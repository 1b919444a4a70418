"""Makes for 32-bit ARM the wheels that nobody publishes, in an emulated Debian 12; needs root.

    build/armhf/root      Debian 12 with a compiler, while wheels are made
    build/armhf/wheels    what was made, by name and version; the next build takes it from there

Sources are built at the same place and with the same tools each time, so that two builds are
identical. numpy is Debian's own package.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from emulated import CPUS, arm_programs
from staging import MACHINES, ROOT, folder_of, install, pinned

ARCH = "armhf"
# The last Python that tflite-runtime has a wheel for, and Debian 12's.
PYTHON = "3.11"
# What was linked in Debian 12, and numpy 1, which tflite-runtime needs.
PYTHON3, LIBC = ("python3 (>= 3.11~)", "python3 (<< 3.12~)"), "libc6 (>= 2.36)"
DEPENDS = {
    "wherry-agent": ("libffi8 (>= 3.4)",),
    "wherry-agent-tflite": ("python3-numpy (>= 1:1.24)", "python3-numpy (<< 1:2~)"),
}
RECOMMENDS = ("wherry-agent-tflite",)
BUILT = ("cffi", "httptools", "msgspec", "psutil", "zstandard")
TOOLS = ("packaging", "setuptools", "setuptools-scm", "vcs-versioning")
DEBIAN = "python3-dev,python3-minimal,gcc,libc6-dev,libffi-dev"
SUITE, MIRROR = "bookworm", "http://deb.debian.org/debian"
FOLDER = ROOT / "build" / ARCH
WHEELS, DEBIAN_ROOT = FOLDER / "wheels", FOLDER / "root"
TAG = f"linux_{MACHINES[ARCH]}"
LONGEST_S = 1800
# The place is part of what is built.
_BUILD = """\
import os, sys
os.chdir(sys.argv[1])
from setuptools.build_meta import build_wheel
build_wheel("/wheels")
"""


class NotBuilt(Exception):
    """A wheel that did not come of its sources."""

    def __init__(self, name: str, said: str) -> None:
        super().__init__(name, said)
        self.name, self.said = name, said

    def __str__(self) -> str:
        return f"{self.name} was not built for {ARCH}:\n{self.said[-2000:]}"


def install_for_armhf(common: Iterable[str], compiled: Iterable[str], lib: Path) -> None:
    """Install distributions for the one Python, built here where nobody publishes them."""
    versions = versions_of_all()
    missing = [name for name in BUILT if not _wheels_of(name, versions[name])]
    if missing:
        make_wheels({name: versions[name] for name in missing})
    options = [f"--platform={TAG}", f"--find-links={WHEELS}"]
    for names, target in ((common, lib / "app"), (compiled, lib / folder_of(PYTHON))):
        install([f"{name}=={versions[name]}" for name in names], target, PYTHON, ARCH, options)


def depends_of(name: str, elsewhere: Iterable[str]) -> tuple[str, ...]:
    """Return what a package depends on, from what it depends on for other processors."""
    same = [each for each in elsewhere if not each.startswith(("python3 ", "libc6 "))]
    return (*PYTHON3, LIBC, *same, *DEPENDS[name])


def versions_of_all() -> dict[str, str]:
    """Return the exact version of each distribution, those for 32-bit ARM too."""
    return pinned(ROOT / "constraints.txt") | pinned(Path(__file__).with_name("armhf.txt"))


def make_wheels(wanted: dict[str, str]) -> None:
    """Build distributions from their sources, two at a time; raise `NotBuilt`."""
    sys.stderr.write(f"Building {', '.join(wanted)} for {ARCH} under emulation (once, minutes)\n")
    if os.geteuid() != 0:
        sys.exit(f"Only root can: sudo make deb DEB_ARCHES={ARCH}, or name the other arches.")
    shutil.rmtree(DEBIAN_ROOT, ignore_errors=True)
    WHEELS.mkdir(parents=True, exist_ok=True)
    try:
        _make_root(wanted)
        with arm_programs(), ThreadPoolExecutor(os.cpu_count()) as pool:
            for wheel in pool.map(_build, (f"{name}-{wanted[name]}" for name in wanted)):
                shutil.copy(wheel, WHEELS)
    finally:
        shutil.rmtree(DEBIAN_ROOT, ignore_errors=True)


def _make_root(wanted: dict[str, str]) -> None:
    """Extract Debian, its Python and its compiler, with the sources and what builds them."""
    options = ["--quiet", "--variant=extract", f"--architectures={ARCH}", f"--include={DEBIAN}"]
    subprocess.run(["mmdebstrap", *options, SUITE, str(DEBIAN_ROOT), MIRROR], check=True)
    for name in ("sources", "wheels", "tools"):
        (DEBIAN_ROOT / name).mkdir()
    versions = versions_of_all()
    tools = [f"{name}=={versions[name]}" for name in TOOLS]
    _pip("install", "--no-deps", "--no-compile", "--target", str(DEBIAN_ROOT / "tools"), *tools)
    sources = [f"{name}=={version}" for name, version in wanted.items()]
    fetched = ["--no-deps", "--no-binary=:all:", "--dest", str(DEBIAN_ROOT / "sources")]
    _pip("download", *fetched, *sources)
    for archive in (DEBIAN_ROOT / "sources").glob("*.tar.gz"):
        with tarfile.open(archive) as opened:
            opened.extractall(DEBIAN_ROOT / "sources", filter="data")


def _build(source: str) -> Path:
    """Return the wheel that an unpacked source gives in the root."""
    name, _, version = source.rpartition("-")
    done = subprocess.run(
        ["chroot", str(DEBIAN_ROOT), "/usr/bin/python3", "-c", _BUILD, f"/sources/{source}"],
        env={
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": "/tools",
            "QEMU_CPU": CPUS[ARCH],
            "SOURCE_DATE_EPOCH": "315532800",  # 1980: a zip knows no time before.
        },
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    found = list((DEBIAN_ROOT / "wheels").glob(f"{name}-{version}-*.whl"))
    if done.returncode or len(found) != 1:
        raise NotBuilt(source, done.stdout + done.stderr)
    return found[0]


def _wheels_of(name: str, version: str) -> list[Path]:
    return list(WHEELS.glob(f"{name}-{version}-*.whl"))


def _pip(command: str, *words: str) -> None:
    pip = [sys.executable, "-m", "pip", command, "-qq", "--disable-pip-version-check"]
    subprocess.run([*pip, *words], check=True)
