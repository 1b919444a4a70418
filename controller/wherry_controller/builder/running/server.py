"""One server process of a place: jobs go in as lines of JSON, and each one is answered."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import msgspec

from wherry.errors import Malformed
from wherry.profile import Runtime
from wherry_controller.builder.running.environments import Python, environment_of

RUNNER = Path(__file__).with_name("runner.py")
START_S = 120.0
GRACE_S = 30.0  # Beyond a job's own deadline, which the server keeps.

# A fork keeps one thread only: numpy must have no others, nor onnxruntime, which from 1.31 on
# reports to its maker from threads of its own.
SINGLE = {"OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}

Job: TypeAlias = Mapping[str, object]


class RunFailed(Malformed):
    """A variant that its runtime refuses, breaks off, or crashes over."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return (
            f"the runtime fails with the variant: {self.problem}; look into the variant's log, "
            "and choose another runtime or precision."
        )


class Answer(msgspec.Struct, frozen=True):
    """What the server says: a problem, or the figures of what was asked."""

    problem: str = ""
    version: str = ""
    machine: str = ""
    load_ms: float = 0.0
    memory_bytes: int = 0
    p50_ms: tuple[float, ...] = ()
    p99_ms: tuple[float, ...] = ()


class Server:
    """A running server; `version` is the runtime's. What it prints goes to our stderr."""

    def __init__(self, python: Python, runtime: Runtime) -> None:
        self._process = subprocess.Popen(
            [*python.command, "-s", RUNNER, runtime.value],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment_of(python.packages) | SINGLE,
        )
        self._heard = b""
        self.version = self._answer(START_S).version

    def ask(self, job: Job, *, deadline_s: float) -> Answer:
        """Have a job done; raise `RunFailed` with what the server says is wrong."""
        assert self._process.stdin is not None
        line = msgspec.json.encode({**job, "deadline_s": deadline_s}) + b"\n"
        try:
            self._process.stdin.write(line)
        except BrokenPipeError as error:
            raise RunFailed("its runtime's process is gone") from error
        answer = self._answer(deadline_s + GRACE_S)
        if answer.problem:
            raise RunFailed(answer.problem)
        return answer

    @property
    def process(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """End the process; a job under way ends with it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _answer(self, within_s: float) -> Answer:
        line = self._line(time.monotonic() + within_s)
        if not line:
            self.close()
            ended = _name(self._process.returncode)
            raise RunFailed(f"its runtime's process gave no answer and ended with {ended}")
        return msgspec.json.decode(line, type=Answer)

    def _line(self, until: float) -> bytes:
        """Return the next line, or nothing at the deadline or where the process has ended."""
        assert self._process.stdout is not None
        while b"\n" not in self._heard:
            left = max(0.0, until - time.monotonic())
            if not select.select([self._process.stdout], [], [], left)[0]:
                return b""
            part = os.read(self._process.stdout.fileno(), 65536)
            if not part:
                return b""
            self._heard += part
        line, _, self._heard = self._heard.partition(b"\n")
        return line


def _name(code: int) -> str:
    """Return a process's end as the name of its signal, or as its number."""
    return signal.Signals(-code).name if code < 0 else str(code)
