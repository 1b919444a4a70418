"""One bundle to many agents: what the controller sends, what the broker holds, how long it takes.

    fanout      50 MB to 100 agents by mosquitto, then the same files to the same agents by nginx
    returning   1,000 agents come back for a bundle whose chunks were cleared

The controller's side is its publisher on its own link, the agents' side `tests.bench.fetchers`.
What the controller sends is counted by the broker: the bytes of all that was published to it, of
which the agents' share is their wants.
"""

from __future__ import annotations

import os
import queue
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import paho.mqtt.client as paho
from msgspec.structs import replace
from paho.mqtt.enums import CallbackAPIVersion

from tests.bench.fetchers import Outcome
from tests.brokers import Mosquitto, a_mosquitto, free_port, wait_for_port
from tests.builders import (
    INPUT_BYTES,
    OUTPUT_BYTES,
    a_key,
    a_manifest,
    a_wanted,
    an_alias,
    an_order,
)
from wherry import codec, signing
from wherry.blobs import describe
from wherry.bundle import Bundle, seal
from wherry.manifest import MODEL_FILE, blobs_of, size_of
from wherry.messages import Wants
from wherry.names import DeviceId, Digest
from wherry.topics import BundleTopic, DesiredTopic, WantsTopic, filter_of, parse_topic
from wherry_controller.mqtt import (
    Arrived,
    Connected,
    Delivered,
    Disconnected,
    Inbound,
    Link,
    Subscribed,
)
from wherry_controller.services.publisher import (
    Pace,
    Publisher,
    Shelved,
    SignedOrder,
    shelve,
)
from wherry_controller.store.blobs import BlobFolder

AGENTS, PROCESSES, MODEL_BYTES = 100, 4, 50 * 1024 * 1024
RETURNING, RETURNING_PROCESSES, RETURNING_BYTES = 1000, 10, 2 * 1024 * 1024
WITHIN_S = 600.0
COUNTED = "$SYS/broker/publish/bytes/received"
SETTLED_S = 3.0  # Mosquitto says its counts every second.
_NGINX = """\
{user}
daemon off;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  server {{ listen 127.0.0.1:{port}; root {folder}/www; }}
}}
"""


@dataclass(frozen=True, slots=True)
class Fanout:
    """The figures of the issue's bars, and what stands behind them."""

    controller_sent_over_bundle: float
    broker_extra_mb: float
    wall_over_nginx: float
    wrong_bytes: int
    agents: int
    wall_s: float
    nginx_s: float


@dataclass(frozen=True, slots=True)
class Returning:
    devices: int
    controller_sent_over_bundle: float
    wrong_bytes: int
    wall_s: float


@dataclass
class Controller:
    """The controller's publisher on a link of its own, on one thread, as its app turns."""

    port: int
    folder: Path
    budget_bytes: int
    _queue: queue.SimpleQueue[Inbound | None] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        self.blobs = BlobFolder(self.folder)
        self.link = Link(
            ("127.0.0.1", self.port),
            self._queue.put,
            client_id="controller",
            subscriptions=(filter_of(WantsTopic),),
            inflight=16,
            keepalive_s=30,
            longest_backoff_s=5.0,
        )
        pace = Pace(budget_bytes=self.budget_bytes, reconcile_s=3600.0)
        self.publisher = Publisher(self.link, self.blobs, pace)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()
        self.link.start()

    def want(
        self, devices: Sequence[DeviceId], bundles: Sequence[Bundle], *, must: Sequence[Bundle]
    ) -> None:
        """Want the first bundle of every device, and hold what the budget allows."""
        for blob in (blob for bundle in bundles for blob in bundle.blobs.values()):
            self.blobs.put(blob)
        orders = {device: _order(device, bundles[-1].digest) for device in devices}
        shelved: dict[Digest, Shelved] = {one.digest: shelve(one.envelope) for one in bundles}
        with self._lock:
            names = [bundle.digest for bundle in must]
            self.publisher.want(orders, shelved, time.time(), must=names)

    def settle(self) -> None:
        deadline = time.monotonic() + 120.0
        while True:
            with self._lock:
                if self.publisher.is_settled:
                    return
            assert time.monotonic() < deadline, "the broker never had everything"
            time.sleep(0.05)

    def close(self) -> None:
        self.link.close()
        self._queue.put(None)
        self._thread.join()

    def _live(self) -> None:
        while True:
            try:
                event = self._queue.get(timeout=0.1)
            except queue.Empty:
                with self._lock:
                    self.publisher.tick(time.time())
                continue
            if event is None:
                return
            with self._lock:
                self._handle(event, time.time())

    def _handle(self, event: Inbound, now: float) -> None:
        match event:
            case Connected():
                self.publisher.on_connected(now)
            case Disconnected():
                self.publisher.on_disconnected()
            case Subscribed(request):
                self.publisher.on_subscribed(request, now)
            case Delivered():
                self.publisher.on_delivered(now)
            case Arrived(topic, payload):
                match parse_topic(topic):
                    case WantsTopic(device):
                        wants = codec.decode(Wants, payload)
                        self.publisher.say_again(device, wants.digests, now)
                    case DesiredTopic() | BundleTopic() as parsed:
                        self.publisher.on_read_back(parsed, payload, now)
                    case _:
                        pass
        self.publisher.tick(now)


@dataclass
class Watch:
    """What a broker says of itself and what it takes of memory, looked at all the time."""

    port: int
    pid: int
    published_bytes: int = 0
    peak_bytes: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_message = self._hear
        self._client.connect("127.0.0.1", self.port)
        self._client.subscribe(COUNTED)
        self._client.loop_start()
        self.idle_bytes = rss_bytes(self.pid)
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._client.disconnect()
        self._client.loop_stop()

    def settled_bytes(self) -> int:
        """Return what was published to the broker, once it has had the time to say so."""
        time.sleep(SETTLED_S)
        return self.published_bytes

    def _hear(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        self.published_bytes = int(message.payload)

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self.peak_bytes = max(self.peak_bytes, rss_bytes(self.pid))


def rss_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


def fanout(folder: Path, *, agents: int = AGENTS, model_bytes: int = MODEL_BYTES) -> Fanout:
    """Bring one bundle to many agents, by the broker and then by nginx."""
    bundle = a_bundle_of_bytes("fanout", model_bytes)
    size_bytes = size_of(bundle.manifest)
    with (
        a_mosquitto(folder) as broker,
        watching(broker) as watch,
        controlling(broker, folder / "blobs", budget_bytes=2 * size_bytes) as controller,
    ):
        before = watch.settled_bytes()
        controller.want(names(agents), [bundle], must=[bundle])
        controller.settle()
        way = ("broker", str(broker.port))
        outcomes = run_fetchers(way, bundle, folder, agents=agents, processes=PROCESSES)
        sent_bytes = watch.settled_bytes() - before
    with an_nginx(folder, bundle) as url:
        baseline = run_fetchers(("http", url), bundle, folder, agents=agents, processes=PROCESSES)
    for whole in (outcomes, baseline):
        assert sum(one.whole for one in whole) == agents, whole
    wall_s, nginx_s = wall_of(outcomes), wall_of(baseline)
    return Fanout(
        controller_sent_over_bundle=sent_bytes / size_bytes,
        broker_extra_mb=(watch.peak_bytes - watch.idle_bytes - size_bytes) / (1 << 20),
        wall_over_nginx=wall_s / nginx_s,
        wrong_bytes=sum(one.wrong_bytes for one in (*outcomes, *baseline)),
        agents=agents,
        wall_s=wall_s,
        nginx_s=nginx_s,
    )


def returning(
    folder: Path, *, agents: int = RETURNING, model_bytes: int = RETURNING_BYTES
) -> Returning:
    """Have agents come back for a bundle that a newer one has displaced from the broker."""
    old, new = (a_bundle_of_bytes(name, model_bytes) for name in ("old", "new"))
    size_bytes = size_of(old.manifest)
    budget_bytes = size_bytes + size_bytes // 2
    with (
        a_mosquitto(folder) as broker,
        watching(broker) as watch,
        controlling(broker, folder / "blobs", budget_bytes=budget_bytes) as controller,
    ):
        controller.want(names(agents), [new, old], must=[])
        controller.settle()
        before = watch.settled_bytes()
        way = ("broker", str(broker.port))
        outcomes = run_fetchers(way, old, folder, agents=agents, processes=RETURNING_PROCESSES)
        sent_bytes = watch.settled_bytes() - before
    assert sum(one.whole for one in outcomes) == agents, outcomes
    return Returning(
        devices=agents,
        controller_sent_over_bundle=sent_bytes / size_bytes,
        wrong_bytes=sum(one.wrong_bytes for one in outcomes),
        wall_s=wall_of(outcomes),
    )


def run_fetchers(
    way: tuple[str, str], bundle: Bundle, folder: Path, *, agents: int, processes: int
) -> list[Outcome]:
    """Run agents in some processes, which begin at once; return what came of each."""
    manifest = folder / f"{bundle.digest}.json"
    manifest.write_bytes(bundle.envelope)
    each = agents // processes
    children = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.bench.fetchers", *way),
                *("--manifest", str(manifest), "--bundle", bundle.digest),
                *("--folder", str(folder / "devices"), "--within", str(WITHIN_S)),
                *("--first", str(number * each), "--count", str(each)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for number in range(processes)
    ]
    try:
        for child in children:
            assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write(b"go\n")
            child.stdin.flush()
        said = [child.communicate(timeout=2 * WITHIN_S)[0] for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    return [codec.decode(Outcome, one) for one in said]


def wall_of(outcomes: Sequence[Outcome]) -> float:
    return max(one.ended_s for one in outcomes) - min(one.began_s for one in outcomes)


def names(count: int) -> list[DeviceId]:
    return [DeviceId(f"device-{number:04}") for number in range(count)]


def a_bundle_of_bytes(version: str, model_bytes: int) -> Bundle:
    """Return a bundle whose model file nobody can compress, in chunks of the usual length."""
    data = random.Random(version).randbytes(model_bytes)
    manifest = a_manifest()
    manifest = replace(manifest, files={MODEL_FILE: describe(data)})
    parts = (data, INPUT_BYTES, OUTPUT_BYTES)
    found = {describe(part).digest: part for part in parts}
    wanted = {blob.digest: found[blob.digest] for blob in blobs_of(manifest)}
    return seal(manifest, wanted, a_key())


def _order(device: DeviceId, bundle: Digest) -> SignedOrder:
    order = an_order(device=device, aliases={an_alias(): a_wanted(bundle=bundle)})
    return SignedOrder(signing.sign(order, a_key()), frozenset({bundle}))


@contextmanager
def watching(broker: Mosquitto) -> Iterator[Watch]:
    watch = Watch(broker.port, broker.pid)
    try:
        yield watch
    finally:
        watch.close()


@contextmanager
def controlling(broker: Mosquitto, folder: Path, *, budget_bytes: int) -> Iterator[Controller]:
    controller = Controller(broker.port, folder, budget_bytes)
    try:
        yield controller
    finally:
        controller.close()


@contextmanager
def an_nginx(folder: Path, bundle: Bundle) -> Iterator[str]:
    """Serve a bundle's blobs by digest for the length of the block; yields the folder's URL."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    assert program, "the benchmark compares with nginx: apt-get install nginx-light"
    port, www = free_port(), folder / "www"
    www.mkdir()
    for digest, data in bundle.blobs.items():
        (www / digest).write_bytes(data)
    config = folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # Its workers read the same folders.
    config.write_text(_NGINX.format(folder=folder, port=port, user=user))
    with ExitStack() as stack:
        process = subprocess.Popen(
            [program, "-c", str(config), "-p", str(folder), "-e", str(folder / "error.log")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)
        wait_for_port(port)
        yield f"http://127.0.0.1:{port}"
