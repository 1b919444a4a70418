"""The demo's processes: a controller with its embedded broker, agents, and local programs."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import msgspec

from wherry.errors import Unavailable
from wherry_controller import foundation
from wherry_controller.cli.login import Login
from wherry_controller.cli.remote import Remote
from wherry_sim.demo.traffic import Seen

START_S = 30.0


class DidNotStart(Unavailable):
    """A process of the demo that did not come up."""

    def __init__(self, name: str, log: Path) -> None:
        super().__init__(name, log)
        self.name, self.log = name, log

    def __str__(self) -> str:
        return f"{self.name} did not come up in {START_S:.0f} s: look into {self.log}."


class BrokeOff(Unavailable):
    """A process of the demo that ended before its work did."""

    def __init__(self, name: str, log: Path) -> None:
        super().__init__(name, log)
        self.name, self.log = name, log

    def __str__(self) -> str:
        return f"{self.name} broke off: look into {self.log}."


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of an agent's log: its UNIX time, the event's name and its fields."""

    at: float
    event: str
    fields: dict[str, str]


class Controller:
    """`wherry serve` on a folder of its own, with the embedded broker on a free port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker_port, self.door_port, blob_port, http_port = free_ports(4)
        founded = foundation.found(folder, broker="embedded")
        assert founded.token  # The folder is new.
        settings = _settings(http_port, self.broker_port, self.door_port, blob_port)
        (folder / "wherry.toml").write_text(settings)
        self.login = Login(url=f"http://127.0.0.1:{http_port}", token=founded.token)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / "controller.log"

    @property
    def door(self) -> str:
        """Where devices enrol."""
        return f"https://127.0.0.1:{self.door_port}"

    def start(self) -> Remote:
        """Start it and return its HTTP API."""
        words = [sys.executable, "-m", "wherry_controller", "serve", str(self.folder)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log)
        _wait_for_port(self.login.url.rpartition(":")[2], "the controller", self.log)
        return Remote(self.login)

    def told(self, event: str) -> list[LogLine]:
        """Return what it has logged of one kind."""
        lines = (_parse_line(text) for text in self.log.read_text(errors="replace").splitlines())
        return [line for line in lines if line is not None and line.event == event]

    def stop(self) -> None:
        if self._process:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(20)


@dataclass(slots=True)
class Agent:
    """One device: its agent's process, its home, its log, and the program that asks it."""

    id: str
    profile: str
    group: str
    home: Path
    max_bytes_per_s: int | None = None
    process: subprocess.Popen[bytes] | None = None
    program: subprocess.Popen[str] | None = None
    lines: list[LogLine] = field(default_factory=list)
    _read_bytes: int = 0

    def enrol(self, *, door: str, token: str) -> None:
        words = ["enrol", "--controller", door, "--token", token, "--window-s", "1"]
        if self.max_bytes_per_s:
            words += ["--max-bytes-per-s", str(self.max_bytes_per_s)]
        self.home.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            subprocess.run(self._words(*words), check=True, stdout=log, stderr=log)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._words("run"), stdout=log, stderr=log)

    def kill(self) -> float:
        """Send SIGKILL and return when."""
        assert self.process
        self.process.kill()
        at = time.time()
        self.process.wait()
        return at

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)

    def status(self) -> dict[str, object]:
        done = subprocess.run(self._words("status", "--json"), check=True, capture_output=True)
        return msgspec.json.decode(done.stdout, type=dict)

    def start_program(self, live: Path, answers: Path) -> None:
        words = [sys.executable, "-m", "wherry_sim.demo.traffic"]
        words += [str(self.home / "state/api.sock"), str(live), str(answers), str(self.spans)]
        self.program = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell_program(self, order: str) -> None:
        if self.program and self.program.stdin:
            self.program.stdin.write(order + "\n")
            self.program.stdin.flush()

    def stop_program(self) -> Seen:
        assert self.program
        told, _ = self.program.communicate("stop\n", timeout=60)
        return msgspec.json.decode(told, type=Seen)

    @property
    def log(self) -> Path:
        return self.home / "agent.log"

    @property
    def spans(self) -> Path:
        """Where the program leaves when its requests were under way."""
        return self.home / "spans.npy"

    def new_lines(self) -> Iterator[LogLine]:
        """Read what the agent has logged since the last call; a torn last line waits."""
        with self.log.open("rb") as log:
            log.seek(self._read_bytes)
            data = log.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        for text in whole.decode(errors="replace").splitlines():
            line = _parse_line(text)
            if line:
                self.lines.append(line)
                yield line

    def _words(self, *words: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "wherry_agent",
            words[0],
            "--home",
            str(self.home),
            *words[1:],
        ]


def free_ports(count: int) -> list[int]:
    """Return loopback ports that nothing listens on at the moment."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def run_child(module: str, words: Sequence[str], log: Path) -> Iterator[dict[str, object]]:
    """Run a module of the demo and yield the JSON lines that it prints; its noise goes to `log`."""
    command = [sys.executable, "-m", module, *words]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with log.open("ab") as noise:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=noise, env=environment)
        assert child.stdout
        for line in child.stdout:
            yield msgspec.json.decode(line, type=dict)
        if child.wait():
            raise BrokeOff(module, log)


def _wait_for_port(port: str, name: str, log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s:
        try:
            socket.create_connection(("127.0.0.1", int(port)), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise DidNotStart(name, log)


def _settings(http_port: int, broker_port: int, door_port: int, blob_port: int) -> str:
    return f"""\
[http]
port = {http_port}

[door]
port = {door_port}
blob_port = {blob_port}

[broker]
url = "embedded"
embedded_port = {broker_port}
want_again_s = 2.0

[gates]
judge_s = 0.5
"""


def _parse_line(text: str) -> LogLine | None:
    """Read a line of JSON, as agents log, or `DATE TIME LEVEL EVENT key=value…`; else None."""
    if text.startswith("{"):
        return _parse_json(text)
    try:
        words = shlex.split(text)
    except ValueError:
        return None
    if len(words) < 4 or "." not in words[3]:
        return None
    fields = dict(word.split("=", 1) for word in words[4:] if "=" in word)
    at = datetime.strptime(f"{words[0]} {words[1]}", "%Y-%m-%d %H:%M:%S,%f").astimezone()
    return LogLine(at.timestamp(), words[3], fields)


def _parse_json(text: str) -> LogLine | None:
    try:
        line = msgspec.json.decode(text, type=dict[str, object])
        at, event = float(str(line.pop("at"))), str(line.pop("event"))
    except (msgspec.DecodeError, KeyError, ValueError):
        return None
    return LogLine(at, event, {name: str(value) for name, value in line.items()})
