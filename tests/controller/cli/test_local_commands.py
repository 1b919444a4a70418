"""The commands that act on this machine, and the command line itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.controller.cli.conftest import Wherry
from wherry_controller.cli.outcome import Exit


def test_init_founds_a_folder_and_shows_the_token_once(wherry: Wherry, tmp_path: Path) -> None:
    founded = wherry("init", tmp_path / "controller")
    assert founded.status == 0
    token = founded.out.splitlines()[1]
    kept = "".join(
        path.read_text() for path in (tmp_path / "controller").rglob("*") if path.is_file()
    )
    assert len(token) > 30 and token not in kept


def test_a_founded_folder_is_not_founded_again(wherry: Wherry, tmp_path: Path) -> None:
    wherry("init", tmp_path / "controller")
    again = wherry("init", tmp_path / "controller")
    assert (again.status, again.out) == (Exit.REFUSED, "")
    assert "serve it, or choose another" in again.err


def test_only_a_founded_folder_is_served(wherry: Wherry, tmp_path: Path) -> None:
    served = wherry("serve", tmp_path)
    assert served.status == Exit.UNAVAILABLE
    assert "wherry init" in served.err


def test_a_word_that_is_no_command_is_not_understood(wherry: Wherry) -> None:
    assert wherry("rwo").status == Exit.USAGE


def test_the_help_names_the_commands_of_other_packages(wherry: Wherry) -> None:
    shown = wherry("--help")
    assert shown.status == 0 and "demo" in shown.out and "Exit status" in shown.out


def test_the_command_line_starts_without_what_only_the_controller_needs() -> None:
    code = (
        "import sys, wherry_controller.cli as cli; cli.make_app(['--help']); "
        "print({'torch', 'fastapi', 'sqlmodel', 'numpy', 'wherry_sim'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
