"""The supervisor's side of the fork server: workers forked from what was imported once.

    start -> (first worker: waits for it) -> fork, fork, …; a runtime it lacks is ordered, and
    until it has that one, or after it died, or when it refuses, workers start by their command

Importing numpy and a runtime takes most of a worker's start, and most of what it takes of memory
is the same in every worker. The fork server (`forking`) has imported both; a fork shares them.

A worker that was forked is no child of this process. So it is watched by a pidfd, which the fork
server sends with its pid before it is waited for; how it ended the fork server tells. It ends
with this process all the same: it is on a leash, a pipe whose closing kills it. Therefore it may
outlive the fork server, and does: what serves is not to end with what only started it.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from wherry.profile import Runtime
from wherry_agent.asking import Bringing, BundlePlace, encode_bringing
from wherry_agent.processes import WorkerProcess, bundle_words, spawn

FIRST_S = 10.0  # It imports what the first worker would import: waiting costs that one nothing.
REPLY_S = 0.25  # A fork takes 5 ms.
STATUS_S = 0.1
LARGEST_ORDER_BYTES = 64 << 10
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
STEADY_S = 30.0  # One that lived so long is started again after the shortest pause.
ROOM = " " * 96  # In its command line, for a worker to stand there with its bundle.
COMMAND = (sys.executable, "-m", "wherry_agent.forking", ROOM)


class Order(msgspec.Struct, frozen=True):
    """Import `runtime` with this courtesy, then fork a worker with `words`, if there are any.

    With words come descriptors: the worker's socket, its two arenas, its leash, and where the fork
    server tells of it: first its pid, with a pidfd, then its status; nothing where it refuses.
    """

    runtime: Runtime
    niceness: int
    words: tuple[str, ...] = ()


class Forked:
    """A `WorkerProcess` that is the fork server's child, and on a leash of this process."""

    def __init__(self, pid: int, watched: int, leash: int, told: socket.socket) -> None:
        self.pid, self.watched = pid, watched
        self.status: int | None = None
        self._leash, self._told = leash, told
        self._has_ended = False

    def kill(self) -> None:
        if not self._has_ended:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.watched, signal.SIGKILL)

    def wait(self, timeout_s: float | None = None) -> bool:
        if not self._has_ended and _is_readable(self.watched, timeout_s):
            self._has_ended = True
            self.status = self._read_status()
        return self._has_ended

    def forget(self) -> None:
        os.close(self.watched)
        os.close(self._leash)
        self._told.close()

    def _read_status(self) -> int | None:
        """Return what the fork server tells; None where it ended before."""
        if not _is_readable(self._told.fileno(), STATUS_S):
            return None
        try:
            told = self._told.recv(16)
        except OSError:
            return None
        return int(told) if told else None


class Forks:
    """One fork server, started again where it died; used on one loop."""

    def __init__(
        self,
        *,
        command: Sequence[str] = COMMAND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command, self._clock = tuple(command), clock
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: socket.socket | None = None
        self._asked, self._warm, self._broken = set[Runtime](), set[Runtime](), set[Runtime]()
        self._is_first = True
        self._waited_for: Runtime | None = None  # What the first worker needs, for all that do.
        self._pause_s, self._started_s, self._not_before_s = SHORTEST_PAUSE_S, 0.0, 0.0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the fork server where there is none and its pause is over."""
        if self._process is not None or self._clock() < self._not_before_s:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command, inherited = [*self._command, str(theirs.fileno())], [theirs.fileno()]
            try:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, pass_fds=inherited
                )
            except OSError:
                ours.close()
                self._pause()
                return
        self._orders, self._started_s = ours, self._clock()

    async def start_process(
        self, place: BundlePlace, bringing: Bringing, socket: int, arenas: tuple[int, int]
    ) -> WorkerProcess:
        """Fork a worker where that is possible at once, else start it by its command."""
        forked = await self._fork(place, bringing, (socket, *arenas))
        return forked or await spawn(place, bringing, socket, arenas)

    def close(self) -> None:
        """End the fork server."""
        if self._orders is not None:
            self._orders.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._orders = self._process = None

    async def _fork(
        self, place: BundlePlace, bringing: Bringing, inherited: tuple[int, ...]
    ) -> Forked | None:
        self.start()
        self.listen()
        runtime = place.manifest.profile.runtime
        if self._orders is None or runtime in self._broken:
            return None
        if self._is_first:
            self._is_first, self._waited_for = False, runtime
        if runtime not in self._warm and runtime != self._waited_for:
            if runtime not in self._asked:
                self._send(Order(runtime, bringing.niceness), ())
            return None
        patience_s = REPLY_S if runtime in self._warm else FIRST_S
        words = (*bundle_words(place), "--bringing", encode_bringing(bringing).decode())
        return await self._order(Order(runtime, bringing.niceness, words), inherited, patience_s)

    async def _order(
        self, order: Order, inherited: tuple[int, ...], patience_s: float
    ) -> Forked | None:
        held, leash = os.pipe()
        told, tells = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._send(order, (*inherited, held, tells.fileno()))
        os.close(held)
        tells.close()
        forked = None
        try:
            if await _becomes_readable(told.fileno(), patience_s):
                forked = _read_forked(told, leash)
        finally:
            if forked is None:
                os.close(leash)  # Should it be forked yet, this ends it.
                told.close()
        return forked

    def _send(self, order: Order, descriptors: tuple[int, ...]) -> None:
        """Send an order; one that cannot be sent is answered by nobody."""
        if self._orders is None:
            return
        self._asked.add(order.runtime)
        data = msgspec.json.encode(order)
        with suppress(OSError):
            socket.send_fds(self._orders, [data], descriptors, socket.MSG_DONTWAIT)

    def listen(self) -> None:
        """Hear which runtimes it has imported, and whether it died."""
        while self._orders is not None:
            try:
                told = self._orders.recv(64, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                told = b""
            if not told:
                self._bury()
                return
            self._warm.add(Runtime(told.decode()))

    def _bury(self) -> None:
        """Forget a fork server that died; a runtime that it died of is imported no more."""
        self.close()
        self._broken |= self._asked - self._warm
        self._asked, self._warm, self._waited_for = set(), set(), None
        if self._clock() >= self._started_s + STEADY_S:
            self._pause_s = SHORTEST_PAUSE_S
        self._pause()

    def _pause(self) -> None:
        self._not_before_s = self._clock() + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)


def _read_forked(told: socket.socket, leash: int) -> Forked | None:
    """Return the worker that the fork server tells of; None where it refused or died."""
    data, descriptors, _, _ = socket.recv_fds(told, 16, 1)
    if not data or not descriptors:
        return None
    return Forked(int(data), descriptors[0], leash, told)


async def _becomes_readable(descriptor: int, timeout_s: float) -> bool:
    """Wait until a descriptor is readable; False when the time is over."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    waiting = loop.create_task(readable.wait())
    try:
        return bool((await asyncio.wait((waiting,), timeout=timeout_s))[0])
    finally:
        waiting.cancel()
        loop.remove_reader(descriptor)


def _is_readable(descriptor: int, timeout_s: float | None) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(None if timeout_s is None else 1000 * timeout_s))
