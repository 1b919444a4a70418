"""How busy this host is with other things, and what a machine took of its processors meanwhile."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from tests.machines.nspawn import Machine

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
# In /proc/PID/stat behind the program's name: own time and that of children that have ended.
TIMES = slice(11, 15)


def load_1min() -> float:
    """Return how many processes wanted a processor in the last minute."""
    return os.getloadavg()[0]


def is_busy() -> bool:
    return load_1min() > (os.cpu_count() or 1)


def processor_s(machine: Machine) -> float:
    """Return what a machine's processes took until now, and those that were sent into it."""
    space = _space_of(Path(f"/proc/{machine.init}"))
    inside = sum(
        _taken_s(place) for place in Path("/proc").glob("[0-9]*") if _space_of(place) == space
    )
    sent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return inside + sent.ru_utime + sent.ru_stime


def _space_of(place: Path) -> str:
    """Return whose processes a process sees; nothing of one that has ended."""
    try:
        return str((place / "ns/pid").readlink())
    except OSError:
        return ""


def _taken_s(place: Path) -> float:
    try:
        fields = (place / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[TIMES])) / TICKS_A_SECOND
