"""Work done in processes of its own: one a job, so that a converter that dies ends one variant.

Each process is forked from a server that has the libraries loaded, writes what it prints to its
own log, and sends back what it says on the way and its result. At most `processes` run at once,
behind the ordinary `Executor`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol, TypeVar

from wherry_controller.builder.faults import refuse
from wherry_controller.core.fault import BuildReason, BuildRefused, Fault

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

PRELOADED = ("numpy", "onnx", "onnxruntime.quantization", "wherry_controller.builder.explore")
LONGEST_LINE = 300
LAST_BYTES = 64 << 10
LINGER_S = 2.0


class Say(Protocol):
    """Tells the build how far a job is."""

    def __call__(self, step: str, /) -> None: ...


class Job(Protocol[T_co]):
    """A function of a module, called with its argument in a process of its own."""

    def __call__(self, say: Say) -> T_co: ...


@dataclass(frozen=True, slots=True)
class _Said:
    step: str


@dataclass(frozen=True, slots=True)
class _Ended:
    result: object
    fault: Fault | None


class Jobs:
    """Runs jobs, `processes` of them at once; a context manager that ends what still runs.

    `preloaded` are modules that several of the jobs import: the server loads them once for all.
    """

    def __init__(self, processes: int, preloaded: Sequence[str] = ()) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([*PRELOADED, *preloaded])
        self._threads: Executor = ThreadPoolExecutor(processes, thread_name_prefix="job")
        self._running: set[multiprocessing.process.BaseProcess] = set()

    def __enter__(self) -> Jobs:
        return self

    def __exit__(self, *_: object) -> None:
        # Else what waits would start in the place of what is killed.
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in list(self._running):
            process.kill()
        self._threads.shutdown()

    def submit(self, job: Job[T], *, log: Path, say: Say) -> Future[T]:
        """Start a job when a process is free; its refusal is raised by the future's `result`."""
        return self._threads.submit(self._run, job, log, say)

    def _run(self, job: Job[T], log: Path, say: Say) -> T:
        here, there = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_work, args=(job, log, there))
        process.start()
        there.close()
        self._running.add(process)
        try:
            ended = _listen(here, say)
            process.join(LINGER_S if ended else None)
            process.kill()  # A thread that a net's code left running would keep it for ever.
            process.join()
        finally:
            self._running.discard(process)
            here.close()
        if ended is None:
            refuse(BuildReason.CONVERTER_CRASHED, _death(process.exitcode, log))
        if ended.fault is not None:
            raise BuildRefused(ended.fault)
        return ended.result  # type: ignore[return-value]


def _listen(connection: Connection, say: Say) -> _Ended | None:
    """Pass on what the job says; return how it ended, None where it died without a word."""
    with suppress(EOFError, OSError):
        while True:
            message = connection.recv()
            if isinstance(message, _Ended):
                return message
            say(message.step)
    return None


def _work(job: Job[object], log: Path, connection: Connection) -> None:
    """Do the job: the outermost call of its process."""
    _print_to(log)

    def say(step: str) -> None:
        connection.send(_Said(step))

    try:
        connection.send(_Ended(job(say), None))
    except BuildRefused as refusal:
        tell(refusal)
        connection.send(_Ended(None, refusal.fault))
    # Whatever else is raised goes to the log as a traceback, and the process ends with status 1.


def tell(refusal: BuildRefused) -> None:
    """Print a refusal to the job's log, with what foreign code raised before it."""
    sys.stdout.write(f"{refusal.fault.sentence}\n")
    if refusal.__cause__ is not None:
        traceback.print_exception(refusal.__cause__, file=sys.stdout)


def _print_to(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _death(status: int | None, log: Path) -> str:
    if status is not None and status < 0:
        how = f"was ended by {signal.Signals(-status).name}"
    else:
        how = f"ended with status {status}"
    lines = _end_of(log).strip().splitlines()
    last = f" ({lines[-1][:LONGEST_LINE]})" if lines else ""
    return f"the process that did it {how}{last}; its log is {log.name}"


def _end_of(log: Path) -> str:
    """Return the last of what a job printed, which has no bound of its own."""
    if not log.is_file():
        return ""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - LAST_BYTES))
        return stream.read(LAST_BYTES).decode(errors="replace")
