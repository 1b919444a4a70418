"""`wherry broker config mosquitto`, as an operator has it."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from tests.controller.cli.conftest import Ran, Wherry

pytestmark = pytest.mark.system


@pytest.fixture
def folder(wherry: Wherry, tmp_path: Path) -> Path:
    """Return the folder of a controller."""
    assert wherry("init", tmp_path / "controller").status == 0
    return tmp_path / "controller"


def config(wherry: Wherry, folder: Path, *words: str | Path) -> Ran:
    return wherry("broker", "config", "mosquitto", folder, "--user", getpass.getuser(), *words)


def test_it_says_what_it_wrote_and_what_comes_next(wherry: Wherry, folder: Path) -> None:
    ran = config(wherry, folder, "--host", "broker.example")
    wrote, *steps = ran.out.splitlines()
    assert "mosquitto.conf" in wrote
    assert "server.pem" in wrote
    unit = folder / "broker/wherry-broker.service"
    assert steps == [
        f"Next, as root: install -m 0644 {unit} /etc/systemd/system/",
        "  and then: systemctl enable --now wherry-broker.service",
        f"  or: mosquitto -d -c {folder}/broker/mosquitto.conf",
        'Then: url = "mqtts://broker.example:8883" under [broker] in wherry.toml, and wherry serve',
    ]
    for name in ("controller.pem", "controller.key.pem"):
        assert (folder / "authority" / name).exists()


def test_a_second_time_there_is_nothing_to_change(wherry: Wherry, folder: Path) -> None:
    config(wherry, folder)
    assert config(wherry, folder, "--json").json["changed"] == []


def test_its_folder_and_ports_may_be_chosen(wherry: Wherry, folder: Path, tmp_path: Path) -> None:
    ran = config(
        wherry, folder, "--folder", tmp_path / "here", "--control-port", "9001", "--listen", "::1"
    )
    assert ran.status == 0
    written = (tmp_path / "here/mosquitto.conf").read_text()
    assert "\nlistener 9001 ::1\n" in written
    assert "\nlistener 9002 ::1\n" in written


def test_its_memory_is_bounded_by_what_it_retains_and_by_its_devices(
    wherry: Wherry, folder: Path
) -> None:
    settings = folder / "wherry.toml"
    settings.write_text(settings.read_text().replace("[broker]", "[broker]\nbudget_bytes = 1000"))
    config(wherry, folder, "--devices", "2000")
    unit = (folder / "broker/wherry-broker.service").read_text()
    most = (128 << 20) + 2000 * (103 << 10) + 1100
    assert f"\nMemoryHigh={most}\nMemoryMax={most + most // 4}\n" in unit
    assert "2000 devices" in unit


def test_a_broker_that_cannot_be_told_ends_it_as_unavailable(wherry: Wherry, folder: Path) -> None:
    ran = config(wherry, folder, "--reload", folder / "no.pid")
    assert ran.status == 5
    assert "SIGHUP" in ran.err


def test_a_folder_that_is_no_controllers_is_left_alone(wherry: Wherry, tmp_path: Path) -> None:
    ran = config(wherry, tmp_path)
    assert ran.status == 5
    assert not list(tmp_path.glob("broker*"))


def test_its_unit_shows_the_broker_its_own_folder_and_none_of_the_keys(
    wherry: Wherry, folder: Path
) -> None:
    config(wherry, folder)
    unit = (folder / "broker/wherry-broker.service").read_text()
    assert f"\nTemporaryFileSystem={folder}:ro\n" in unit
    assert f"\nBindReadOnlyPaths={folder}/broker\n" in unit
    assert f"\nBindPaths={folder}/broker/state\n" in unit
