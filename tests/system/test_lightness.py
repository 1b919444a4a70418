"""What the parts do without: the wheels on a device, and the memory of its supervisor."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import wherry
from tests.system.fleets import a_fleet_on_v1
from tests.system.sites import REPOSITORY, Site
from tests.test_house import closure_of

pytestmark = pytest.mark.system

HEAVY = ("numpy", "onnxruntime", "torch")


def test_a_running_supervisor_has_loaded_no_tensor_library(site: Site) -> None:
    (one, _), _ = a_fleet_on_v1(site)
    assert one.process is not None
    mapped = Path(f"/proc/{one.process.pid}/maps").read_text()
    assert "msgspec" in mapped
    assert not [name for name in HEAVY if f"/{name}/" in mapped]


def test_the_wheels_of_a_device_run_with_what_they_name_and_nothing_more(tmp_path: Path) -> None:
    dist, home = tmp_path / "dist", tmp_path / "home"
    for part in ("shared", "agent"):
        pip("wheel", "--no-deps", "--no-build-isolation", "-w", dist, REPOSITORY / part)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    pip("--python", home / "bin/python", "install", "--no-deps", "--no-index", *dist.iterdir())
    (packages,) = home.glob("lib/python*/site-packages")
    for name in closure_of("wherry-agent") - {"wherry", "wherry-agent"}:
        copy_installed(name, packages)
    there = {path.name.lower() for path in packages.iterdir()}
    assert {"wherry", "wherry_agent", "paho"} <= there
    assert not there & {"fastapi", "sqlmodel", "numpy", "torch", "wherry_controller", "wherry_sim"}
    command = [str(home / "bin/wherry-agent"), "--version"]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    assert said.stdout.strip() == wherry.__version__
    subprocess.run([home / "bin/python", "-I", "-c", "import wherry_agent.app"], check=True)


def pip(*words: str | Path) -> None:
    command = [sys.executable, "-m", "pip", *map(str, words), "-qq", "--disable-pip-version-check"]
    subprocess.run(command, check=True)


def copy_installed(name: str, packages: Path) -> None:
    """Copy a distribution that is installed here, as an index would have given it."""
    for file in metadata.files(name) or []:
        if ".." not in file.parts and "__pycache__" not in file.parts:
            place = packages / file
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.locate(), place)
