"""Asks the builder on this machine what it misses for a profile, in a child process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path

from wherry import codec
from wherry.profile import Profile
from wherry_controller.cli.outcome import Ended, Exit
from wherry_controller.core.profiles import Checked

COMMAND = (sys.executable, "-m", "wherry_controller.builder.check")


class Wish(Enum):
    """Whether the builder only looks, or makes the runtimes that are missing."""

    LOOK = "look"
    INSTALL = "install"


FLAGS = {Wish.LOOK: (), Wish.INSTALL: ("--install",)}


def ask_builder(
    profile: Profile, runtimes: Path, wish: Wish, *, command: Sequence[str] = COMMAND
) -> Iterator[Checked]:
    """Yield what the builder says of each place; end where there is no builder to ask."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as stderr:
        file = Path(folder) / "profile.json"
        file.write_bytes(codec.encode(profile))
        words = (*command, str(file), str(runtimes), *FLAGS[wish])
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=stderr) as child:
            assert child.stdout is not None
            for line in child.stdout:
                yield codec.decode(Checked, line)
        if child.returncode:
            stderr.seek(0)
            raise Ended(Exit.UNAVAILABLE, _broken(stderr.read().decode(errors="replace")))


def _broken(said: str) -> str:
    last = [said.strip() or "no words", *said.strip().splitlines()][-1]
    step = "install wherry-controller with its extra `builder`"
    return f"the builder on this machine does not work ({last}): {step}."
