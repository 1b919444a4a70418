"""A build as a child process: the request goes in as a file, messages come out one a line.

A crash of torch, or of a net's own code, ends the child and not the controller. The child leads
a session of its own, so that it ends with all that it started: when it is canceled, when it takes
more memory or time than its limits, when the controller stops, and, where the controller was
killed, at its next start (`end_leftovers`). It is told nothing by the environment that is
Wherry's own, and no path to a key.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from wherry import codec
from wherry.errors import Unavailable
from wherry_controller.core.build import (
    LARGEST_MESSAGE_BYTES,
    BuildMessage,
    BuildRequest,
    Limits,
    parse_message,
)
from wherry_controller.core.fault import BuildReason, BuildRefused, Fault
from wherry_controller.services.processes import boot, kill_tree, memory_of, started

COMMAND = (sys.executable, "-P", "-m", "wherry_controller.builder")
LONGEST_LINE = 300
LARGEST_END_BYTES = 64 << 10  # Of stderr, where its last line is looked for.
WATCH_S = 0.25
PID_FILE = "pid"
STDERR_FILE = "stderr.txt"
OWN = "WHERRY_"  # The environment's variables that are Wherry's: a database's URL has a password.


class BuildCrashed(Unavailable):
    """A build's process that ended without finishing its work."""

    def __init__(self, last_line: str) -> None:
        super().__init__(last_line)
        self.last_line = last_line

    def __str__(self) -> str:
        return f"the build's process died ({self.last_line}): mend that, and build again."


class BuildStopped(Unavailable):
    """A build that the controller's own end cut short."""

    def __str__(self) -> str:
        return "the controller stopped while it ran: it is queued again at the next start."


class BuildCanceled(Unavailable):
    """A build that an operator ended."""

    def __str__(self) -> str:
        return "the build was canceled: order it again when it is wanted."


class Builder(Protocol):
    """Whatever makes bundles: a child process here, something else in a test."""

    def run(self, build: str, request: BuildRequest) -> Generator[BuildMessage, None, None]:
        """Build into the request's output folder and tell how it goes; closing it ends the build.

        Raises `BuildCrashed`, `BuildStopped`, `BuildCanceled`, and `BuildRefused` for a build
        that took more memory or time than the request allows.
        """

    def cancel(self, build: str) -> None:
        """End that build, or let it not begin; any thread may call it."""

    def stop(self) -> None:
        """End what runs, and let nothing else begin; any thread may call it."""


@dataclass(slots=True)
class _Run:
    """A child under watch; `fault` says which limit it was killed for."""

    child: subprocess.Popen[bytes]
    limits: Limits
    fault: Fault | None = None
    is_canceled: bool = False
    is_over: threading.Event = field(default_factory=threading.Event)


class ChildBuilder:
    """Runs each build as a child of this process, `command` with the request's path after it."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = tuple(command)
        self._lock = threading.Lock()
        self._runs: dict[str, _Run] = {}
        self._canceled: set[str] = set()
        self._is_stopped = False

    def run(self, build: str, request: BuildRequest) -> Generator[BuildMessage, None, None]:
        folder = Path(request.output).parent
        (folder / "request.json").write_bytes(codec.encode(request))
        with (folder / STDERR_FILE).open("w+b") as stderr:
            run = self._begin(build, folder, stderr.fileno(), request.limits)
        watcher = threading.Thread(target=_watch, args=(run,), name=f"watch {build}")
        watcher.start()
        try:
            (folder / PID_FILE).write_text(pid_line(run.child.pid))
            yield from _messages(run.child)
        except BaseException:
            kill_tree(run.child.pid)  # Nobody listens any more.
            raise
        finally:
            self._end(build, run)
            watcher.join()
        if run.child.returncode != 0:
            raise self._cause(run, folder / STDERR_FILE)

    def cancel(self, build: str) -> None:
        with self._lock:
            run = self._runs.get(build)
            if run is None:
                self._canceled.add(build)
            else:
                run.is_canceled = True
                kill_tree(run.child.pid)

    def stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            for run in self._runs.values():
                kill_tree(run.child.pid)

    def _begin(self, build: str, folder: Path, stderr: int, limits: Limits) -> _Run:
        with self._lock:
            if self._is_stopped:
                raise BuildStopped
            if build in self._canceled:
                self._canceled.remove(build)
                raise BuildCanceled
            child = subprocess.Popen(
                (*self._command, str(folder / "request.json")),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=folder,
                env=scrubbed(os.environ),
                start_new_session=True,
            )
            self._runs[build] = _Run(child, limits)
            return self._runs[build]

    def _end(self, build: str, run: _Run) -> None:
        """Wait for the child's end, kill what it left running, and let go of it."""
        if run.child.stdout is not None and not run.child.stdout.closed:
            run.child.stdout.close()
        # Until it is waited for, no other session can have its number.
        os.waitid(os.P_PID, run.child.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            kill_tree(run.child.pid)
            run.is_over.set()
            del self._runs[build]
            run.child.wait()

    def _cause(self, run: _Run, stderr: Path) -> Exception:
        if run.is_canceled:
            return BuildCanceled()
        if self._is_stopped:
            return BuildStopped()
        if run.fault is not None:
            return BuildRefused(run.fault)
        return BuildCrashed(_last_line(stderr, run.child.returncode))


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without what is meant for the controller."""
    return {name: value for name, value in environment.items() if not name.startswith(OWN)}


def pid_line(pid: int) -> str:
    """Return what tells a process from every other that had or will have its number."""
    return f"{pid} {started(pid)} {boot()}"


def end_leftovers(workspace: Path) -> None:
    """Kill the builds of a controller that was killed itself, by what stands in `workspace`."""
    for file in workspace.glob(f"*/{PID_FILE}"):
        pid, since, booted = (*file.read_text().split(), "", "", "")[:3]
        # A torn file says nothing, and what started at another time or boot is another's.
        is_said = pid.isdecimal() and since.isdecimal() and booted == boot()
        if is_said and started(int(pid)) in (int(since), None):
            kill_tree(int(pid))


def _watch(run: _Run) -> None:
    """Kill a child that breaks its limits, or what it left behind when it ended."""
    begun = time.monotonic()
    while not run.is_over.wait(WATCH_S):
        run.fault = _too_long(run, time.monotonic() - begun) or _too_large(run)
        if run.fault is not None or _has_ended(run.child.pid):
            kill_tree(run.child.pid)
            return


def _too_long(run: _Run, passed_s: float) -> Fault | None:
    if passed_s <= run.limits.deadline_s:
        return None
    problem = f"the build was not done after the {run.limits.deadline_s:g} s that it may take"
    return Fault(BuildReason.OUT_OF_TIME, problem)


def _too_large(run: _Run) -> Fault | None:
    limit_bytes = run.limits.memory_bytes
    taken_bytes = memory_of(run.child.pid, at_least=limit_bytes)
    if taken_bytes <= limit_bytes:
        return None
    problem = (
        f"the build's processes took {taken_bytes / 1e6:.0f} MB of memory together, "
        f"and {limit_bytes / 1e6:.0f} MB are allowed"
    )
    return Fault(BuildReason.OUT_OF_MEMORY, problem)


def _has_ended(pid: int) -> bool:
    # What it forked may hold its stdout open, and no message comes any more.
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
    except ChildProcessError:
        return False  # It was waited for meanwhile, and its number may be another's.


def _messages(child: subprocess.Popen[bytes]) -> Iterator[BuildMessage]:
    assert child.stdout is not None
    while line := child.stdout.readline(LARGEST_MESSAGE_BYTES + 1):
        if line.strip():
            yield parse_message(line)


def _last_line(stderr: Path, returncode: int) -> str:
    with stderr.open("rb") as file:
        file.seek(max(0, stderr.stat().st_size - LARGEST_END_BYTES))
        lines = file.read(LARGEST_END_BYTES).decode(errors="replace").strip().splitlines()
    return lines[-1][:LONGEST_LINE] if lines else f"exit status {returncode}"
