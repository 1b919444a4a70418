"""The fork server: `python -m wherry_agent.forking`, the process that workers are forked from.

    import what workers need and the runtime asked for -> fork -> tell pid, then status, of each

It imports in a thread that ends with that, so that it has one thread when it forks: it refuses to
fork with more, since what another thread holds (a lock, the allocator) would be held for ever. It
runs no model. It ends with the supervisor, and its workers are on leashes of the supervisor's.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import msgspec

from wherry.profile import Runtime
from wherry_agent import limits, worker
from wherry_agent.forks import LARGEST_ORDER_BYTES, Order

DESCRIPTORS = 5  # With an order to fork: see `Order`.
ALONE_S = 0.1  # A thread that was joined may take a moment to be gone.
LEASHED_BY = signal.SIGKILL  # Also while a model computes for ever.
LOOK_S = 0.001

TASKS, STAT, MEMORY = (Path("/proc/self") / name for name in ("task", "stat", "mem"))
ARGUMENTS = 45  # After the name, /proc/self/stat says here where the command line begins and ends.


@dataclass(slots=True)
class _Forking:
    """What the fork server holds: its orders, and of each worker (by pidfd) whom to tell of it."""

    orders: socket.socket
    imported: set[Runtime] = field(default_factory=set)
    workers: dict[int, tuple[int, socket.socket]] = field(default_factory=dict)
    poller: select.poll = field(default_factory=select.poll)  # Not epoll: a fork would share it.

    def close_all(self) -> None:
        """Close what no worker may hold."""
        self.orders.close()
        for watched, (_, tells) in self.workers.items():
            os.close(watched)
            tells.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Fork by the orders that come on an inherited socket: [room] DESCRIPTOR."""
    words = sys.argv[1:] if arguments is None else arguments
    worker.prepare()
    limits.enclose()
    with socket.socket(fileno=int(words[-1])) as orders:
        forking = _Forking(orders)
        forking.poller.register(orders, select.POLLIN)
        while True:
            for descriptor, _ in forking.poller.poll():
                if descriptor in forking.workers:
                    _reap(forking, descriptor)
                elif not _follow(forking):
                    return 0


def _follow(forking: _Forking) -> bool:
    """Carry out one order; say whether the supervisor is still there."""
    data, descriptors = b"", list[int]()
    with suppress(ConnectionError):  # It ended and left unread what it was told.
        data, descriptors, _, _ = socket.recv_fds(forking.orders, LARGEST_ORDER_BYTES, DESCRIPTORS)
    if not data:
        return False
    order = msgspec.json.decode(data, type=Order)
    is_there = order.runtime in forking.imported or _import_apart(forking, order)
    if order.words and is_there and is_alone():
        _fork(forking, order.words, descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    return True


def _import_apart(forking: _Forking, order: Order) -> bool:
    """Import what a worker of the runtime needs, and tell; say whether it is there."""
    outcome: list[bool] = []
    thread = threading.Thread(target=lambda: outcome.append(_import(order)), name="import")
    thread.start()
    thread.join()
    if outcome != [True]:
        return False
    forking.imported.add(order.runtime)
    with suppress(OSError):  # The supervisor ended: the next order is its end.
        forking.orders.send(order.runtime.value.encode())
    return True


def _import(order: Order) -> bool:
    limits.be_nice(order.niceness)
    for name in ("bringup", "desk", "observing"):
        import_module(f"wherry_agent.{name}")
    from wherry_agent import runtimes

    try:
        runtimes.import_runtime(order.runtime)
    except ImportError:
        return False  # A worker that is started by its command says what is missing.
    return True


def is_alone(within_s: float = ALONE_S) -> bool:
    """Say whether this process has one thread, or has so within a moment."""
    ends_s = time.monotonic() + within_s
    while len(list(TASKS.iterdir())) > 1:
        if time.monotonic() >= ends_s:
            return False
        time.sleep(LOOK_S)
    return True


def _fork(forking: _Forking, words: Sequence[str], descriptors: Sequence[int]) -> None:
    """Fork a worker and tell of it; in the worker this does not return."""
    link, questions, answers, leash, tells = descriptors
    try:
        pid = os.fork()
    except OSError:
        return  # That nobody is told of says it.
    if not pid:
        forking.close_all()
        os.close(tells)
        hold_on(leash)
        _rename(words)
        raise SystemExit(worker.go_on(words, link, (questions, answers)))
    watched, telling = os.pidfd_open(pid), socket.socket(fileno=os.dup(tells))
    with suppress(OSError):  # Nobody waits for it any more: its leash ends it.
        socket.send_fds(telling, [str(pid).encode()], [watched])
    forking.workers[watched] = (pid, telling)
    forking.poller.register(watched, select.POLLIN)


def _reap(forking: _Forking, watched: int) -> None:
    """Wait for a worker that ended, and tell how."""
    forking.poller.unregister(watched)
    pid, telling = forking.workers.pop(watched)
    _, status = os.waitpid(pid, 0)
    os.close(watched)
    with telling, suppress(OSError):
        telling.send(str(os.waitstatus_to_exitcode(status)).encode())


def hold_on(leash: int) -> None:
    """Have this process killed when the other end of the pipe `leash` is closed."""
    fcntl.fcntl(leash, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(leash, fcntl.F_SETSIG, LEASHED_BY)
    fcntl.fcntl(leash, fcntl.F_SETFL, fcntl.fcntl(leash, fcntl.F_GETFL) | os.O_ASYNC)
    poller = select.poll()
    poller.register(leash, 0)
    if poller.poll(0):
        os._exit(0)  # It was closed before.


def _rename(words: Sequence[str]) -> None:
    """Stand in lists of processes as a worker that was started by its command would."""
    with suppress(OSError, ValueError, StopIteration):
        fields = STAT.read_text().rpartition(")")[2].split()
        begin, end = int(fields[ARGUMENTS]), int(fields[ARGUMENTS + 1])
        shown = "\0".join([sys.executable, "-m", "wherry_agent.worker", *words]).encode()
        with MEMORY.open("r+b", buffering=0) as memory:
            memory.seek(begin)
            memory.write(shown[: end - begin - 1].ljust(end - begin, b"\0"))


if __name__ == "__main__":
    sys.exit(main())
