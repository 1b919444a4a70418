"""A site for system tests: a mosquitto, `wherry serve` and agents, each a process of its own.

Everything is reached as its users reach it: the commands, the HTTP API, the local API of an
agent, the broker. A site kills what it started when its block ends, however that ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from tests.brokers import Mosquitto, a_mosquitto, free_port, wait_for_port
from tests.controller.cli.conftest import Ran
from wherry.names import Digest, parse_digest
from wherry_agent.client import Client, NotReachable, NotServing, RequestRefused
from wherry_controller.cli.login import Login
from wherry_controller.cli.remote import Remote
from wherry_controller.cli.replies import Device, Rollout, read
from wherry_controller.settings import Settings, read_settings
from wherry_sim.demo.processes import Agent, LogLine

T = TypeVar("T")

PROGRAMS = Path(sys.executable).parent
REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 60.0
QUICK = """\
collect_s = 0.2
longest_backoff_s = 0.3
want_again_s = 0.5

[gates]
judge_s = 0.2

[door]
port = {door}
blob_port = {blobs}
names = ["127.0.0.1"]
"""
# What promotes without labels and traffic, as soon as every device has confirmed.
GATE: dict[str, object] = {"min_labels": 0, "latency": {"window_requests": 0}, "soak_s": 0}


@dataclass(slots=True)
class Controller:
    """`wherry serve` on a folder that `wherry init` founded."""

    folder: Path
    broker_url: str
    token: str = ""
    url: str = ""
    door: str = ""
    _process: subprocess.Popen[bytes] | None = None

    def found(self) -> None:
        """Found it, with ports of its own and intervals that suit a test."""
        said = run_program("wherry", "init", self.folder, "--broker", self.broker_url)
        assert said.status == 0, said.err
        self.token = said.out.splitlines()[1].strip()
        port, door, blobs = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.door = f"https://127.0.0.1:{door}"
        file = self.folder / "wherry.toml"
        text = file.read_text().replace(f"port = {Settings().http.port}", f"port = {port}")
        file.write_text(text + QUICK.format(door=door, blobs=blobs))

    def start(self) -> None:
        command = [str(PROGRAMS / "wherry"), "serve", str(self.folder)]
        with (self.folder / "controller.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for_port(int(self.url.rpartition(":")[2]), PATIENCE_S)

    def kill(self) -> None:
        """End it with SIGKILL, as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(PATIENCE_S)

    @property
    def settings(self) -> Settings:
        return read_settings(self.folder, {})

    @property
    def remote(self) -> Remote:
        return Remote(Login(self.url, self.token))


class Killable(Protocol):
    """A process that a test kills and starts again."""

    def start(self) -> None: ...

    def kill(self) -> object: ...


class _Given(msgspec.Struct, frozen=True):
    """What the API answers to who asks for a token."""

    token: str


@dataclass(slots=True)
class Site:
    """Where the parts are, and what an operator does with them."""

    folder: Path
    broker: Killable
    controller: Controller
    agents: dict[str, Agent] = field(default_factory=dict)

    @property
    def open_port(self) -> int:
        """Where the broker lets in everybody, as the plain one does."""
        assert isinstance(self.broker, Mosquitto)
        return self.broker.port

    def wherry(self, *words: str | Path) -> Ran:
        """Run a command of the operator, who is logged in."""
        login = {"WHERRY_URL": self.controller.url, "WHERRY_TOKEN": self.controller.token}
        return run_program("wherry", *words, environment=login)

    def add_agent(
        self, device: str, *, profile: str = "test", max_bytes_per_s: int | None = None
    ) -> Agent:
        """Add a device to the fleet and enrol its agent, which does not run yet."""
        agent = Agent(
            id=device,
            profile=profile,
            group="",
            home=self.folder / device,
            max_bytes_per_s=max_bytes_per_s,
        )
        agent.enrol(door=self.controller.door, token=self.token_for(agent))
        self.agents[device] = agent
        return agent

    def token_for(self, agent: Agent) -> str:
        """Return the token by which a device may enrol, once."""
        wish = {"device": agent.id, "profile": agent.profile}
        return msgspec.json.decode(self.controller.remote.post("/tokens", wish), type=_Given).token

    def set_group(self, group: str, *agents: Agent) -> None:
        self.controller.remote.put(f"/groups/{group}", {"devices": [one.id for one in agents]})

    def start_rollout(
        self,
        version: str,
        groups: Sequence[str],
        *,
        probation_s: float = 0.5,
        stage_deadline_s: float = 60.0,
        name: str | None = None,
    ) -> None:
        """Start the rollout of a version of `tiny`, under the version's name by default."""
        wish = {
            "name": name or version,
            "model": "tiny",
            "version": version,
            "stages": [{"name": group, "group": group} for group in groups],
            "gate": GATE | {"deadline_s": stage_deadline_s},
            "probation_s": probation_s,
        }
        self.controller.remote.post("/rollouts", wish)
        self.controller.remote.post(f"/rollouts/{name or version}/start")

    def rollout(self, name: str) -> Rollout:
        return read(Rollout, self.controller.remote.get(f"/rollouts/{name}"))

    def until_over(self, name: str) -> Rollout:
        """Return the rollout once it has ended, however."""

        def over() -> Rollout | None:
            rollout = self.rollout(name)
            return rollout if rollout.is_over else None

        return until(over)

    def device(self, agent: Agent) -> Device:
        return read(Device, self.controller.remote.get(f"/devices/{agent.id}"))

    def serving(self, agent: Agent) -> Digest | None:
        """Return the bundle that a device serves, as the controller knows it."""
        reported = self.device(agent).reported
        active = reported.slots["default"].active if reported else None
        return parse_digest(active) if active else None


@contextmanager
def a_site(folder: Path) -> Iterator[Site]:
    """Run a broker and a controller that knows nothing yet."""
    with a_mosquitto(folder) as broker:
        controller = Controller(folder / "controller", f"mqtt://127.0.0.1:{broker.port}")
        controller.found()
        with a_site_of(Site(folder, broker, controller)) as site:
            yield site


@contextmanager
def a_site_of(site: Site) -> Iterator[Site]:
    """Run a controller that was founded; end it and the agents after the block."""
    with ExitStack() as stack:
        stack.callback(site.controller.close)
        site.controller.start()
        stack.callback(_end_agents, site)
        yield site


def run_program(
    program: str, *words: str | Path, environment: dict[str, str] | None = None, text: str = ""
) -> Ran:
    """Run a program of ours to its end, on a wide terminal, with `text` on its standard input."""
    done = subprocess.run(
        [str(PROGRAMS / program), *map(str, words)],
        check=False,
        capture_output=True,
        text=True,
        input=text,
        env={**os.environ, "COLUMNS": "300", **(environment or {})},
        timeout=3 * PATIENCE_S,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def ask(agent: Agent) -> Client:
    """Return a client of the agent's local API."""
    return Client(agent.home / "state/api.sock")


def logged(agent: Agent, event: str) -> list[LogLine]:
    """Return what the agent has logged under an event's name since its home was made."""
    if agent.log.exists():
        list(agent.new_lines())
    return [line for line in agent.lines if line.event == event]


def is_up(agent: Agent, bundle: Digest) -> bool:
    """Say whether the agent answers with a bundle."""
    with ask(agent) as client:
        try:
            return client.metadata("default").get("versions") == [bundle]
        except (NotReachable, NotServing, RequestRefused):
            return False


def until(look: Callable[[], T | None]) -> T:
    """Return what `look` finds, once it finds something that is not None or False."""
    deadline = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not happen"
        pause.wait(0.03)
    return found


def _end_agents(site: Site) -> None:
    for agent in site.agents.values():
        if agent.process is not None and agent.process.poll() is None:
            agent.kill()
