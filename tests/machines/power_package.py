"""What a device tells at boot of a package whose upgrade was cut: found how, repaired to what."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from tests.machines.vm import Machine
from tests.machines.vm_package import SEEN


class Told(msgspec.Struct, frozen=True):
    """What the console says once the package's repair has ended; `found` is how it was before."""

    found: str
    repaired: int
    audit: str
    verify: str
    status: str
    runs: str
    there: str

    def faults(self, versions: tuple[str, ...]) -> list[str]:
        """Return what is wrong with a package that is to be one of those versions, and whole."""
        wanted = {
            "the repair's exit code": (str(self.repaired), ("0",)),
            "dpkg --audit": (self.audit, ("",)),
            "dpkg --verify": (self.verify, ("",)),
            "the program's version": (self.runs, versions),
            "dpkg's status": (self.status, (f"installed {self.runs}",)),
            "what is in its folder": (self.there, (f"{self.runs} current ",)),
        }
        return [f"{what}: {said}" for what, (said, good) in wanted.items() if said not in good]


@dataclass(frozen=True, slots=True)
class Repair:
    """What was told, and how many seconds after power came back."""

    told: Told
    after_s: float


def until_repaired(machine: Machine, patience_s: float) -> Repair:
    """Wait until the repair has ended and the console has told of the package."""
    machine.until_logged(SEEN, patience_s)
    after_s = machine.until(lambda: bool(_told(machine)), SEEN, patience_s)
    return Repair(_told(machine)[-1], after_s)


def _told(machine: Machine) -> list[Told]:
    mark = f'"event": "{SEEN}"'
    whole = [line for line in machine.lines() if mark in line and line.endswith("}")]
    return [msgspec.json.decode(line, type=Told) for line in whole]
