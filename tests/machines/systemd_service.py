"""What systemd does with the agent's service: starts it, restarts it, starts it again when ill."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.bench.agent.clients import Refused, Wire, json_request
from tests.bench.agent.nets import rows_of
from tests.machines.homes import NET, SOCKET
from tests.machines.nspawn import Machine, Wrong, until

SERVICE, SOCKET_UNIT = "wherry-agent.service", "wherry-agent.socket"
FIRST_ANSWER_S = 5.0
AT_ONCE_S = 2.0
LOADING = 503
RESTARTS = 3
WATCHDOG_S = 3
LATE_S = 2
LIVENESS = b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"
REQUEST = json_request(rows_of(NET))


def starts_and_answers(machine: Machine) -> str:
    """Be active only when the API answers, and that soon."""
    machine.run("systemctl", "stop", SERVICE)
    began_s = time.monotonic()
    machine.run("systemctl", "start", SERVICE)
    active_s = time.monotonic() - began_s
    _hear(machine)
    heard_s = time.monotonic() - began_s
    ask(machine)
    answered_s = time.monotonic() - began_s
    if heard_s - active_s > AT_ONCE_S:
        raise Wrong(f"active after {active_s:.2f} s, yet the API answers after {heard_s:.2f} s")
    if answered_s > FIRST_ANSWER_S:
        raise Wrong(f"the model's first answer took {answered_s:.2f} s of {FIRST_ANSWER_S:g}")
    return f"active after {active_s:.2f} s, the model's first answer after {answered_s:.2f} s"


def active_when_it_says_so(machine: Machine) -> str:
    """Be active when the agent says that it is ready, not when its process exists."""
    late = f"/bin/sh -c 'sleep {LATE_S}; exec /usr/bin/wherry-agent run'"
    with dropped_in(machine, SERVICE, f"[Service]\nExecStart=\nExecStart={late}\n"):
        began_s = time.monotonic()
        machine.run("systemctl", "restart", SERVICE)
        took_s = time.monotonic() - began_s
    if took_s < LATE_S:
        raise Wrong(f"active after {took_s:.2f} s, though the agent begins after {LATE_S} s")
    return f"an agent that begins {LATE_S} s late is active after {took_s:.2f} s"


def restart_refuses_nobody(machine: Machine) -> str:
    """Let who connects during a restart wait, on the same socket."""
    before = machine.place(SOCKET).stat().st_ino
    with asking(machine) as seen:
        for _ in range(RESTARTS):
            answers = seen.answers
            machine.run("systemctl", "restart", SERVICE)
            wait_for_answers(seen, answers + 2)
    if seen.errors:
        raise Wrong(f"{len(seen.errors)} of {seen.answers + len(seen.errors)}: {seen.errors[0]}")
    if machine.place(SOCKET).stat().st_ino != before:
        raise Wrong("the socket is another one than before")
    waits = f"the longest wait was {seen.longest_s:.2f} s"
    loading = f"{seen.loading} were told that the model is being loaded"
    counted = f"{RESTARTS} restarts under {seen.answers} answers"
    return f"{counted}: no connection failed, {loading}, {waits}"


def watchdog_restarts_a_hung_agent(machine: Machine) -> str:
    """End an agent that gives no sign of life, and start it again."""
    with dropped_in(machine, SERVICE, f"[Service]\nWatchdogSec={WATCHDOG_S}\n"):
        machine.run("systemctl", "restart", SERVICE)
        before, hung = timeouts(machine), main_process(machine)
        began_s = time.monotonic()
        signal_main(machine, signal.SIGSTOP)
        _wait_for_another(machine, hung, "the watchdog restarts nothing")
        ask(machine)
        took_s = time.monotonic() - began_s
        if timeouts(machine) == before:
            raise Wrong("it was restarted, and not by the watchdog")
    machine.run("systemctl", "restart", SERVICE)
    return f"a stopped supervisor was replaced and answered {took_s:.1f} s later"


def a_killed_agent_comes_back(machine: Machine) -> str:
    """Start an agent again that was killed, with its workers."""
    killed, began_s = main_process(machine), time.monotonic()
    signal_main(machine, signal.SIGKILL)
    _wait_for_another(machine, killed, "it stays dead")
    ask(machine)
    return f"a killed supervisor was replaced and answered {time.monotonic() - began_s:.1f} s later"


def status_says_what_serves(machine: Machine) -> str:
    status = machine.run("systemctl", "status", "--no-pager", SERVICE)
    (line,) = [each.strip() for each in status.splitlines() if "Status:" in each] or [""]
    if "serves default" not in line:
        raise Wrong(f"`systemctl status` does not say what serves: {line or status}")
    return f"systemctl status: {line}"


def the_journal_has_fields(machine: Machine) -> str:
    """Find what the agent said by its fields, each level as a priority."""
    entries = _entries(machine, "WHERRY_EVENT=bundle.flipped")
    if not entries or not entries[-1].get("WHERRY_BUNDLE"):
        raise Wrong("the journal has no entry with WHERRY_EVENT=bundle.flipped and WHERRY_BUNDLE=")
    flipped = entries[-1]
    warned = {entry["WHERRY_EVENT"] for entry in _entries(machine, "PRIORITY=4")}
    if "broker.unreachable" not in warned:
        raise Wrong(f"without a broker no warning says so: {warned or 'there is none'}")
    if flipped["SYSLOG_IDENTIFIER"] != "wherry-agent" or flipped["PRIORITY"] != "6":
        raise Wrong(f"the entry is not the agent's, or no information: {flipped}")
    return f"the journal by fields: {flipped['MESSAGE'][:60]}…; warnings: {', '.join(warned)}"


# What the checks share


def ask(machine: Machine) -> None:
    """Ask the model until it answers, as a client does."""
    until(lambda: is_served(machine), "the model does not answer")


def is_served(machine: Machine) -> bool:
    """Ask once; say whether the model answered, and not that it is being loaded."""
    try:
        with Wire(machine.place(SOCKET)) as wire:
            wire.ask(REQUEST)
    except Refused as refused:
        if refused.status != LOADING:
            raise Wrong(str(refused)) from refused
        return False
    return True


def timeouts(machine: Machine) -> int:
    """Return how often the watchdog has bitten since the boot."""
    machine.run("journalctl", "--sync")
    said = machine.run("journalctl", "--boot", "--unit", SERVICE, "--output", "cat")
    return said.count("Watchdog timeout")


def main_process(machine: Machine) -> int:
    return int(machine.show(SERVICE, "MainPID"))


def signal_main(machine: Machine, number: signal.Signals) -> None:
    machine.run("systemctl", "kill", "--kill-whom=main", f"--signal={number.name}", SERVICE)


@contextmanager
def dropped_in(machine: Machine, unit: str, text: str) -> Iterator[None]:
    """Change a unit by a drop-in for the time of a block."""
    folder = machine.place(f"/run/systemd/system/{unit}.d")
    folder.mkdir(parents=True)
    (folder / "check.conf").write_text(text)
    machine.run("systemctl", "daemon-reload")
    try:
        yield
    finally:
        (folder / "check.conf").unlink()
        folder.rmdir()
        machine.run("systemctl", "daemon-reload")


@dataclass(slots=True)
class Seen:
    """What a client got that asks all the time, each time by a new connection."""

    answers: int = 0
    loading: int = 0
    errors: list[str] = field(default_factory=list)
    longest_s: float = 0.0


@contextmanager
def asking(machine: Machine) -> Iterator[Seen]:
    """Ask all the time from another thread."""
    seen, over = Seen(), threading.Event()
    asker = threading.Thread(target=_ask_until, args=(over, seen, machine))
    asker.start()
    try:
        yield seen
    finally:
        over.set()
        asker.join()


def wait_for_answers(seen: Seen, count: int) -> None:
    """Wait until a client was answered so often, or failed."""
    until(lambda: seen.answers >= count or bool(seen.errors), "no answer after a restart")


def _hear(machine: Machine) -> None:
    """Have the API answer, without the model: a request of that waits until it is loaded."""
    with Wire(machine.place(SOCKET)) as wire:
        wire.ask(LIVENESS)


def _ask_until(over: threading.Event, seen: Seen, machine: Machine) -> None:
    while not over.wait(0.005):
        began_s = time.monotonic()
        try:
            if is_served(machine):
                seen.answers += 1
            else:
                seen.loading += 1
        except (OSError, Wrong) as error:
            seen.errors.append(repr(error))
        seen.longest_s = max(seen.longest_s, time.monotonic() - began_s)


def _entries(machine: Machine, match: str) -> list[dict[str, str]]:
    """Return what the agent wrote to the journal that has a field."""
    machine.run("journalctl", "--sync")
    options = ("--boot", f"--unit={SERVICE}", "--identifier=wherry-agent", "--output=json")
    said = machine.run("journalctl", *options, match)
    return [json.loads(line) for line in said.splitlines()]


def _wait_for_another(machine: Machine, pid: int, problem: str) -> None:
    until(lambda: main_process(machine) not in (0, pid), problem)
