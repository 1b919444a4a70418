"""What is true of the three distributions as a whole."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest

import wherry

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "shared": {"wherry"},
    "agent": {"wherry_agent"},
    "controller": {"wherry_controller", "wherry_sim"},
}


@pytest.mark.parametrize("name", ["wherry", "wherry-agent", "wherry-controller"])
def test_every_distribution_has_the_version_of_the_package(name: str) -> None:
    assert metadata.version(name) == wherry.__version__


@pytest.mark.parametrize("name", ["wherry-agent", "wherry-controller"])
def test_both_sides_pin_exactly_their_own_wherry(name: str) -> None:
    assert f"wherry=={wherry.__version__}" in (metadata.requires(name) or [])


def test_nothing_that_a_device_installs_needs_the_controller() -> None:
    required = " ".join(
        line
        for name in ("wherry", "wherry-agent")
        for line in metadata.requires(name) or []
        if "extra ==" not in line
    )
    for foreign in ("wherry-controller", "fastapi", "sqlmodel", "numpy", "torch"):
        assert foreign not in required


def test_python_3_10_is_enough_for_a_device_and_not_for_the_controller() -> None:
    floors = {
        part: tomllib.loads((ROOT / part / "pyproject.toml").read_text())["project"][
            "requires-python"
        ]
        for part in PACKAGES
    }
    assert floors == {"shared": ">=3.10", "agent": ">=3.10", "controller": ">=3.11"}


def test_the_cli_finds_the_demo_by_entry_point() -> None:
    (demo,) = metadata.entry_points(group="wherry.commands", name="demo")
    assert demo.module.startswith("wherry_sim.")


@pytest.mark.system
@pytest.mark.parametrize("part", PACKAGES)
def test_a_wheel_holds_its_own_packages_only(part: str, tmp_path: Path) -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--no-build-isolation"),
            *("--wheel-dir", str(tmp_path), str(ROOT / part)),
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as archive:
        names = archive.namelist()
    roots = {name.split("/")[0] for name in names}
    assert {root for root in roots if not root.endswith(".dist-info")} == PACKAGES[part]
    assert {f"{package}/py.typed" for package in PACKAGES[part]} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
