"""A guarded controller at one end of a link, and whole agents that reach it from the other.

The proxy stands on the devices' loopback for the controller's ports, so both ends know everything
by the same address. Each agent is a process of its own as on a device, over TLS with its own
certificate; its model runs inside it, which spares this machine twenty workers.
"""

from __future__ import annotations

import getpass
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.brokers import free_port
from tests.controller.guarded import Process
from tests.machines.badnet_link import CONTROLLER_ADDRESS, Link
from tests.system.sites import Controller, Site, a_site_of, run_program
from wherry_sim.demo.processes import Agent

ENROL_AT_ONCE = 4
WITHIN_S = 120.0
_INLINE = '\n[serving]\nisolation = "inline"\n'


@contextmanager
def a_far_site(folder: Path, link: Link, *, delay_ms: int) -> Iterator[Site]:
    """Run broker and controller here, which is their namespace, and the proxy among the devices."""
    port, fetch_port = free_port(), free_port()
    controller = Controller(folder / "controller", f"mqtts://127.0.0.1:{port}")
    controller.found()
    _listen_to_all(controller, fetch_port)
    broker = Process(controller.folder / "broker", (port, fetch_port))
    door = int(controller.door.rpartition(":")[2])
    blobs = controller.settings.door.blob_port
    proxy = _proxy(link, delay_ms, (port, fetch_port, door, blobs))
    try:
        broker.start()
        with a_site_of(Site(folder, broker, controller)) as site:
            yield site
    finally:
        broker.kill()
        proxy.kill()
        proxy.wait()


def add_devices(site: Site, link: Link, count: int) -> list[Agent]:
    """Enrol agents, which do not run yet, some at once."""
    agents = [_an_agent(site, f"device-{number:02}") for number in range(1, count + 1)]
    for first in range(0, count, ENROL_AT_ONCE):
        some = agents[first : first + ENROL_AT_ONCE]
        _end_well(some, [_enrol(site, link, agent) for agent in some])
    for agent in agents:
        with (agent.home / "agent.toml").open("a") as settings:
            settings.write(_INLINE)
    return agents


def start(agent: Agent, link: Link) -> None:
    """Start the process of an agent among the devices."""
    command = _agent_words(link, "run", agent)
    with agent.log.open("ab") as log:
        agent.process = subprocess.Popen(command, stdout=log, stderr=log)


def wait_until(look: Callable[[], bool], within_s: float, *, every_s: float = 0.5) -> bool:
    """Return whether it came true in time."""
    deadline = time.monotonic() + within_s
    while not look():
        if time.monotonic() > deadline:
            return False
        time.sleep(every_s)
    return True


def _listen_to_all(controller: Controller, fetch_port: int) -> None:
    """Have broker and doors listen at the link's end too; its devices know them as loopback."""
    settings = controller.folder / "wherry.toml"
    fetch_url = f'fetch_url = "mqtts://127.0.0.1:{fetch_port}"\n\n[gates]'
    text = settings.read_text().replace("\n[gates]", fetch_url)
    # A chunk that is published anew goes to all who have asked for it: here it is not the tests'
    # half a second, but as seldom as by default.
    text = text.replace("want_again_s = 0.5\n", "")
    settings.write_text(text.replace("[door]\n", '[door]\nhost = "0.0.0.0"\n'))
    ports = ("--fetch-port", str(fetch_port), "--listen", "0.0.0.0")
    command = ("broker", "config", "mosquitto", controller.folder, "--user", getpass.getuser())
    said = run_program("wherry", *command, *ports)
    if said.status:
        raise RuntimeError(f"the broker cannot be set up: {said.err}")


def _proxy(link: Link, delay_ms: int, ports: Sequence[int]) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "tests.machines.badnet_delay", CONTROLLER_ADDRESS]
    return subprocess.Popen(link.among_devices(*words, str(delay_ms), *map(str, ports)))


def _an_agent(site: Site, device: str) -> Agent:
    agent = Agent(id=device, profile="test", group="", home=site.folder / device)
    agent.home.mkdir()
    site.agents[device] = agent
    return agent


def _end_well(agents: Sequence[Agent], enrolments: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until enrolments are over; raise `RuntimeError` for one that went wrong."""
    try:
        for agent, enrolment in zip(agents, enrolments, strict=True):
            if enrolment.wait(WITHIN_S):
                raise RuntimeError(f"{agent.id} did not enrol: look into {agent.log}")
    finally:
        for enrolment in enrolments:
            enrolment.kill()
            enrolment.wait()


def _enrol(site: Site, link: Link, agent: Agent) -> subprocess.Popen[bytes]:
    door = ("--controller", site.controller.door, "--token", site.token_for(agent))
    with agent.log.open("ab") as log:
        return subprocess.Popen(_agent_words(link, "enrol", agent, *door), stdout=log, stderr=log)


def _agent_words(link: Link, order: str, agent: Agent, *words: str) -> list[str]:
    command = [sys.executable, "-m", "wherry_agent", order, "--home", str(agent.home)]
    return link.among_devices(*command, *words)
