"""What is told to systemd is what sd_notify(3) and sd_listen_fds(3) say, on a real socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry.systemd import Notifier, take_sockets


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(str(tmp_path / "notify"))
        one.setblocking(False)
        yield one


def told(heard: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(heard.recv(4096).decode())
        except BlockingIOError:
            return found


def environment_of(heard: socket.socket, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": heard.getsockname(), **more}


def test_a_service_tells_that_it_is_ready_how_it_is_and_that_it_stops(heard: socket.socket) -> None:
    notifier = Notifier(environment_of(heard))
    notifier.ready("serves\ndefault")
    notifier.show("serves nothing")
    notifier.live()
    notifier.stop()
    assert told(heard) == ["READY=1\nSTATUS=serves default", "STATUS=serves nothing", "STOPPING=1"]


def test_signs_of_life_come_three_times_in_the_time_of_one(heard: socket.socket) -> None:
    clock = Clock()
    notifier = Notifier(environment_of(heard, WATCHDOG_USEC="30000000"), clock)
    for _ in range(61):
        notifier.live()
        clock.now_s += 0.5
    assert told(heard) == ["WATCHDOG=1"] * 4


@pytest.mark.parametrize(
    "more",
    [{}, {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}],
)
def test_nobody_is_told_of_life_who_does_not_ask_this_process(
    heard: socket.socket, more: dict[str, str]
) -> None:
    Notifier(environment_of(heard, **more)).live()
    assert told(heard) == []


def test_abstract_sockets_are_told_too() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(f"\0wherry-test-{os.getpid()}")
        Notifier({"NOTIFY_SOCKET": f"@wherry-test-{os.getpid()}"}).ready("")
        assert one.recv(4096) == b"READY=1\nSTATUS="


@pytest.mark.parametrize("address", ["", "relative", "/nobody/there"])
def test_a_service_that_cannot_tell_goes_on(address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000"})
    notifier.ready("serves")
    notifier.live()
    notifier.stop()


TAKES = """
import json, os, socket, subprocess, sys
from wherry.systemd import take_sockets
os.environ["LISTEN_PID"] = str(os.getpid())
found = take_sockets()
print(json.dumps({name: one.getsockname() for name, one in found.items()}))
print(json.dumps([one.get_inheritable() for one in found.values()]))
"""


def test_sockets_that_were_bound_before_are_found_by_their_names(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as local, socket.create_server(("127.0.0.1", 0)) as http:
        local.bind(str(tmp_path / "api.sock"))
        ours = (local.fileno(), http.fileno())
        begin = (
            f"import os; keep = [os.dup(each) for each in {ours}]; "
            "[os.dup2(each, 3 + number) for number, each in enumerate(keep)]\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", begin + TAKES],
            env={**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "api:http"},
            pass_fds=ours,
            capture_output=True,
            text=True,
            check=True,
        )
        places, inheritable = done.stdout.splitlines()
        port = http.getsockname()[1]
    assert places == f'{{"api": "{tmp_path}/api.sock", "http": ["127.0.0.1", {port}]}}'
    assert inheritable == "[false, false]"


@pytest.mark.parametrize("pid", [None, "1"])
def test_sockets_of_others_are_not_taken(pid: str | None) -> None:
    environment = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "api"} | (
        {"LISTEN_PID": pid} if pid else {}
    )
    assert take_sockets(environment) == {}
