"""One worker process as the engine sees it: started, asked, drained, ended.

    STARTING --Ready--> READY --drain--> DRAINING --nothing left to answer--> ENDED

Every state ends with the worker's stream and at its own deadline, STARTING with Failed too.
Everything here runs on the engine's loop. A worker ends when its socket closes; one that does
not within a grace is killed. Requests that a worker leaves unanswered go back to the engine.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from wherry.manifest import Manifest
from wherry.names import AliasName, Digest
from wherry.reasons import Reason
from wherry_agent import frames
from wherry_agent.frames import Fault, Tensor

GRACE_S = 1.0


@dataclass(frozen=True, slots=True)
class BundlePlace:
    """A bundle on this device, its manifest verified.

    `manifest_path` holds the signed envelope; each blob stands at `blobs_folder`/<sha256>.
    """

    digest: Digest
    manifest_path: Path
    blobs_folder: Path = field(kw_only=True)
    manifest: Manifest = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class Answer:
    bundle: Digest
    tensors: tuple[Tensor, ...]
    compute_ns: int


@dataclass(frozen=True, slots=True)
class Unanswered:
    """`bundle` is the one that should have answered; None where nothing serves."""

    fault: Fault
    detail: str
    bundle: Digest | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A request on its way; `done` is called once, on the engine's loop."""

    alias: AliasName
    tensors: tuple[Tensor, ...]
    done: Callable[[Answer | Unanswered], None]
    retried: bool = False


class LinkState(Enum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    ENDED = "ended"


class LinkListener(Protocol):
    """What the engine wants to be told of a worker."""

    def became_ready(self, link: Link) -> None: ...
    def failed_to_load(self, link: Link, reason: Reason, detail: str) -> None: ...
    def died(self, link: Link, detail: str) -> None: ...
    def left_unanswered(self, link: Link, question: Question) -> None: ...
    def ended(self, link: Link) -> None: ...


@dataclass(slots=True)
class _Asked:
    question: Question
    timer: asyncio.TimerHandle


def worker_command(place: BundlePlace, descriptor: int) -> list[str]:
    """Return the command of a worker for a bundle; it inherits its end of the socket."""
    return [
        *(sys.executable, "-m", "wherry_agent.worker"),
        *("--bundle", place.digest, "--manifest", str(place.manifest_path)),
        *("--blobs", str(place.blobs_folder), "--socket", str(descriptor)),
    ]


class Link(asyncio.Protocol):
    def __init__(
        self,
        alias: AliasName,
        place: BundlePlace,
        *,
        listener: LinkListener,
        request_timeout_s: float,
    ) -> None:
        self.alias, self.place, self.state = alias, place, LinkState.STARTING
        self.ready_at_s = 0.0
        self._listener, self._request_timeout_s = listener, request_timeout_s
        self._loop = asyncio.get_running_loop()
        self._reader = frames.Reader()
        self._asked: dict[int, _Asked] = {}
        self._number = 0
        self._heard_at_s = 0.0
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._process, self._connecting = self._start()

    @property
    def bundle(self) -> Digest:
        return self.place.digest

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def in_flight(self) -> int:
        return len(self._asked)

    def limit_loading(self, timeout_s: float) -> None:
        """Give the worker `timeout_s` to become ready."""
        self._timer = self._loop.call_later(timeout_s, self._took_too_long, timeout_s)

    def ask(self, question: Question) -> None:
        """Send a request to the worker, which must be ready."""
        assert self._transport is not None
        self._number += 1
        number = self._number
        timer = self._loop.call_later(self._request_timeout_s, self._expire, number)
        self._asked[number] = _Asked(question, timer)
        head = frames.Infer(number, frames.heads_of(question.tensors))
        self._transport.write(frames.encode(head, question.tensors))

    def drain(self, timeout_s: float) -> None:
        """End the worker when it has answered what it was asked, or when the time is over."""
        if self.state is not LinkState.READY or not self._asked:
            self.end()
            return
        self.state = LinkState.DRAINING
        self._timer = self._loop.call_later(timeout_s, self.end)

    def end(self) -> None:
        """End the worker now; what it was asked goes back to the engine."""
        self._enter_end()
        if self._transport is None:
            self._process.kill()
        else:
            self._transport.abort()
            self._loop.call_later(GRACE_S, self._process.kill)  # Nothing, once it was reaped.

    def kill(self) -> None:
        """End the worker without a word to anybody, and wait until it is gone."""
        self.state = LinkState.ENDED
        self._connecting.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._process.kill()
        self._process.wait()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self.state is LinkState.ENDED:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self._heard_at_s = self._loop.time()
        try:
            for head, body in self._reader.feed(data):
                self._hear(head, body)
        except frames.BadFrame as error:
            self._lose(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.state is not LinkState.ENDED:
            self._lose(self._how_it_ended())

    # What the worker says

    def _hear(self, head: frames.Head, body: bytes) -> None:
        match head:
            case frames.Answered(number, compute_ns, heads):
                tensors = frames.tensors_of(heads, body)
                self._settle(number, Answer(self.bundle, tensors, compute_ns))
            case frames.Refused(number, fault, detail):
                self._settle(number, Unanswered(fault, detail, self.bundle))
            case frames.Ready() if self.state is LinkState.STARTING:
                self._stop_timer()
                self.state, self.ready_at_s = LinkState.READY, self._loop.time()
                self._listener.became_ready(self)
            case frames.Failed(reason, detail) if self.state is LinkState.STARTING:
                self._fail(reason, detail)
            case _:
                raise frames.BadFrame(f"the worker sent {type(head).__name__}")

    def _settle(self, number: int, outcome: Answer | Unanswered) -> None:
        asked = self._asked.pop(number, None)
        if asked is None:
            return  # It came after its deadline.
        asked.timer.cancel()
        asked.question.done(outcome)
        if self.state is LinkState.DRAINING and not self._asked:
            self.end()

    def _expire(self, number: int) -> None:
        detail = f"no answer came within {self._request_timeout_s:g} s; send fewer rows at a time"
        hung = self._loop.time() - self._heard_at_s >= self._request_timeout_s
        self._settle(number, Unanswered(Fault.TIMED_OUT, detail, self.bundle))
        if hung and self.state is not LinkState.ENDED:
            self._lose(f"it answered nothing for {self._request_timeout_s:g} s")

    def _took_too_long(self, timeout_s: float) -> None:
        self._fail(Reason.LOAD_TIMEOUT, f"it was not ready within {timeout_s:g} s")

    def _fail(self, reason: Reason, detail: str) -> None:
        self.end()
        self._listener.failed_to_load(self, reason, detail)

    def _lose(self, detail: str) -> None:
        """End a worker that ended by itself, or that must not go on."""
        was = self.state
        self._process.kill()
        self.state = LinkState.ENDED
        if was is LinkState.STARTING:
            self._fail(Reason.LOAD_FAILED, detail)
        else:
            # Told first, so that what it left goes to another worker.
            self._listener.died(self, detail)
            self.end()

    # The process

    def _start(self) -> tuple[subprocess.Popen[bytes], asyncio.Task[object]]:
        ours, theirs = socket.socketpair()
        with theirs:
            command = worker_command(self.place, theirs.fileno())
            try:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
                )
            except OSError:
                ours.close()
                raise
        watched = os.pidfd_open(process.pid)
        self._loop.add_reader(watched, self._reap, watched)
        connecting = self._loop.create_task(self._loop.create_connection(lambda: self, sock=ours))
        return process, connecting

    def _reap(self, watched: int) -> None:
        self._loop.remove_reader(watched)
        os.close(watched)
        self._process.wait()
        self._listener.ended(self)

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(timeout=GRACE_S / 10)
        except subprocess.TimeoutExpired:
            return "it closed its socket"
        if status < 0:
            return f"it was ended by {signal.Signals(-status).name}"
        return f"it ended with exit status {status}"

    def _enter_end(self) -> None:
        self.state = LinkState.ENDED
        self._stop_timer()
        left, self._asked = self._asked, {}
        for asked in left.values():
            asked.timer.cancel()
            self._listener.left_unanswered(self, asked.question)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
