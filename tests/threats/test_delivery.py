"""Threats to bytes on their way: altered, slow, endless, another's, or only half there.

Whoever brings them, broker or HTTP source, a device keeps only what its digest names; what it
serves stays as it is.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.agent.machines import some_facts
from tests.agent.stores import chunks_of
from tests.builders import (
    a_bundle_of,
    a_device_id,
    a_key,
    a_profile,
    a_wanted,
    an_alias,
    an_order,
)
from tests.controller.services.brokers import MemoryBroker
from tests.mirrors import Manner, Mirror, a_mirror
from wherry import signing
from wherry.bundle import Bundle
from wherry.manifest import blobs_of
from wherry.names import Digest
from wherry.reasons import Reason
from wherry.topics import BlobTopic, text
from wherry_agent.core import agent as machine
from wherry_agent.core import download
from wherry_agent.core.sources import LEAVE_S, find, patience_s
from wherry_agent.core.suitability import Machine
from wherry_agent.delivery import Delivery, Seen
from wherry_agent.fetch import Fetch
from wherry_agent.inbox import Inbox, News, Refused
from wherry_agent.settings import Broker, FetchSettings
from wherry_agent.shelf import Shelf
from wherry_agent.store import Store
from wherry_agent.ways import Ways
from wherry_controller.services.publisher import Pace, Publisher, SignedOrder, shelve
from wherry_controller.store.blobs import BlobFolder

PROFILE = a_profile()
BUNDLE = a_bundle_of(b"".join(n.to_bytes(4, "big") for n in range(2560)), profile=PROFILE)
CHUNKS = chunks_of(BUNDLE)
CHUNK = next(iter(CHUNKS))
PATIENCE_S = 10.0


@dataclass
class Device:
    """A device that fetches a bundle: store, shelf and delivery, and the download machine."""

    store: Store
    queue: queue.SimpleQueue[Seen] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        ways = Ways(self.store)
        this = Machine(
            profile=PROFILE.name,
            facts=some_facts(PROFILE),
            runtimes={PROFILE.runtime.value: PROFILE.runtime_floor},
        )
        self.shelf = Shelf(self.store, this, ways=ways)
        self.inbox = Inbox(self.store, self.shelf)
        fetch = Fetch(
            Broker("127.0.0.1", 9, tls=False),
            "device:fetch",
            on_link=lambda _online: None,
            on_message=lambda _topic, _payload: None,
        )
        self.delivery = Delivery(
            fetch, self.store, self.shelf, ways, settings=FetchSettings(), put=self.queue.put
        )
        accepted = self.shelf.accept(BUNDLE.digest, BUNDLE.envelope)
        assert isinstance(accepted, machine.ManifestAccepted)
        self.state = download.Download(bundle=BUNDLE.digest)
        self.step(download.Connected(0.0), download.ManifestCame(accepted.missing, 0.0))

    def step(self, *events: download.Event) -> list[download.Effect]:
        done: list[download.Effect] = []
        for event in events:
            self.state, effects = download.step(self.state, event)
            done += effects
        return done

    def hear(self, payload: bytes) -> list[News]:
        """Take what the broker sends as a chunk."""
        return list(self.inbox.read(text(BlobTopic(CHUNK)), payload, self.state))

    def turn_to(self, mirror: Mirror) -> download.AskSource:
        """Let the broker stall, so that the machine asks a source."""
        self.step(download.Advised(None, None, (mirror.url,)))
        effects = self.step(download.Tick(1000.0))
        return next(one for one in effects if isinstance(one, download.AskSource))

    def ask(self, ask: download.AskSource) -> list[News]:
        """Ask the source, and return what its answer says."""
        assert not list(self.delivery.perform(ask, self.state))
        answer = self.queue.get(timeout=PATIENCE_S)
        return list(self.delivery.read(answer, self.state))

    def keeps(self) -> set[str]:
        """Return the names of all files that it has fetched."""
        folders = (self.store.blobs, self.store.folder / "chunks", self.store.rebuilding)
        return {place.name for folder in folders for place in folder.iterdir()}

    def close(self) -> None:
        self.delivery.close()
        self.store.close()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    device = Device(Store(tmp_path / "device"))
    yield device
    device.close()


def refusals(news: list[News]) -> list[Reason]:
    return [one.reason for one in news if isinstance(one, Refused)]


def test_an_altered_chunk_is_refused_and_leaves_nothing(device: Device) -> None:
    altered = bytes([CHUNKS[CHUNK][0] ^ 1]) + CHUNKS[CHUNK][1:]
    news = device.hear(altered)
    assert refusals(news) == [Reason.WRONG_BYTES]
    spoiled = news[-1]
    assert isinstance(spoiled, download.ChunkSpoiled)
    assert device.keeps() == set()
    effects = device.step(spoiled)
    assert download.Want((CHUNK,)) in effects
    assert device.state.missing is not None and CHUNK in device.state.missing


def test_a_malicious_mirror_is_told_and_asked_no_more(device: Device) -> None:
    with a_mirror(BUNDLE.blobs, Manner.LYING) as mirror:
        ask = device.turn_to(mirror)
        news = device.ask(ask)
    assert refusals(news) == [Reason.MIRROR_LIED]
    assert device.keeps() == set()
    lied = news[-1]
    assert isinstance(lied, download.SourceLied)
    assert not any(isinstance(one, download.AskSource) for one in device.step(lied))
    assert find(device.state.sources, CHUNK, 1e12) is None
    assert ask.chunk in (device.state.missing or {})


@pytest.mark.parametrize(
    ("manner", "why"), [(Manner.BOASTING, "declares 1099511627776"), (Manner.ENDLESS, "gives more")]
)
def test_endless_data_is_cut_off_at_the_length_that_was_asked_for(
    device: Device, manner: Manner, why: str
) -> None:
    with a_mirror(BUNDLE.blobs, manner) as mirror:
        news = device.ask(device.turn_to(mirror))
    assert refusals(news) == [Reason.OVERSIZED_BLOB]
    assert any(isinstance(one, Refused) and why in one.detail for one in news)
    assert isinstance(news[-1], download.SourceLied)
    assert device.keeps() == set()


def test_a_source_that_drips_is_cut_off_at_its_time_and_left_for_a_while(device: Device) -> None:
    with a_mirror(BUNDLE.blobs, Manner.DRIPPING) as mirror:
        ask = device.turn_to(mirror)
        assert ask.within_s == patience_s(ask.size_bytes)
        hasty = download.AskSource(ask.source, ask.chunk, ask.size_bytes, within_s=0.3)
        news = device.ask(hasty)
    failed = news[-1]
    assert isinstance(failed, download.SourceFailed)
    assert device.keeps() == set()
    device.step(failed)
    assert find(device.state.sources, CHUNK, failed.at_s + LEAVE_S - 1.0) is None
    assert find(device.state.sources, CHUNK, failed.at_s + LEAVE_S + 1.0) == mirror.url


def test_a_slow_broker_is_left_for_a_source(device: Device) -> None:
    with a_mirror(BUNDLE.blobs) as mirror:
        ask = device.turn_to(mirror)
        assert ask.chunk not in device.state.asked
        came = device.ask(ask)[-1]
    assert isinstance(came, download.ChunkCame)
    assert device.keeps() == {ask.chunk}


def test_a_bundle_that_is_only_partly_there_is_never_assembled(device: Device) -> None:
    *most, last = CHUNKS
    for chunk in most:
        device.store.put_chunk(chunk, CHUNKS[chunk])
    before = device.keeps()
    step = device.shelf.assemble(BUNDLE.digest)
    assert isinstance(step, download.StillMissing) and set(step.missing) == {last}
    assert device.keeps() == before
    assert not any(device.store.has_blob(blob.digest) for blob in blobs_of(BUNDLE.manifest))


def test_an_oversized_chunk_is_refused_whatever_it_begins_with(device: Device) -> None:
    assert refusals(device.hear(CHUNKS[CHUNK] + b"and more")) == [Reason.WRONG_BYTES]
    assert device.keeps() == set()


def test_wants_for_another_s_bundle_bring_nothing_back(tmp_path: Path) -> None:
    mine, other = BUNDLE, a_bundle_of(b"another's" * 700, profile=PROFILE)
    blobs, broker = BlobFolder(tmp_path), MemoryBroker()
    for data in (*mine.blobs.values(), *other.blobs.values()):
        blobs.put(data)
    # Room for one bundle only: the other is cleared, and would come back for whoever may have it.
    publisher = Publisher(broker, blobs, Pace(budget_bytes=shelve(mine.envelope).size_bytes))
    me, neighbour = a_device_id(), a_device_id("pi-2")
    orders = {me: order_of(mine), neighbour: order_of(other)}
    publisher.on_connected(0.0)
    now = broker.answer(publisher, 0.0)
    shelved = {one.digest: shelve(one.envelope) for one in (mine, other)}
    publisher.want(orders, shelved, now, must=())
    now = broker.answer(publisher, now)
    before = dict(broker.retained)
    wanted: tuple[Digest, ...] = (other.digest, *list(chunks_of(other))[:3])
    private = [digest for digest in wanted if digest not in CHUNKS]
    assert publisher.say_again(me, private, now + 60.0) == len(private)
    broker.answer(publisher, now + 60.0)
    assert broker.retained == before
    assert publisher.say_again(neighbour, private, now + 60.0) == 0


def order_of(bundle: Bundle) -> SignedOrder:
    order = an_order(aliases={an_alias(): a_wanted(bundle=bundle.digest)})
    return SignedOrder(signing.sign(order, a_key()), frozenset({bundle.digest}))


def test_no_thread_is_left_behind(device: Device) -> None:
    with a_mirror(BUNDLE.blobs) as mirror:
        device.ask(device.turn_to(mirror))
    device.delivery.close()
    for thread in threading.enumerate():
        if thread.name == "sources":
            thread.join(PATIENCE_S)
    assert not [thread for thread in threading.enumerate() if thread.name == "sources"]
