"""The process of a worker, as a link sees it, started by a command of its own.

The other way, forked from a process that has imported what it needs, is in `forks`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Protocol, TypeAlias

from wherry_agent.asking import Bringing, BundlePlace, encode_bringing


class WorkerProcess(Protocol):
    """A process that can be watched, killed and asked how it ended.

    `watched` becomes readable at its end (a pidfd); `status` is None while it lives, and where
    nobody can tell it any more.
    """

    @property
    def pid(self) -> int: ...
    @property
    def watched(self) -> int: ...
    @property
    def status(self) -> int | None: ...
    def kill(self) -> None:
        """Kill it; nothing where it has ended."""

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for its end; say whether it has ended."""

    def forget(self) -> None:
        """Let go of what was held of it; it must have ended."""


# The bundle, how it is brought up, and what the worker inherits: its socket, its two arenas.
StartProcess: TypeAlias = Callable[
    [BundlePlace, Bringing, int, tuple[int, int]], Coroutine[object, object, WorkerProcess]
]


class Spawned:
    """A `WorkerProcess` that is this process's child."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.watched = os.pidfd_open(process.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        return self._process.returncode

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout_s: float | None = None) -> bool:
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def forget(self) -> None:
        os.close(self.watched)


async def spawn(
    place: BundlePlace, bringing: Bringing, socket: int, arenas: tuple[int, int]
) -> WorkerProcess:
    """Start a worker by its command; raise OSError where there can be no process."""
    command = [
        *worker_command(place, socket),
        *("--arenas", ",".join(map(str, arenas))),
        *("--bringing", encode_bringing(bringing).decode()),
    ]
    inherited = [socket, *arenas]
    return Spawned(subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=inherited))


def worker_command(place: BundlePlace, socket: int) -> list[str]:
    """Return the command of a worker for a bundle; it inherits its end of the socket."""
    return [
        *(sys.executable, "-m", "wherry_agent.worker"),
        *bundle_words(place),
        *("--socket", str(socket)),
    ]


def bundle_words(place: BundlePlace) -> tuple[str, ...]:
    """Return the words of a worker's command that say which bundle it runs."""
    return (
        *("--bundle", place.digest, "--manifest", str(place.manifest_path)),
        *("--blobs", str(place.blobs_folder)),
    )
