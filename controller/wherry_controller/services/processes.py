"""A process with all that it started, as Linux's `/proc` shows them (proc(5)).

Where there is no `/proc`, a tree is its root alone and takes no memory that is seen.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """`started` counts clock ticks since boot, so a number that is used again is another's."""

    parent: int
    session: int
    started: int
    resident_bytes: int


def processes() -> Mapping[int, Process]:
    """Return every process by its id."""
    return dict(_processes())


def tree_of(root: int, known: Mapping[int, Process]) -> Set[int]:
    """Return the members of the session that `root` leads, and all that they started."""
    tree = {pid for pid, process in known.items() if pid == root or process.session == root}
    while more := {pid for pid, one in known.items() if one.parent in tree} - tree:
        tree |= more
    return tree


def memory_of(root: int, *, at_least: int) -> int:
    """Return the bytes that a tree holds in memory, or 0 where that is below `at_least`.

    What processes share is counted once (PSS), which takes the kernel some time to find out; so
    it is asked only where the sum with shared pages counted by each (RSS) reaches `at_least`.
    """
    known = processes()
    tree = tree_of(root, known)
    if sum(known[pid].resident_bytes for pid in tree if pid in known) < at_least:
        return 0
    return sum(_own_bytes(pid, known) for pid in tree)


def started(pid: int) -> int | None:
    """Return when a process started, or None where there is none of that id."""
    process = _process(pid)
    return None if process is None else process.started


def boot() -> str:
    """Return what tells this boot of the machine from every other; nothing where nobody says."""
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def kill_tree(root: int) -> None:
    """Kill the session that `root` leads, and all that its members started."""
    tree = tree_of(root, processes())
    for pid in tree | {root}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(root, signal.SIGKILL)  # What was forked since the look at `/proc`.


def _processes() -> Iterator[tuple[int, Process]]:
    for entry in PROC.glob("[0-9]*"):
        process = _process(int(entry.name))
        if process is not None:
            yield int(entry.name), process


def _process(pid: int) -> Process | None:
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return None  # It is gone, or another user's where those are hidden.
    # The second field is the program's name in parentheses, and may hold anything.
    fields = text.rpartition(")")[2].split()
    return Process(
        parent=int(fields[1]),
        session=int(fields[3]),
        started=int(fields[19]),
        resident_bytes=int(fields[21]) * PAGE_BYTES,
    )


def _own_bytes(pid: int, known: Mapping[int, Process]) -> int:
    """Return a process's share of memory; its resident bytes where nobody says how they stand."""
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except ProcessLookupError:
        return 0
    except OSError:
        return known[pid].resident_bytes if pid in known else 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
