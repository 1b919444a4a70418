"""An agent as its own process, and a scripted controller that speaks to it, for tests."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from tests.agent import bundles
from tests.agent.mounts import apart
from tests.agent.stores import chunks_of
from tests.builders import a_deployment_id, a_device_id, an_alias, an_order
from tests.enrolled import an_enrolled_home
from tests.trusted import (
    DIRECTOR_KEY,
    ONLINE,
    a_listing,
    a_repository,
    desired_of,
    with_next_root,
)
from wherry import codec
from wherry.bundle import Bundle
from wherry.messages import (
    Ack,
    Deployment,
    Event,
    EventKind,
    Order,
    Presence,
    Reported,
    Shadow,
    Split,
    SwapPolicy,
    Telemetry,
    Wanted,
    Wants,
)
from wherry.names import AliasName, DeviceId, Digest, ProfileName, parse_role_name
from wherry.reasons import Reason, Status
from wherry.topics import (
    AcksTopic,
    BlobTopic,
    BundleTopic,
    DesiredTopic,
    EventsTopic,
    MetadataTopic,
    PresenceTopic,
    ReportedTopic,
    TelemetryTopic,
    TimestampTopic,
    Topic,
    WantsTopic,
    filter_of,
    parse_topic,
    text,
)
from wherry.trust.repository import Repository, listing_of, pieces_for, release, with_bundles
from wherry_agent.client import Client
from wherry_agent.mqtt import Callbacks, Connection
from wherry_agent.settings import (
    DEFAULT_SOCKET,
    ApiSettings,
    Broker,
    FetchSettings,
    Settings,
    TelemetrySettings,
)

DEFAULT = an_alias()
ORDER_LIFE_S = 90 * 86_400
PATIENCE_S = 20.0
HEARD = (ReportedTopic, EventsTopic, PresenceTopic, TelemetryTopic, WantsTopic)

T = TypeVar("T")
_numbers = itertools.count(1)
# What is vouched for at each broker: its trust topics are retained for every test that shares it.
_repositories: dict[int, Repository] = {}
_issued: dict[tuple[DeviceId, int], int] = {}


def repository_at(port: int) -> Repository:
    """Return the repository whose metadata the broker at `port` holds."""
    return _repositories.setdefault(port, a_repository(now=time.time()))


def until(look: Callable[[], T | None]) -> T:
    """Look again and again until there is something to see, and return it."""
    deadline = time.monotonic() + PATIENCE_S
    while not (seen := look()):
        assert time.monotonic() < deadline, f"it never came to be: {look}"
        time.sleep(0.01)
    return seen


class Controller:
    """Publishes what a test says and remembers what devices said."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._heard: list[tuple[Topic, bytes]] = []
        self._up, self._taken = threading.Event(), threading.Event()
        callbacks = Callbacks(
            on_up=self._up.set,
            on_down=self._up.clear,
            on_message=lambda topic, payload: self._heard.append((parse_topic(topic), payload)),
            on_puback=lambda _mid: self._taken.set(),
        )
        name = f"controller-{next(_numbers)}"
        broker = Broker("127.0.0.1", port)
        self._connection = Connection(broker, name, callbacks, window=100, will=None)

    def connect(self) -> None:
        self._connection.connect()
        assert self._up.wait(PATIENCE_S)
        self._connection.subscribe([filter_of(kind) for kind in HEARD])
        self._connection.publish("known", b"")
        assert self._taken.wait(PATIENCE_S)  # So the broker knows what it is to hear.

    def close(self) -> None:
        self._connection.close()
        until(lambda: not self._up.is_set())

    # Saying

    def order(
        self,
        device: DeviceId,
        bundle: Bundle,
        *,
        generation: int,
        deployment: str | None = None,
        probation_s: float = 0.1,
        deadline_s: float = 3600.0,
        policy: SwapPolicy = SwapPolicy.AUTO,
        shadow: Shadow | None = None,
        split: Split | None = None,
    ) -> Order:
        """Publish an order for a bundle that is vouched for, and return it."""
        self.vouch(bundle)
        wanted = Wanted(
            deployment=a_deployment_id(deployment or f"d-{generation}"),
            bundle=bundle.digest,
            probation_s=probation_s,
            deadline_s=deadline_s,
            policy=policy,
            shadow=shadow,
            split=split,
        )
        order = an_order(device=device, generation=generation, aliases={DEFAULT: wanted})
        self.publish_order(device, order)
        return order

    def publish_order(
        self, device: DeviceId, order: Order, *, key: Ed25519PrivateKey = DIRECTOR_KEY
    ) -> None:
        """Publish an order as the director signs it now, with the metadata that it needs."""
        named = (order.device, order.generation)
        issued = _issued.setdefault(named, int(time.time()))  # Said again, it is the same order.
        order = replace(order, issued=issued, expires=issued + ORDER_LIFE_S)
        self.publish(DesiredTopic(device), desired_of(repository_at(self._port), order, key=key))

    def vouch(self, bundle: Bundle, alias: AliasName = DEFAULT) -> None:
        """Have targets list the bundle, as a release where it is to serve; publish the change."""
        before, now = repository_at(self._port), time.time()
        listing = listing_of(before, bundle.digest)
        if listing is None:
            listing = a_listing(bundle)
        elif listing.target.measuring or alias in listing.target.releases:
            return
        after = with_bundles(before, {bundle.digest: listing}, ONLINE, now)
        if not listing.target.measuring:
            after = release(after, alias, [bundle.digest], ONLINE, now)
        _repositories[self._port] = after
        self.publish_trust(bundle)

    def publish_trust(self, *bundles: Bundle) -> None:
        """Publish the newest metadata, and the bins of these bundles."""
        repository = repository_at(self._port)
        for name, piece in pieces_for(repository, [one.digest for one in bundles]).items():
            role, version = name.split("/")
            self.publish(MetadataTopic(parse_role_name(role), int(version)), piece)
        self.publish(TimestampTopic(), repository.timestamp.data)

    def publish_next_root(self) -> int:
        """Publish the next root, of the same keys, and what vouches for it; return its version."""
        _repositories[self._port] = with_next_root(repository_at(self._port), now=time.time())
        root = repository_at(self._port).root
        self.publish(MetadataTopic(parse_role_name("root"), root.signed.version), root.data)
        self.publish_trust()
        return root.signed.version

    def publish_bundle(self, bundle: Bundle, alias: AliasName = DEFAULT) -> None:
        self.vouch(bundle, alias)
        self.publish(BundleTopic(bundle.digest), bundle.envelope)
        self.publish_chunks(chunks_of(bundle))

    def publish_chunks(self, chunks: Mapping[Digest, bytes]) -> None:
        for chunk, data in chunks.items():
            self.publish(BlobTopic(chunk), data)

    def ack(self, agent: Agent, seq: int) -> None:
        store_id = self.reported(agent).store_id
        self.publish(AcksTopic(agent.device), codec.encode(Ack(store_id=store_id, seq=seq)))

    def publish(self, topic: Topic, payload: bytes) -> None:
        assert self._connection.publish(text(topic), payload, retain=True) is not None

    # What was heard

    def heard(self, topic: Topic) -> list[bytes]:
        return [payload for said, payload in tuple(self._heard) if said == topic]

    def reported(self, agent: Agent) -> Reported:
        topic = ReportedTopic(agent.device)
        return codec.decode(Reported, until(lambda: self.heard(topic))[-1])

    def presence(self, agent: Agent) -> list[bool]:
        said = self.heard(PresenceTopic(agent.device))
        return [codec.decode(Presence, payload).online for payload in said]

    def telemetry(self, agent: Agent) -> list[Telemetry]:
        said = self.heard(TelemetryTopic(agent.device))
        return [codec.decode(Telemetry, payload) for payload in said]

    def wants(self, agent: Agent) -> set[Digest]:
        said = self.heard(WantsTopic(agent.device))
        return {digest for body in said for digest in codec.decode(Wants, body).digests}

    def events_as_they_came(self, agent: Agent) -> list[Event]:
        return [codec.decode(Event, body) for body in self.heard(EventsTopic(agent.device))]

    def events(self, agent: Agent) -> list[Event]:
        """Return each event once, in order."""
        by_number = {event.seq: event for event in self.events_as_they_came(agent)}
        return [by_number[seq] for seq in sorted(by_number)]

    def refusals(self, agent: Agent) -> list[tuple[Reason | None, str]]:
        told = self.events(agent)
        return [(e.reason, e.detail) for e in told if e.kind is EventKind.REFUSAL]

    def outcome(self, agent: Agent, deployment: str, *, alias: AliasName = DEFAULT) -> Deployment:
        """Wait for the end of a deployment: in `reported`, which is enough by itself."""

        def ended() -> Deployment | None:
            found = self.reported(agent).deployments.get(alias)
            if found is None or found.deployment != deployment or not found.status.is_final:
                return None
            return found

        return until(ended)

    def succeeded(self, agent: Agent, deployment: str, *, alias: AliasName = DEFAULT) -> None:
        outcome = self.outcome(agent, deployment, alias=alias)
        assert outcome.status is Status.SUCCEEDED, outcome


class Agent:
    """`wherry-agent run` as a process on a home of its own."""

    def __init__(
        self,
        folder: Path,
        port: int,
        *,
        max_bytes_per_s: float | None = None,
        socket: str = DEFAULT_SOCKET,
    ) -> None:
        self.device = a_device_id(f"device-{next(_numbers)}")
        self.home = folder / self.device
        self.chunks = self.home / "state" / "chunks"
        self.socket = self.home / socket
        self._errors = folder / f"{self.device}.log"
        self._process: subprocess.Popen[bytes] | None = None
        profile, broker = ProfileName("test"), f"mqtt://127.0.0.1:{port}"
        settings = Settings(
            id=self.device,
            profile=profile,
            broker=broker,
            api=ApiSettings(socket=socket),
            fetch=FetchSettings(max_bytes_per_s=max_bytes_per_s),
            telemetry=TelemetrySettings(window_s=0.3),
        )
        root = repository_at(port).roots[0].data
        an_enrolled_home(self.home, broker, self.device, profile, root, settings=settings)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *, mounting: str | None = None) -> None:
        """Run the agent, in mounts of its own where a shell command says which."""
        command = [sys.executable, "-m", "wherry_agent", "run", "--home", str(self.home)]
        if mounting is not None:
            command = apart(mounting, command)
        with self._errors.open("ab") as errors:
            self._process = subprocess.Popen(command, stderr=errors)

    def kill(self) -> None:
        """SIGKILL the agent, wherever it is."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_S)

    def stop(self) -> int:
        """End the agent as systemd does; return its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(PATIENCE_S)

    def log(self, event: str) -> list[str]:
        """Return the lines that the agent has logged of one event."""
        lines = self._errors.read_text().splitlines()
        return [line for line in lines if f'"event": "{event}"' in line]

    def stored_chunks(self) -> list[str]:
        return [json.loads(line)["chunk"] for line in self.log("chunk.stored")]

    def client(self) -> Client:
        return Client(self.socket)


@contextmanager
def agents_at(folder: Path, port: int) -> Iterator[Callable[..., Agent]]:
    """Give a way to start agents; those that live at the end of the block are killed."""
    with ExitStack() as stack:

        def start(*, max_bytes_per_s: float | None = None, socket: str = DEFAULT_SOCKET) -> Agent:
            agent = Agent(folder, port, max_bytes_per_s=max_bytes_per_s, socket=socket)
            agent.start()
            stack.callback(agent.kill)
            return agent

        yield start


@contextmanager
def a_controller(port: int) -> Iterator[Controller]:
    controller = Controller(port)
    controller.connect()
    try:
        yield controller
    finally:
        controller.close()


def a_wide_bundle(version: str = "wide", *, shift: float = 0.0, kib: int = 12) -> Bundle:
    """Return a sound bundle whose model file has `kib` chunks of 1 KiB, no two alike."""
    note = " ".join(f"{version}-{number}" for number in range(kib * 1024))[: kib * 1024]
    model = bundles.an_onnx_model(shift=shift, note=note)
    return bundles.a_bundle(version=version, shift=shift, model=model)


def halves(bundle: Bundle) -> Sequence[dict[Digest, bytes]]:
    """Return the chunks of a bundle in two parts."""
    parts = list(chunks_of(bundle).items())
    middle = len(parts) // 2
    return dict(parts[:middle]), dict(parts[middle:])
