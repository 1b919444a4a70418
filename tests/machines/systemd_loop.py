"""What systemd does with an agent whose deciding loop alone hangs, while its API still answers.

The thread that decides is held from outside by ptrace(2), which stops one thread and leaves the
others; nothing of the agent knows of it.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.machines.nspawn import PATIENCE_S, Machine, Wrong, until
from tests.machines.systemd_service import (
    SERVICE,
    WATCHDOG_S,
    ask,
    asking,
    dropped_in,
    main_process,
    timeouts,
)

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
WALL = 0x40000000  # For waitpid(2): a thread that is held is not our child.
ALIVE_S = 1.0  # For so long at the least the API is to answer while nothing decides.


def watchdog_restarts_a_hung_loop(machine: Machine) -> str:
    """End an agent that decides nothing more, though it answers, and start it again."""
    with dropped_in(machine, SERVICE, f"[Service]\nWatchdogSec={WATCHDOG_S}\n"):
        machine.run("systemctl", "restart", SERVICE)
        ask(machine)
        before, hung = timeouts(machine), main_process(machine)
        began_s = time.monotonic()
        with _held(_on_this_host(machine, hung)) as thread:
            answers, answered_s = _ask_until_replaced(machine, hung, thread)
        ask(machine)
        took_s = time.monotonic() - began_s
        if timeouts(machine) == before:
            raise Wrong("it was restarted, and not by the watchdog")
    machine.run("systemctl", "restart", SERVICE)
    if answered_s < ALIVE_S:
        raise Wrong(f"its API answered for {answered_s:.1f} s only, so more than the loop hung")
    held = f"a deciding loop was held while the API gave {answers} answers in {answered_s:.1f} s"
    return f"{held}; it was replaced and answered {took_s:.1f} s after"


def _ask_until_replaced(machine: Machine, pid: int, thread: int) -> tuple[int, float]:
    """Return how often that process answered, and for how long."""
    began_s, answers, answered_s = time.monotonic(), 0, 0.0
    with asking(machine) as seen:
        while main_process(machine) in (0, pid):
            if seen.answers > answers:
                answers, answered_s = seen.answers, time.monotonic() - began_s
            _reap(thread)
            if time.monotonic() - began_s > PATIENCE_S:
                raise Wrong("the watchdog restarts nothing")
    return answers, answered_s


@contextmanager
def _held(thread: int) -> Iterator[int]:
    """Hold one thread, while it waits, until the end of the block or of its process."""
    until(lambda: _state(thread) == "S", "the deciding loop never waits")
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        if LIBC.ptrace(request, thread, None, None):
            raise OSError(ctypes.get_errno(), "a thread cannot be held")
    try:
        yield thread
    finally:
        LIBC.ptrace(PTRACE_DETACH, thread, None, None)  # Where it was not ended, it goes on.


def _reap(thread: int) -> None:
    """Let systemd hear that the process ended: whoever holds a thread hears it first."""
    with suppress(ChildProcessError):
        os.waitpid(thread, os.WNOHANG | WALL)


def _state(thread: int) -> str:
    return Path(f"/proc/{thread}/stat").read_text().rpartition(")")[2].split()[0]


def _on_this_host(machine: Machine, pid: int) -> int:
    """Return by which number this host knows a process of the machine."""
    there = Path(f"/proc/{machine.init}/ns/pid").readlink()
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            numbers = next(
                line.split()[1:]
                for line in (place / "status").read_text().splitlines()
                if line.startswith("NSpid:")
            )
            if numbers[-1] == str(pid) and (place / "ns/pid").readlink() == there:
                return int(place.name)
    raise Wrong(f"this host sees no process {pid} of the machine")
