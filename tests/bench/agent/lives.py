"""A whole agent in its own process as on a device: TLS, trust, orders, one confirmed bundle.

The broker has a listener with TLS for the agent, as production has, and one without for the
controller's part, which a script says: it publishes a signed bundle and an order for it, and waits
until the deployment succeeded.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.agent.agents import Agent, Controller, repository_at
from tests.bench.agent.clients import Address, answers
from tests.bench.agent.processes import device_environment, end, until_true, workers_of
from tests.brokers import free_port, wait_for_port
from tests.builders import a_device_id
from tests.certificates import an_authority
from tests.enrolled import an_enrolled_home
from wherry.bundle import Bundle
from wherry.names import DeviceId, ProfileName
from wherry_agent.papers import Papers
from wherry_agent.settings import ApiSettings, ServingSettings, Settings

PATIENCE_S = 60.0
DEVICE = a_device_id("bench-1")
_CONFIG = """\
user root
per_listener_settings true
max_packet_size 2097152
max_queued_messages 100000
listener {plain} 127.0.0.1
allow_anonymous true
listener {tls} 127.0.0.1
allow_anonymous true
cafile {folder}/ca.pem
certfile {certificate}
keyfile {key}
require_certificate true
use_identity_as_username true
"""


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the agent and where the controller's script connect, and the process."""

    tls: int
    plain: int
    process: subprocess.Popen[bytes]
    papers: Papers


@dataclass(slots=True)
class Life:
    """An agent's home, and its process while it lives."""

    home: Path
    socket: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    device: DeviceId = field(default=DEVICE)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def worker(self) -> int:
        """Return the one worker's process."""
        until_true(lambda: len(workers_of(self.pid)) == 1, PATIENCE_S)
        return workers_of(self.pid)[0]

    def begin(self) -> None:
        command = [sys.executable, "-m", "wherry_agent", "run", "--home", str(self.home)]
        with (self.home.parent / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=log, env=device_environment()
            )

    def wait_for_answer(self, request: bytes, address: Address | None = None) -> None:
        until_true(lambda: answers(address or self.socket, request), PATIENCE_S)

    def end(self) -> None:
        if self.process is not None:
            end(self.process)
            self.process = None


@contextmanager
def a_life(folder: Path, bundle: Bundle, serving: ServingSettings | None = None) -> Iterator[Life]:
    """Run an agent that has confirmed a bundle under `default`, until the end of the block."""
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        broker = a_broker(folder)
        stack.callback(broker.process.wait)
        stack.callback(broker.process.kill)
        life = a_home(folder, broker, serving or ServingSettings())
        stack.callback(life.end)
        life.begin()
        deploy(broker, life, bundle)
        yield life


def a_broker(folder: Path) -> Broker:
    authority = an_authority()
    certificate, key = authority.issue_server().write(folder, "server")
    (folder / "ca.pem").write_bytes(authority.certificate)
    issued = authority.issue_client(DEVICE)
    papers = Papers(key=issued.key, certificate=issued.certificate, ca=authority.certificate)
    tls, plain = free_port(), free_port()
    config = folder / "mosquitto.conf"
    config.write_text(
        _CONFIG.format(plain=plain, tls=tls, folder=folder, certificate=certificate, key=key)
    )
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/bin")
    assert program, "the bench needs mosquitto: apt-get install mosquitto"
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([program, "-c", str(config)], stdout=quiet, stderr=quiet)
    wait_for_port(plain)
    return Broker(tls, plain, process, papers)


def a_home(folder: Path, broker: Broker, serving: ServingSettings) -> Life:
    port = free_port()
    settings = Settings(
        id=DEVICE,
        profile=ProfileName("test"),
        broker=f"mqtts://localhost:{broker.tls}",
        api=ApiSettings(port=port),
        serving=serving,
    )
    root = repository_at(broker.plain).roots[0].data
    home = an_enrolled_home(
        folder / "home",
        settings.broker,
        settings.id,
        settings.profile,
        root,
        settings=settings,
        papers=broker.papers,
    )
    return Life(home, home / settings.api.socket, port)


def deploy(broker: Broker, life: Life, bundle: Bundle) -> None:
    """Order a bundle and wait until it is confirmed."""
    controller = Controller(broker.plain)
    controller.connect()
    try:
        controller.publish_bundle(bundle)
        controller.order(life.device, bundle, generation=1)
        controller.succeeded(_Named(life.device), "d-1")
    finally:
        controller.close()


class _Named(Agent):
    """A device of which the script knows the name alone."""

    def __init__(self, device: DeviceId) -> None:
        self.device = device
