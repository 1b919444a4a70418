"""`wherry profile`: what comes along, what was detected, and what a build here would miss."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from tests.controller.cli.conftest import Ran, Wherry
from wherry.profile import Profile, Runtime
from wherry_agent import detect
from wherry_agent.core.proposal import propose, toml_of
from wherry_controller.builder.running.environments import installed_version
from wherry_controller.cli.checking import Wish, ask_builder
from wherry_controller.cli.outcome import Ended, Exit
from wherry_controller.foundation import found
from wherry_controller.profiles import shipped

PI_5 = next(profile for profile in shipped() if profile.name == "raspberry-pi-5")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return found(tmp_path / "controller").folder


@pytest.fixture
def proposal(tmp_path: Path) -> Path:
    """What `wherry-agent profile` prints on this machine, kept in a file."""
    installed = installed_version(Runtime.ONNXRUNTIME)
    assert installed is not None
    file = tmp_path / "proposal.toml"
    file.write_text(toml_of(propose(detect.facts(), {"onnxruntime": installed})))
    return file


def ends(ran: Ran, status: Exit, *words: str) -> None:
    assert ran.status == status
    assert all(word in ran.err for word in words), ran.err


def test_a_profile_that_comes_along_is_added_by_its_name(online: Wherry) -> None:
    assert online("profile", "add", "raspberry-pi-5").out == "profile raspberry-pi-5 is declared.\n"
    shown = online("profile", "show", "raspberry-pi-5", "--json").json
    assert msgspec.convert(shown, Profile) == PI_5


def test_a_file_comes_before_the_profile_of_its_name(
    online: Wherry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("raspberry-pi-5").write_text("this is no TOML")
    ends(online("profile", "add", "raspberry-pi-5"), Exit.USAGE, "this is no profile")


def test_neither_a_file_nor_a_known_name_is_not_understood(online: Wherry) -> None:
    ends(online("profile", "add", "raspberry-pi-6"), Exit.USAGE, "raspberry-pi-6")


def test_what_a_device_proposes_is_added_and_shown_as_detected(
    online: Wherry, proposal: Path
) -> None:
    assert online("profile", "add", proposal).status == 0
    name = propose(detect.facts(), {}).profile.name
    lines = online("profile", "show", name).out.splitlines()
    detected = {line.split()[0] for line in lines if line.endswith("(detected)")}
    assert {"arch", "cpu_features", "runtime_version", "libc_floor"} <= detected
    assert not detected & {"name", "threads", "memory_bytes", "detected"}


def test_a_check_says_what_a_proposal_fits_and_that_this_machine_can_build_for_it(
    wherry: Wherry, folder: Path, proposal: Path
) -> None:
    checked = wherry("profile", "check", proposal, "--folder", folder)
    assert (checked.status, checked.err) == (0, "")
    known_as = propose(detect.facts(), {}).known_as
    likeness, *places = checked.out.splitlines()
    assert f"fits {known_as}" in likeness
    assert [line.split()[0] for line in places] == ["evaluated", "processor"]
    assert all(line.endswith("ready") for line in places)


def test_a_declared_profile_is_checked_by_its_name(online: Wherry, folder: Path) -> None:
    online("profile", "add", "raspberry-pi-5")
    checked = online("profile", "check", "raspberry-pi-5", "--folder", folder, "--json")
    ends(checked, Exit.FAILED, "raspberry-pi-5 is not ready here")
    places = checked.json["places"]
    assert isinstance(places, list)
    assert [place["use"] for place in places] == ["evaluated", "floor", "emulated"]
    assert checked.json["is_ready"] is False and checked.json["changed"] == []


def test_a_check_names_the_facts_that_an_operator_changed(
    wherry: Wherry, folder: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "mine.toml"
    changed.write_text(
        'name = "raspberry-pi-5"\narch = "aarch64"\nruntime = "onnxruntime"\n'
        'runtime_floor = "1.23.2"\nruntime_below = "2"\nthreads = 4\n'
    )
    checked = wherry("profile", "check", changed, "--folder", folder)
    assert checked.status == Exit.FAILED
    assert "is not as it comes along in runtime_version" in checked.out


def test_a_check_needs_a_controllers_folder(wherry: Wherry, proposal: Path, tmp_path: Path) -> None:
    checked = wherry("profile", "check", proposal, "--folder", tmp_path)
    ends(checked, Exit.UNAVAILABLE, "wherry init")


def test_a_builder_that_does_not_start_is_named_with_what_to_install(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "import no_such_module")
    with pytest.raises(Ended, match=r"no_such_module.*extra `builder`") as ended:
        list(ask_builder(PI_5, tmp_path, Wish.LOOK, command=command))
    assert ended.value.code is Exit.UNAVAILABLE


def test_the_builder_is_told_the_profile_the_folder_and_whether_to_install(tmp_path: Path) -> None:
    script = (
        "import json, pathlib, sys; file, *rest = sys.argv[1:]; "
        "name = json.loads(pathlib.Path(file).read_text())['name']; "
        "print(json.dumps({'use': 'floor', 'place': ' '.join([name, *rest])}))"
    )
    command = (sys.executable, "-c", script)
    (looked,) = ask_builder(PI_5, tmp_path, Wish.LOOK, command=command)
    (installed,) = ask_builder(PI_5, tmp_path, Wish.INSTALL, command=command)
    assert looked.place == f"raspberry-pi-5 {tmp_path}"
    assert installed.place == f"raspberry-pi-5 {tmp_path} --install"
