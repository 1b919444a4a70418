"""Many fetching agents in one process, each with a store of its own: the real code between them.

What an agent fetches by is put together as its app does it: the download machine, the connection
for fetching, shelf, store and delivery. There is no engine and no order: the bundle's digest is
told on the command line.

    python -m tests.bench.fetchers broker PORT ...    chunks by the broker, wants by one connection
    python -m tests.bench.fetchers http URL ...       every blob whole by HTTP, into the same store

It says `ready`, begins at a line on its standard input, and says at the end what came of it.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import queue
import random
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import msgspec

from tests.agent.machines import some_facts
from wherry import codec
from wherry.blobs import Blob, chunk_sizes
from wherry.manifest import Manifest, blobs_of, open_manifest
from wherry.messages import Wants
from wherry.names import DeviceId, Digest
from wherry.topics import WantsTopic, text
from wherry_agent.core import agent as machine
from wherry_agent.core import download
from wherry_agent.core.suitability import Machine
from wherry_agent.delivery import Delivery, Rebuilt, Seen
from wherry_agent.fetch import Fetch
from wherry_agent.inbox import Inbox, Refused
from wherry_agent.mqtt import Callbacks, Connection
from wherry_agent.settings import Broker, FetchSettings
from wherry_agent.shelf import Shelf
from wherry_agent.sources import Answer
from wherry_agent.store import Store
from wherry_agent.ways import Ways

TICK_S = 0.25
WANT_JITTER_S = 1.0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the fetchers of one process have done; times are the machine's monotonic clock."""

    began_s: float
    ended_s: float
    whole: int
    wrong_bytes: int
    refused: int
    wants: int


@dataclass(frozen=True, slots=True)
class Linked:
    online: bool


@dataclass(frozen=True, slots=True)
class Arrived:
    topic: str
    payload: bytes


Item: TypeAlias = Linked | Arrived | Seen


class Start:
    """Lets threads begin together, once all of them are ready."""

    def __init__(self, runners: int) -> None:
        self.all_ready = threading.Barrier(runners + 1)
        self.go = threading.Event()

    def wait(self) -> None:
        self.all_ready.wait()
        self.go.wait()


@dataclass(frozen=True, slots=True)
class Bench:
    """What the fetchers of one process share; `start` lets them begin together."""

    bundle: Digest
    manifest: Manifest
    envelope: bytes
    folder: Path
    within_s: float
    start: Start


@dataclass(slots=True)
class Fetcher:
    """One agent's fetching; `run` returns when the bundle is whole, or when time is up."""

    device: DeviceId
    bench: Bench
    broker: Broker
    control: Connection
    refused: int = 0
    wants: int = 0
    is_whole: bool = False
    _due: list[tuple[float, tuple[Digest, ...]]] = field(default_factory=list)
    _queue: queue.SimpleQueue[Item] = field(default_factory=queue.SimpleQueue)

    def run(self) -> None:
        store = Store(self.bench.folder / self.device)
        ways = Ways(store)
        shelf = Shelf(store, _machine_for(self.bench.manifest), ways=ways)
        inbox = Inbox(store, shelf)
        fetch = Fetch(
            self.broker,
            f"{self.device}:fetch",
            on_link=lambda online: self._queue.put(Linked(online)),
            on_message=lambda topic, payload: self._queue.put(Arrived(topic, payload)),
        )
        delivery = Delivery(
            fetch, store, shelf, ways, settings=FetchSettings(), put=self._queue.put
        )
        state = download.Download(bundle=self.bench.bundle)
        self.bench.start.wait()
        deadline_s = time.monotonic() + self.bench.within_s
        fetch.open()
        while not self.is_whole and time.monotonic() < deadline_s:
            state = self._turn(inbox, delivery, state)
        delivery.close()
        store.close()

    def _turn(
        self, inbox: Inbox, delivery: Delivery, state: download.Download
    ) -> download.Download:
        news = deque(self._events(inbox, delivery, state))
        while news:
            event = self._known(news.popleft())
            if event is None:
                continue
            state, effects = download.step(state, event)
            for effect in effects:
                news.extend(self._perform(effect, delivery, state))
        self._say_wants()
        return state

    def _known(self, event: object) -> download.Event | None:
        """Return what the download machine is to hear of, as the agent's machine tells it."""
        match event:
            case Refused():
                self.refused += 1
                return None
            case machine.Assembled():
                self.is_whole = True
                return None
            case machine.ManifestAccepted(_, missing):
                return download.ManifestCame(missing, time.monotonic())
            case _:
                assert isinstance(event, download.Event), event
                return event

    def _perform(
        self, effect: download.Effect, delivery: Delivery, state: download.Download
    ) -> Iterable[object]:
        match effect:
            case download.Want(digests):
                self._due.append((time.monotonic() + random.random() * WANT_JITTER_S, digests))
                return ()
            case download.Complete():
                return delivery.perform(machine.Assemble(self.bench.bundle), state)
            case download.GiveUp():
                raise AssertionError(effect)
            case _:
                return delivery.perform(effect, state)

    def _events(
        self, inbox: Inbox, delivery: Delivery, state: download.Download
    ) -> Sequence[object]:
        try:
            item = self._queue.get(timeout=TICK_S)
        except queue.Empty:
            return [*delivery.tick(), download.Tick(time.monotonic())]
        match item:
            case Linked(True):
                return [download.Connected(time.monotonic())]
            case Linked():
                return [download.Disconnected()]
            case Arrived(topic, payload):
                return list(inbox.read(topic, payload, state))
            case Answer() | Rebuilt():
                return list(delivery.read(item, state))

    def _say_wants(self) -> None:
        now_s = time.monotonic()
        for _, digests in (each for each in self._due if each[0] <= now_s):
            self.wants += 1
            wants = codec.encode(Wants(digests=digests))
            self.control.publish(text(WantsTopic(self.device)), wants)
        self._due = [each for each in self._due if each[0] > now_s]


def fetch_by_http(url: str, device: DeviceId, bench: Bench) -> None:
    """Fetch every blob whole, chunk by chunk of one answer, into the store that an agent has."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port)
    store = Store(bench.folder / device)
    bench.start.wait()
    store.put_manifest(bench.bundle, bench.envelope)
    for blob in blobs_of(bench.manifest):
        connection.request("GET", f"{parts.path}/{blob.digest}")
        response = connection.getresponse()
        assert response.status == http.client.OK, response.status
        for chunk in blob.chunks:
            store.put_chunk(chunk, response.read(chunk_sizes(blob)[chunk]))
        response.read()
    connection.close()
    store.assemble(bench.manifest)
    store.close()


def wrong_bytes(folder: Path, blobs: Sequence[Blob]) -> int:
    """Return how many bytes of a device's blobs are not what they shall be."""
    wrong = 0
    for blob in blobs:
        place = folder / "blobs" / blob.digest
        data = place.read_bytes() if place.exists() else b""
        if hashlib.sha256(data).hexdigest() != blob.digest:
            wrong += blob.size_bytes
    return wrong


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=["broker", "http"])
    parser.add_argument("place", help="the broker's port, or the URL of a folder of blobs")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--within", type=float, required=True)
    asked = parser.parse_args(arguments)
    envelope = asked.manifest.read_bytes()
    manifest = open_manifest(envelope, asked.bundle)
    names = [DeviceId(f"device-{n:04}") for n in range(asked.first, asked.first + asked.count)]
    start = Start(len(names))
    bench = Bench(asked.bundle, manifest, envelope, asked.folder, asked.within, start)
    outcome = (_by_broker if asked.way == "broker" else _by_http)(asked.place, names, bench)
    wrong = sum(wrong_bytes(asked.folder / name, blobs_of(manifest)) for name in names)
    for name in names:
        shutil.rmtree(asked.folder / name)
    said = codec.encode(msgspec.structs.replace(outcome, wrong_bytes=wrong))
    sys.stdout.write(said.decode() + "\n")
    return 0


def _by_broker(place: str, names: Sequence[DeviceId], bench: Bench) -> Outcome:
    broker = Broker("127.0.0.1", int(place))
    up = threading.Event()
    callbacks = Callbacks(
        on_up=up.set,
        on_down=lambda: None,
        on_message=lambda _topic, _payload: None,
        on_puback=lambda _mid: None,
    )
    control = Connection(broker, f"control-{names[0]}", callbacks, window=20, will=None)
    control.connect()
    assert up.wait(30.0)
    fetchers = [Fetcher(name, bench, broker, control) for name in names]
    began_s, ended_s = _together([one.run for one in fetchers], bench.start)
    control.close()
    return Outcome(
        began_s=began_s,
        ended_s=ended_s,
        whole=sum(one.is_whole for one in fetchers),
        wrong_bytes=0,
        refused=sum(one.refused for one in fetchers),
        wants=sum(one.wants for one in fetchers),
    )


def _by_http(place: str, names: Sequence[DeviceId], bench: Bench) -> Outcome:
    whole: list[DeviceId] = []

    def run(name: DeviceId) -> None:
        fetch_by_http(place, name, bench)
        whole.append(name)

    began_s, ended_s = _together([partial(run, name) for name in names], bench.start)
    return Outcome(
        began_s=began_s, ended_s=ended_s, whole=len(whole), wrong_bytes=0, refused=0, wants=0
    )


def _together(runs: Sequence[Callable[[], None]], start: Start) -> tuple[float, float]:
    """Run each in a thread of its own from the word of whoever started this process."""
    threads = [threading.Thread(target=run) for run in runs]
    for thread in threads:
        thread.start()
    start.all_ready.wait()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    began_s = time.monotonic()
    start.go.set()
    for thread in threads:
        thread.join()
    return began_s, time.monotonic()


def _machine_for(manifest: Manifest) -> Machine:
    profile = manifest.profile
    return Machine(
        profile=profile.name,
        facts=some_facts(profile),
        runtimes={profile.runtime.value: "1.31.1"},
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
