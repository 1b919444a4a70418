"""What a service tells systemd: that it is ready, that it lives, that it stops; sd_notify(3).

    NOTIFY_SOCKET      where to tell it; without it nothing is told
    WATCHDOG_USEC      within which a sign of life is wanted, for the process WATCHDOG_PID
    LISTEN_FDS         how many sockets were bound before the start; LISTEN_FDNAMES names them

A service that cannot tell goes on: systemd is who acts on silence.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

FIRST_DESCRIPTOR = 3  # sd_listen_fds(3)
SIGNS = 3  # Of life in the time of one, so that a late one is no end.


class Notifier:
    """Tells systemd of this process, from one thread."""

    def __init__(
        self,
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._address = _address_of(environment.get("NOTIFY_SOCKET", ""))
        self._pace_s = _watchdog_s(environment) / SIGNS
        self._last_s = -self._pace_s

    def ready(self, status: str) -> None:
        """Say that the service serves, and in one line what."""
        self._tell("READY=1", f"STATUS={_one_line(status)}")

    def show(self, status: str) -> None:
        """Say in one line how it is, for `systemctl status`."""
        self._tell(f"STATUS={_one_line(status)}")

    def live(self) -> None:
        """Give a sign of life, where one is wanted and the last is not a moment ago."""
        now_s = self._clock()
        if self._pace_s and now_s - self._last_s >= self._pace_s:
            self._last_s = now_s
            self._tell("WATCHDOG=1")

    def stop(self) -> None:
        """Say that the service ends in order."""
        self._tell("STOPPING=1")

    def _tell(self, *lines: str) -> None:
        if self._address is None:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
            sending.setblocking(False)  # A loop that decides waits for nobody.
            sending.sendto("\n".join(lines).encode(), self._address)


def take_sockets(environment: Mapping[str, str] = os.environ) -> dict[str, socket.socket]:
    """Return the listening sockets that systemd has bound for this process, by their names.

    Processes that this one starts do not inherit them. Call it once.
    """
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return {}
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    count = int(environment.get("LISTEN_FDS", "0"))
    found = {}
    for descriptor, name in enumerate(names[:count], start=FIRST_DESCRIPTOR):
        os.set_inheritable(descriptor, False)
        found[name] = socket.socket(fileno=descriptor)
    return found


def _address_of(told: str) -> str | None:
    """Return the address of a socket; one that begins with @ is abstract."""
    if told.startswith("@"):
        return "\0" + told[1:]
    return told if told.startswith("/") else None


def _watchdog_s(environment: Mapping[str, str]) -> float:
    """Return within which time a sign of life is wanted; 0: none is."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    told = environment.get("WATCHDOG_USEC", "0")
    return int(told) / 1e6 if told.isdigit() else 0.0


def _one_line(status: str) -> str:
    return " ".join(status.split())
