"""Each command of docs/operating.md is typed, in order, into a shell beside a real broker."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeGuard

import pytest

from tests.brokers import Mosquitto, free_port, wait_for_port
from tests.controller.cli.conftest import Ran
from tests.pages import Command, File, Heading, commands_in_tables, steps_of
from tests.system.sessions import Session, a_session
from tests.system.sites import PROGRAMS, REPOSITORY, Controller, Site, until
from tests.system.tiny import add_version

pytestmark = pytest.mark.system

PAGE = REPOSITORY / "docs/operating.md"
# What wants another machine, and the target that runs it there.
ELSEWHERE = {
    "git pull": "a release's own",
    "make venv": "make test",
    "sudo apt-get install --yes mosquitto": "make systemd",
    "sudo systemctl disable --now mosquitto": "make systemd",
    "sudo systemctl restart wherry-agent": "make systemd",
}
START_BROKER = "/usr/sbin/mosquitto -d -c factory/broker/mosquitto.conf"
CONFIGURE_BROKER = (
    'wherry broker config mosquitto factory --host factory.example.org --user "$(id -un)"'
)
START_CONTROLLER = "wherry serve factory 2>> factory/serve.log &"
UNTIL_IT_ANSWERS = (
    "curl --silent --fail --retry 60 --retry-delay 1 --retry-connrefused"
    " http://127.0.0.1:8321/api/v1/health"
)
API, DOOR, BLOBS, BROKER, FETCH = 8321, 8322, 8323, 8883, 8884
QUICK = """\
collect_s = 0.2
longest_backoff_s = 0.3
want_again_s = 0.5

[gates]
judge_s = 0.2
"""
DEVICE = "line-1"
# What a page cannot know before: the name of it, what prints it, how it looks there.
PRINTED = (
    ("TOKEN", "wherry init", r"shown this once:\n(\S+)"),
    ("HEAD", "wherry audit verify", r"^([0-9a-f]{64})$"),
    ("OLD", "wherry keys status", r"^timestamp .* ([0-9a-f]{8})\s*$"),
    ("NEW", "wherry keys init", r"(\S+/timestamp-\w+\.pub\.json)"),
    ("N", "wherry keys fetch", r"^work/(\d+)\.root\.json$"),
    ("SIGNED", "wherry keys rotate", r"^(work/\d+\.root\.\w+\.json)$"),
)
# The doctor ends with 1 where anything is bad, a job with the signal that ended it.
MAY_FAIL = ("kill %", "wherry-agent doctor")


@dataclass
class Operator:
    """Who reads the page and types: in `folder`, with ports of its own."""

    folder: Path
    session: Session
    ports: dict[int, int]
    known: dict[str, str] = field(default_factory=dict)
    enrolment: str = ""

    def do(self, step: File | Command) -> Ran | None:
        """Save a file, or type a command that has to succeed."""
        if isinstance(step, File):
            (self.folder / step.name).write_text(self._here(step.text))
            return None
        if step.text in ELSEWHERE:
            return None
        return self.type(step.text)

    def type(self, command: str) -> Ran:
        ran = self.session.run(self._here(command), self._reply(command))
        assert ran.status == 0 or command.startswith(MAY_FAIL), f"{command}\n{ran.out}"
        self._note(command, ran.out)
        if command.startswith("wherry init"):
            self._quicken()
        return ran

    def _reply(self, command: str) -> str:
        """Return what a command that asks for a token is told."""
        return f"{self.known['TOKEN']}\n" if command.startswith("wherry login") else self.enrolment

    def _here(self, text: str) -> str:
        """Return a text of the page with the names that hold here."""
        text = text.replace("factory.example.org", "127.0.0.1").replace(
            "broker.example.org", "localhost"
        )
        text = text.replace("raspberry-pi-5", "test").replace("DEVICE", DEVICE)
        text = text.replace("[door]", f"[door]\nport = {DOOR}\nblob_port = {BLOBS}")
        for name, value in self.known.items():
            text = re.sub(rf"\b{name}\b", value, text)
        for usual, own in self.ports.items():
            text = text.replace(str(usual), str(own))
        return text

    def _note(self, command: str, said: str) -> None:
        for name, prints, pattern in PRINTED:
            if command.startswith(prints) and (found := re.search(pattern, said, re.MULTILINE)):
                self.known[name] = found[1]
        if found := re.search(r"(wt1\.\S+)", said):
            self.enrolment = found[1] + "\n"

    def _quicken(self) -> None:
        file = self.folder / "factory/wherry.toml"
        file.write_text(self._here(file.read_text()) + QUICK)

    @property
    def site(self) -> Site:
        """Return what the operator runs, for what the page leaves to others."""
        controller = Controller(
            self.folder / "factory",
            f"mqtts://127.0.0.1:{self.ports[BROKER]}",
            token=self.known["TOKEN"],
            url=f"http://127.0.0.1:{self.ports[API]}",
        )
        return Site(self.folder, Mosquitto(self.folder), controller)

    def roll_out(self, version: str, shift: float) -> None:
        """Have the device serve another version."""
        site = self.site
        if version != "v1":
            add_version(site, version, shift=shift)
        site.start_rollout(version, ["canary"])
        assert site.until_over(version).status == "succeeded"

    def lose_what_came_after_the_copy(self) -> None:
        """Restore the same copy again, which the fleet has left behind since."""
        self.roll_out("v2", 2.0)
        self.roll_out("v3", 3.0)
        self.type("kill %?serve; wait %?serve")
        shutil.rmtree(self.folder / "work", ignore_errors=True)
        self.end_broker()
        shutil.rmtree(self.folder / "factory")
        for command in (
            "tar --extract --file factory.tar",
            START_BROKER,
            START_CONTROLLER,
            UNTIL_IT_ANSWERS,
            "wherry keys status",
        ):
            self.type(command)
        until(lambda: self.was_refused("timestamp_rollback"))

    def mean(self, rollout: str) -> None:
        """Have ROLLOUT stand for another one from now on."""
        self.known["ROLLOUT"] = rollout

    def end_broker(self) -> None:
        pid = self.folder / "factory/broker/state/mosquitto.pid"
        if pid.exists():
            os.kill(int(pid.read_text()), signal.SIGTERM)
            until(lambda: not pid.exists())

    def is_online(self) -> bool:
        return b'"online":true' in self.site.controller.remote.get(f"/devices/{DEVICE}")

    def was_refused(self, reason: str) -> bool:
        return reason.encode() in self.site.controller.remote.get(f"/devices/{DEVICE}/events")


def a_pair_of_ports() -> tuple[int, int]:
    """Return a free port whose next one is free as well."""
    while True:
        port = free_port()
        try:
            wait_for_port(port + 1, 0.01)
        except AssertionError:
            return port, port + 1


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    folder = tmp_path_factory.mktemp("operator")
    (folder / ".venv").symlink_to(PROGRAMS.parent)
    ports = dict(zip((API, DOOR, BLOBS), (free_port() for _ in range(3)), strict=True))
    ports |= dict(zip((BROKER, FETCH), a_pair_of_ports(), strict=True))
    with a_session(folder, {"WHERRY_AGENT_HOME": str(folder / DEVICE)}) as session:
        operator = Operator(folder, session, ports)
        try:
            yield operator
        finally:
            operator.end_broker()


def test_each_command_of_the_story_succeeds_and_the_fleet_goes_on(operator: Operator) -> None:
    before: dict[str, Callable[[], object]] = {
        "Add a device": lambda: add_version(operator.site, "v1", shift=1.0),
        "TLS": partial(operator.roll_out, "v1", 1.0),
        "An old copy": operator.lose_what_came_after_the_copy,
        "Upgrade": partial(operator.roll_out, "v4", 4.0),
        "What to do when": lambda: until(operator.is_online),
    }
    for step in steps_of(PAGE):
        if isinstance(step, Heading):
            before.pop(step.text, lambda: None)()
        else:
            operator.do(step)
    assert not before


def test_each_command_of_the_table_does_what_it_is_named_for(operator: Operator) -> None:
    before: dict[str, Callable[[], object]] = {
        "wherry rollout status ROLLOUT": partial(operator.mean, "v4"),
        "wherry rollout resume ROLLOUT": partial(hold_a_rollout, operator),
        "wherry rollout revert ROLLOUT": partial(operator.mean, "v4"),
        START_BROKER: operator.end_broker,
        CONFIGURE_BROKER: partial(lose_the_broker, operator),
    }
    after: dict[str, Callable[[], object]] = {
        START_BROKER: lambda: until(operator.is_online),
        CONFIGURE_BROKER: partial(operator.type, START_BROKER),
        "wherry device revoke DEVICE": lambda: until(lambda: not operator.is_online()),
    }
    for command in commands_in_tables(PAGE):
        before.pop(command.text, lambda: None)()
        operator.do(command)
        after.get(command.text, lambda: None)()
    assert not before
    operator.type("wherry token create DEVICE")
    (enrol,) = (step for step in steps_of(PAGE) if is_enrolment(step))
    operator.do(enrol)
    operator.type("kill %?wherry-agent; wait %?wherry-agent")
    operator.type("wherry-agent run --home line-1 2>> agent.log &")
    until(operator.is_online)


def test_what_is_run_elsewhere_is_on_the_page_and_its_target_is_there() -> None:
    told = {step.text for step in steps_of(PAGE) if isinstance(step, Command)}
    told |= {command.text for command in commands_in_tables(PAGE)}
    assert set(ELSEWHERE) <= told
    makefile = (REPOSITORY / "Makefile").read_text()
    for place in ELSEWHERE.values():
        assert not place.startswith("make ") or f"\n{place.removeprefix('make ')}:" in makefile


def is_enrolment(step: Heading | File | Command) -> TypeGuard[Command]:
    return isinstance(step, Command) and step.text.startswith("wherry-agent enrol")


def hold_a_rollout(operator: Operator) -> None:
    """Have a rollout that waits for a device which never comes, and is paused."""
    operator.type("wherry device add line-9 --profile test")
    site = operator.site
    site.controller.remote.put("/groups/absent", {"devices": ["line-9"]})
    site.start_rollout("v1", ["absent"], name="held")
    operator.mean("held")
    operator.type("wherry rollout pause ROLLOUT")


def lose_the_broker(operator: Operator) -> None:
    operator.end_broker()
    shutil.rmtree(operator.folder / "factory/broker")
