"""What docs/operating.md tells to type on a machine with systemd, typed there."""

from __future__ import annotations

import shlex

from tests.machines.nspawn import Machine
from tests.system.test_operating import ELSEWHERE

INSTALL = "sudo apt-get install --yes "


def commands_of_the_page_succeed(machine: Machine) -> str:
    """Type each command whose place this is; without a network a package is there already."""
    here = [command for command, place in ELSEWHERE.items() if place == "make systemd"]
    for command in here:
        if command.startswith(INSTALL):
            machine.run("dpkg-query", "--status", command.removeprefix(INSTALL))
        else:
            machine.run(*shlex.split(command.removeprefix("sudo ")))
    return f"{len(here)} commands of docs/operating.md succeed"
