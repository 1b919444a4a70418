"""What is true of the three distributions as a whole."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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
    wanted = [Requirement(text) for text in metadata.requires(name) or []]
    pins = {str(one.specifier) for one in wanted if one.name == "wherry"}
    assert pins == {f"=={wherry.__version__}"}


def closure_of(name: str) -> set[str]:
    """Return every distribution that installing `name` without extras brings here, itself too."""
    found: set[tuple[str, str]] = set()
    wanted = [(canonicalize_name(name), "")]
    while wanted:
        current, extra = wanted.pop()
        if (current, extra) in found:
            continue
        found.add((current, extra))
        for line in metadata.requires(current) or []:
            required = Requirement(line)
            if required.marker is None or required.marker.evaluate({"extra": extra}):
                extras = ("", *required.extras)
                wanted += [(canonicalize_name(required.name), each) for each in extras]
    return {found_name for found_name, _ in found}


def test_a_device_installs_nothing_of_the_controller() -> None:
    installed = closure_of("wherry-agent")
    assert {"wherry", "paho-mqtt"} <= installed
    assert not installed & {"wherry-controller", "fastapi", "sqlmodel", "numpy", "torch", "typer"}


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


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build the three wheels, by the folder that each comes from."""
    found = {}
    for part in PACKAGES:
        folder = tmp_path_factory.mktemp(part)
        pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT / part)
        (found[part],) = folder.glob("*.whl")
    return found


def pip(command: str, *arguments: str | Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", command, "-qq", "--disable-pip-version-check", *arguments],
        check=True,
    )


@pytest.mark.system
@pytest.mark.parametrize("part", PACKAGES)
def test_a_wheel_holds_its_own_packages_only(part: str, wheels: dict[str, Path]) -> None:
    with ZipFile(wheels[part]) as archive:
        names = archive.namelist()
    roots = {name.split("/")[0] for name in names}
    assert {root for root in roots if not root.endswith(".dist-info")} == PACKAGES[part]
    assert {f"{package}/py.typed" for package in PACKAGES[part]} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
