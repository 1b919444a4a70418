"""Cuts dpkg off at an instant of an upgrade, as a power failure does."""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.machines.deb_checks import (
    AGENT,
    ARCHIVES,
    check_answer,
    check_installed,
    check_version,
)
from tests.machines.deb_roots import Root

STATUS = "${db:Status-Status}"


@dataclass(frozen=True, slots=True)
class Cut:
    """What a cut left: which version ran, what dpkg said, before it was repaired."""

    after_s: float
    served: str
    status: str


@dataclass(frozen=True, slots=True)
class Version:
    version: str
    deb: Path


def cut_and_repair(root: Root, old: Version, new: Version, after_s: float) -> Cut:
    """Cut an upgrade from `old` to `new` off; raise `Failed` unless it serves and is repaired."""
    archives = root.folder / ARCHIVES
    archives.mkdir(parents=True, exist_ok=True)
    for left in archives.glob("*.deb"):
        left.unlink()
    shutil.copy(new.deb, archives)
    upgrade(root, f"/{ARCHIVES}/{new.deb.name}", after_s)
    status = root.tried("dpkg-query", "--show", "--showformat", STATUS, AGENT).stdout
    served = check_version(root, old.version, new.version)
    check_answer(root)
    root.said("/usr/libexec/wherry-agent/repair")
    if root.tried("dpkg", "--compare-versions", installed(root), "eq", old.version).returncode == 0:
        # Cut off before dpkg had begun: nothing was broken.
        check_installed(root, AGENT, old.version)
        root.said("dpkg", "--install", f"/{ARCHIVES}/{new.deb.name}")
    check_installed(root, AGENT, new.version)
    check_version(root, new.version)
    return Cut(after_s, served, status)


def upgrade(root: Root, deb: str, after_s: float) -> None:
    """Begin to install a package, and kill dpkg and all that it started."""
    quiet = subprocess.DEVNULL
    command = root.command("dpkg", "--install", deb)
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet, env=root.environment)
    try:
        time.sleep(after_s)
    finally:
        process.kill()  # With the first process of its namespace all others end.
        process.wait()


def installed(root: Root) -> str:
    return root.said("dpkg-query", "--show", "--showformat", "${Version}", AGENT)
