"""A build as a child process: the request goes in as a file, messages come out one a line.

A crash of torch, or of a net's own code, ends the child and not the controller.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from wherry import codec
from wherry.errors import Unavailable
from wherry_controller.core.recipe import BuildMessage, BuildRequest, parse_message

COMMAND = (sys.executable, "-m", "wherry_controller.builder")
LONGEST_LINE = 300


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
        return "the controller stopped while it ran: order the build again."


class Builder(Protocol):
    """Whatever makes bundles: a child process here, something else in a test."""

    def run(self, request: BuildRequest) -> Iterator[BuildMessage]:
        """Build into the request's output folder and tell how it goes.

        Raises `BuildCrashed` or `BuildStopped`.
        """

    def stop(self) -> None:
        """End what runs, and let nothing else begin; any thread may call it."""


class ChildBuilder:
    """Runs each build as a child of this process, `command` with the request's path after it."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = tuple(command)
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    def run(self, request: BuildRequest) -> Iterator[BuildMessage]:
        folder = Path(request.output).parent
        (folder / "request.json").write_bytes(codec.encode(request))
        with (folder / "stderr.txt").open("w+b") as stderr:
            child = self._begin(folder / "request.json", stderr.fileno())
            try:
                yield from _messages(child)
            except BaseException:
                child.kill()  # Nobody listens any more.
                raise
            finally:
                self._end(child)
        if self._is_stopped:
            raise BuildStopped
        if child.returncode != 0:
            raise BuildCrashed(_last_line(folder / "stderr.txt", child.returncode))

    def stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            if self._child is not None:
                self._child.kill()

    def _begin(self, request: Path, stderr: int) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._is_stopped:
                raise BuildStopped
            self._child = subprocess.Popen(
                (*self._command, str(request)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
            return self._child

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        if child.stdout is not None and not child.stdout.closed:
            child.stdout.close()
        child.wait()
        with self._lock:
            self._child = None


def _messages(child: subprocess.Popen[bytes]) -> Iterator[BuildMessage]:
    assert child.stdout is not None
    for line in child.stdout:
        if line.strip():
            yield parse_message(line)


def _last_line(stderr: Path, returncode: int) -> str:
    lines = stderr.read_text(errors="replace").strip().splitlines()
    return lines[-1][:LONGEST_LINE] if lines else f"exit status {returncode}"
