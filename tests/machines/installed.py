"""Our packages on a machine: laid there from `dist/`, and installed by its own dpkg."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.machines.deb_builds import ROOT, version_of_this
from tests.machines.nspawn import Machine, Wrong

DIST = ROOT / "dist"
AGENT, ONNX, LITERT = "wherry-agent", "wherry-agent-onnx", "wherry-agent-litert"
CONTROLLER = "wherry-controller"
PACKAGES = (AGENT, ONNX, LITERT, CONTROLLER)
PLACE, NEXT_PLACE = "/root/debs", "/root/next"
ARCHIVES = "/var/cache/apt/archives"
_ENVIRONMENT = ("env", "DEBIAN_FRONTEND=noninteractive")


def lay_out(root: Path, upgrade: Path) -> None:
    """Put this version's packages, and the agent's next one, into a root that is not booted."""
    for package in PACKAGES:
        deb = DIST / name_of(package)
        if not deb.exists():
            raise Wrong(f"{deb.name} is not in dist/: run make deb first")
        _put(root, PLACE, deb)
    _put(root, NEXT_PLACE, upgrade)


def name_of(package: str) -> str:
    return f"{package}_{version_of_this()}_amd64.deb"


def install(machine: Machine, *packages: str) -> None:
    """Install packages of this version by one call of dpkg, which has no network."""
    machine.run(*dpkg("--install", *(f"{PLACE}/{name_of(each)}" for each in packages)))


def dpkg(*words: str) -> tuple[str, ...]:
    return (*_ENVIRONMENT, "dpkg", "--force-confold", *words)


def status_of(machine: Machine, package: str) -> str:
    """Return what dpkg says of a package; nothing where it knows none."""
    show = ("dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Version}", package)
    return machine.tried(*show).stdout.strip()


def _put(root: Path, place: str, deb: Path) -> None:
    folder = root / place.lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(deb, folder)
