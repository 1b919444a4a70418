"""The gauge: runs a trial's bundle in a worker of its own, beside what serves.

The deciding thread says what to run and when to stop; a thread waits for the worker, watches its
memory, and puts what came of it on the queue. A trial that was stopped is not answered. The worker
gets a low priority and a share of one core (`measuring`), and ends when the agent does.
"""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from wherry import codec
from wherry.measures import TrialFigures
from wherry.messages import Trial, detail
from wherry.reasons import Reason
from wherry_agent import frames, host
from wherry_agent.asking import BundlePlace
from wherry_agent.core.trial import Ran
from wherry_agent.link import GRACE_S
from wherry_agent.measuring import Bounds, memory_bytes
from wherry_agent.processes import worker_command

WATCH_S = 0.05
READ_BYTES = 1 << 16
SPARE = 0.9  # Of the time that is left: the last row shall not end after the deadline.


class Gauge:
    """Runs one trial at a time; the deciding thread calls it."""

    def __init__(self, on_event: Callable[[Ran], None]) -> None:
        self._on_event = on_event
        self._run: _Run | None = None

    def run(self, trial: Trial, place: BundlePlace, *, deadline_s: float) -> None:
        """Begin a trial; it answers `Ran`. Nothing happens where it runs already."""
        if self._run is not None and self._run.trial == trial and self._run.is_alive():
            return
        self.stop()
        self._run = _Run(trial, place, deadline_s, self._on_event)
        self._run.start()

    def stop(self) -> None:
        """End the worker, if there is one, and wait until it is gone."""
        if self._run is not None:
            self._run.end()
            self._run = None


class _Run(threading.Thread):
    """One trial's worker; this thread starts it, since the worker ends with the thread."""

    def __init__(
        self, trial: Trial, place: BundlePlace, deadline_s: float, on_event: Callable[[Ran], None]
    ) -> None:
        super().__init__(name="trial", daemon=True)
        self.trial = trial
        self._place, self._deadline_s, self._on_event = place, deadline_s, on_event
        self._is_stopped = threading.Event()

    def end(self) -> None:
        self._is_stopped.set()
        self.join()

    def run(self) -> None:
        ran = self._find_no_time() or self._find_no_room() or self._measure()
        if not self._is_stopped.is_set():
            self._on_event(ran)

    def _find_no_time(self) -> Ran | None:
        if time.monotonic() < self._deadline_s:
            return None
        return self._failed(Reason.DEADLINE, "its time was over before its worker began")

    def _find_no_room(self) -> Ran | None:
        available = host.memory_available_bytes()
        if available is None or available >= self.trial.memory_bytes:
            return None
        free_mib, wanted_mib = available >> 20, self.trial.memory_bytes >> 20
        return self._failed(
            Reason.OVER_BUDGET, f"{free_mib} MiB of memory are free and it may take {wanted_mib}"
        )

    def _measure(self) -> Ran:
        before_c = host.temperature_c()
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                try:
                    worker = self._start(theirs)
                except OSError as error:
                    return self._failed(Reason.LOAD_FAILED, f"no process could be started: {error}")
            try:
                return self._listen(ours, worker, before_c)
            finally:
                worker.kill()
                worker.wait()

    def _start(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        bounds = Bounds(
            runs=self.trial.runs,
            within_s=SPARE * (self._deadline_s - time.monotonic()),
            core_share=self.trial.core_share,
            niceness=self.trial.niceness,
        )
        command = [
            *worker_command(self._place, theirs.fileno()),
            *("--trial", codec.encode(bounds).decode()),
        ]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])

    def _listen(
        self, link: socket.socket, worker: subprocess.Popen[bytes], before_c: float | None
    ) -> Ran:
        """Wait for the worker's one word, while it keeps to its memory."""
        link.settimeout(WATCH_S)
        reader = frames.Reader()
        while not self._is_stopped.is_set():
            over = self._find_excess(worker.pid)
            if over is not None:
                return over
            try:
                data = link.recv(READ_BYTES)
            except TimeoutError:
                continue
            except OSError:
                data = b""
            if not data:
                return self._failed(Reason.WORKER_DIED, _how_it_ended(worker))
            try:
                for head, _ in reader.feed(data):
                    return self._read(head, before_c)
            except frames.BadFrame as error:
                return self._failed(Reason.WORKER_DIED, str(error))
        return self._failed(Reason.BUSY, "it was stopped")

    def _find_excess(self, pid: int) -> Ran | None:
        taken = memory_bytes("VmHWM", Path(f"/proc/{pid}/status"))
        if taken <= self.trial.memory_bytes:
            return None
        taken_mib, allowed_mib = taken >> 20, self.trial.memory_bytes >> 20
        return self._failed(
            Reason.OVER_BUDGET, f"it took {taken_mib} MiB of memory, {allowed_mib} are allowed"
        )

    def _read(self, head: frames.Head, before_c: float | None) -> Ran:
        match head:
            case frames.Tried(figures):
                return Ran(self.trial.trial, _with_heat(figures, before_c))
            case frames.Failed(reason, why):
                return self._failed(reason, why)
            case _:
                return self._failed(Reason.WORKER_DIED, f"it said {type(head).__name__}")

    def _failed(self, reason: Reason, why: str) -> Ran:
        return Ran(self.trial.trial, None, reason, detail(why))


def _how_it_ended(worker: subprocess.Popen[bytes]) -> str:
    try:
        return f"its worker ended with status {worker.wait(GRACE_S)}"
    except subprocess.TimeoutExpired:
        return "its worker closed the socket"


def _with_heat(figures: TrialFigures, before_c: float | None) -> TrialFigures:
    return replace(figures, temperature_before_c=before_c, temperature_after_c=host.temperature_c())
