"""What /proc says of processes: who belongs to whom, their memory, their time, their core.

Imports nothing beyond the standard library, so that a process which measures shares little memory
with what it measures.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SERVER_CORE, CLIENT_CORE = 0, 1
MIB = 1 << 20
WORKER, FORK_SERVER = b"wherry_agent.worker", b"wherry_agent.forking"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Memory:
    rss_mb: float
    pss_mb: float


def memory_of(pid: int) -> Memory:
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {row.split(":")[0]: int(row.split()[1]) / 1024 for row in rows}
    return Memory(sizes["Rss"], sizes["Pss"])


def children_of(pid: int) -> list[int]:
    """Return the processes that `pid` has started and that live."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # It ended meanwhile.
            found += map(int, children.read_text().split())
    return found


def tree_of(pid: int) -> list[int]:
    """Return `pid` and all that descend from it."""
    return [pid, *(each for child in children_of(pid) for each in tree_of(child))]


def workers_of(pid: int) -> list[int]:
    """Return the workers that an agent or its fork server has started."""
    return [each for each in tree_of(pid)[1:] if WORKER in _command(each)]


def fork_server_of(pid: int) -> int:
    """Return an agent's fork server."""
    (found,) = (each for each in children_of(pid) if FORK_SERVER in _command(each))
    return found


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def pin(pid: int, core: int) -> None:
    """Keep every thread of a process and of its descendants on one core, where there are two."""
    if (os.cpu_count() or 1) < 2:
        return
    for each in tree_of(pid):
        for task in Path(f"/proc/{each}/task").iterdir():
            os.sched_setaffinity(int(task.name), {core})


def pin_self(core: int) -> None:
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {core})


def device_environment() -> dict[str, str]:
    """Return the environment of an agent: what was installed has its bytecode."""
    kept = dict(os.environ)
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return kept


def end(process: subprocess.Popen[bytes], patience_s: float = 10.0) -> None:
    """End a server and whatever it has started."""
    tree = tree_of(process.pid) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in tree[1:]:
        if _lives(pid):
            os.kill(pid, signal.SIGKILL)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""  # It ended meanwhile.


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def until_true(look: object, patience_s: float) -> None:
    """Look again and again until `look()` holds."""
    assert callable(look)
    deadline = time.monotonic() + patience_s
    while not look():
        assert time.monotonic() < deadline, f"it never came to be: {look}"
        time.sleep(0.005)
