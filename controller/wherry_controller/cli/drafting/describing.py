"""Asks the builder on this machine what a model file says of itself, in a child of its own.

A pickle or a factory runs its code there, so the child is told nothing that is Wherry's own and
confines itself to the file's folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from wherry import codec
from wherry.signature import Datatype, StatePair
from wherry_controller.cli.outcome import Ended, Exit
from wherry_controller.core.card import SourceKind
from wherry_controller.services.child import scrubbed

COMMAND = (sys.executable, "-P", "-m", "wherry_controller.builder.describe")
NOT_INSTALLED = "No module named"


class Described(msgspec.Struct, frozen=True):
    """A tensor as the file has it: None is what the file does not tell, () a single number."""

    name: str
    datatype: Datatype | None = None
    shape: tuple[int | str, ...] | None = None
    batch_axis: int = 0


class Description(msgspec.Struct, frozen=True):
    """What a file says of itself; what it does not say is empty."""

    kind: SourceKind
    inputs: tuple[Described, ...] = ()
    outputs: tuple[Described, ...] = ()
    states: tuple[StatePair, ...] = ()
    external_data: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    parameters: int = 0


def ask_file(
    file: Path, factory: str | None = None, *, command: Sequence[str] = COMMAND
) -> Description:
    """Return what `file` says; end with `UNAVAILABLE` where there is no builder to read it."""
    made = () if factory is None else ("--factory", factory)
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            (*command, str(file.absolute()), "--scratch", scratch, *made),
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=scrubbed(os.environ),
        )
    if done.returncode:
        raise _end(done.stderr.decode(errors="replace"))
    return codec.decode(Description, done.stdout)


def _end(said: str) -> Ended:
    last = [said.strip() or "no words", *said.strip().splitlines()][-1]
    if NOT_INSTALLED not in last and "Traceback" not in said:
        return Ended(Exit.USAGE, last)
    step = "install wherry-controller with its extra `builder`, or give flags for all"
    return Ended(Exit.UNAVAILABLE, f"the builder here cannot read the file ({last}): {step}.")
