"""The maker of deltas: a child process for each (`wherry_controller.deltas`)."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from wherry.errors import Unavailable
from wherry_controller.services.child import scrubbed

COMMAND = (sys.executable, "-P", "-m", "wherry_controller.deltas")
DEADLINE_S = 900.0
LONGEST_LINE = 300


class NotMade(Unavailable):
    """A delta whose process failed."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"the delta was not made ({self.problem}): devices fetch the blob whole."


class Maker(Protocol):
    """Whatever makes deltas: a child process here, something else in a test."""

    def make(self, base: Path, blob: Path, delta: Path) -> None:
        """Write the delta from a blob to another, both named by digest; raise `NotMade`."""

    def stop(self) -> None:
        """End what runs, and let nothing else begin; any thread may call it."""


@dataclass(slots=True)
class ChildMaker:
    """Makes deltas in child processes, which bound their memory themselves."""

    command: tuple[str, ...] = COMMAND
    deadline_s: float = DEADLINE_S
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _children: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _is_stopped: bool = False

    def make(self, base: Path, blob: Path, delta: Path) -> None:
        with self._begin(base, blob, delta) as child:
            try:
                _, said = child.communicate(timeout=self.deadline_s)
            except subprocess.TimeoutExpired as error:
                raise NotMade(f"it took longer than {self.deadline_s:g} s") from error
            finally:
                child.kill()
                with self._lock:
                    self._children.discard(child)
        if child.returncode != 0:
            lines = said.decode(errors="replace").strip().splitlines()
            raise NotMade(lines[-1][:LONGEST_LINE] if lines else f"exit status {child.returncode}")

    def stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            for child in self._children:
                child.kill()

    def _begin(self, base: Path, blob: Path, delta: Path) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._is_stopped:
                raise NotMade("the controller is stopping")
            child = subprocess.Popen(
                (*self.command, str(base), str(blob), str(delta)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=scrubbed(os.environ),
            )
            self._children.add(child)
            return child
