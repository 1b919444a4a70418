"""The commands of `docs/install.md`, run on a machine as they stand there.

Words in capitals are names that a reader puts in, and so does `run`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tests.machines.deb_builds import ROOT
from tests.machines.nspawn import Machine, Wrong

PAGE = ROOT / "docs/install.md"
DONE = "/root/commands"
_END = "\0"
_BLOCK = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(
    machine: Machine, part: str, names: Mapping[str, str], *, folder: str, text: str = ""
) -> str:
    """Return what the one block of the page says in which `part` stands; `text` is its input."""
    found = [block for block in blocks() if part in block]
    if len(found) != 1:
        raise Wrong(f"{len(found)} blocks of {PAGE.name} have `{part}`, not one")
    commands = _put_in(found[0], names)
    if left := re.findall(r"\b[A-Z]{4,}\b", commands):
        raise Wrong(f"{PAGE.name} has names that nobody puts in: {', '.join(left)}")
    said = machine.run("sh", "-ec", f"cd {folder}\n{commands}", text=text)
    with machine.place(DONE).open("a") as done:
        done.write(found[0] + _END)
    return said


def check_all_were_run(machine: Machine) -> None:
    """Raise `Wrong` where the page has commands that were not run on this machine."""
    done = machine.place(DONE).read_text().split(_END)
    if missing := [block for block in blocks() if block not in done]:
        raise Wrong(f"{PAGE.name} has commands that nobody ran: {missing[0].strip()}")


def blocks() -> list[str]:
    return _BLOCK.findall(PAGE.read_text())


def _put_in(block: str, names: Mapping[str, str]) -> str:
    for name, value in names.items():
        block = re.sub(rf"\b{name}\b", value, block)
    return block
