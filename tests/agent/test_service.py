"""The agent as a service: it says when it serves, and listens where systemd has bound."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.agent.agents import repository_at
from tests.agent.serving.calls import Caller
from tests.agent.waiting import PATIENCE_S
from tests.brokers import free_port
from tests.builders import a_device_id
from tests.enrolled import an_enrolled_home
from wherry.names import ProfileName

pytestmark = pytest.mark.system

# What systemd does for a unit with a socket: it is descriptor 3 of the process that it names.
AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
told = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "api"}
os.execve(sys.argv[2], sys.argv[2:], {**os.environ, **told})
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose broker is away."""
    port, profile = free_port(), ProfileName("test")
    root = repository_at(port).roots[0].data
    return an_enrolled_home(
        tmp_path / "home", f"mqtt://127.0.0.1:{port}", a_device_id(), profile, root
    )


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[socket.socket]:
    """A socket that was bound for the agent and outlives it."""
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "api.sock"))
        one.listen()
        yield one


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(str(tmp_path / "notify"))
        one.settimeout(PATIENCE_S)
        yield one


@contextmanager
def a_service(home: Path, bound: socket.socket, heard: socket.socket) -> Iterator[None]:
    """Run the agent as systemd would, until the end of the block."""
    command = [sys.executable, "-m", "wherry_agent", "run", "--home", str(home)]
    process = subprocess.Popen(
        [sys.executable, "-c", AS_SYSTEMD, str(bound.fileno()), *command],
        env={**os.environ, "NOTIFY_SOCKET": heard.getsockname(), "WATCHDOG_USEC": "3000000"},
        pass_fds=[bound.fileno()],
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


def until_told(heard: socket.socket, line: str) -> None:
    while line not in heard.recv(4096).decode().split("\n"):
        pass


def lives(bound: socket.socket) -> bool:
    return Caller(Path(bound.getsockname())).get("/v2/health/live").status == 200


def test_it_says_that_it_is_ready_once_it_answers_and_gives_signs_of_life(
    home: Path, bound: socket.socket, heard: socket.socket
) -> None:
    with a_service(home, bound, heard):
        until_told(heard, "READY=1")
        assert lives(bound)
        for _ in range(2):
            until_told(heard, "WATCHDOG=1")
    until_told(heard, "STOPPING=1")


def test_who_connects_while_it_is_started_again_waits_for_an_answer(
    home: Path, bound: socket.socket, heard: socket.socket
) -> None:
    with a_service(home, bound, heard):
        until_told(heard, "READY=1")
    with socket.socket(socket.AF_UNIX) as early:
        early.settimeout(PATIENCE_S)
        early.connect(bound.getsockname())
        early.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: here\r\n\r\n")
        with a_service(home, bound, heard):
            assert early.recv(4096).startswith(b"HTTP/1.1 200 ")
            assert lives(bound)
