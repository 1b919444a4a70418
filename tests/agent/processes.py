"""The processes that this one has started, by Linux's /proc."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def worker_pids(bundle: str, *, of: int | None = None) -> list[int]:
    """Return the workers of one bundle that live, started by a process (this one) or its own."""
    return [pid for pid in descendants(of or os.getpid()) if bundle in command_of(pid)]


def descendants(pid: int) -> list[int]:
    """Return what a process has started, and what that has started."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # It ended meanwhile.
            for child in map(int, children.read_text().split()):
                found += [child, *descendants(child)]
    return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def niceness(pids: list[int]) -> set[int]:
    """Return the nice values of the threads of some processes."""
    found = set()
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(ProcessLookupError):  # A thread that ended meanwhile.
                found.add(os.getpriority(os.PRIO_PROCESS, int(task.name)))
    return found


def is_alive(pid: int) -> bool:
    return bool(command_of(pid))


def command_of(pid: int) -> str:
    """Return a process's command line; nothing where it ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
