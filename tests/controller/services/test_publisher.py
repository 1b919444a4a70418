"""The broker as a cache: only the difference is sent, and what is lost comes back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.builders import a_bundle_of, a_device_id, a_digest, a_key, a_wanted, an_alias, an_order
from tests.controller.services.brokers import MemoryBroker
from wherry import codec, signing
from wherry.blobs import describe
from wherry.bundle import Bundle
from wherry.manifest import blobs_of
from wherry.messages import Delta, DeltaIndex
from wherry.names import DeviceId, Digest
from wherry.topics import AcksTopic, BlobTopic, BundleTopic, DesiredTopic, text
from wherry_controller.services.publisher import (
    Beside,
    Pace,
    Publisher,
    SignedOrder,
    shelve,
    shelve_delta,
    size_of_all,
)
from wherry_controller.store.blobs import BlobFolder

DEVICE = a_device_id()
SHARED = b"a" * 1024 + b"b" * 1024  # Two chunks of 1 KiB that every model here begins with.


@dataclass
class Bench:
    """A publisher over a broker in memory, and what is wanted of it."""

    blobs: BlobFolder
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    bundles: dict[Digest, Bundle] = field(default_factory=dict)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.publisher = Publisher(self.broker, self.blobs, Pace(inflight=2))

    def add(self, data: bytes) -> Bundle:
        bundle = a_bundle_of(data)
        for blob in bundle.blobs.values():
            self.blobs.put(blob)
        self.bundles[bundle.digest] = bundle
        return bundle

    def want(self, ordered: dict[DeviceId, Bundle], *needed: Bundle) -> None:
        orders = {
            device: SignedOrder(
                signing.sign(
                    an_order(device=device, aliases={an_alias(): a_wanted(bundle=one.digest)}),
                    a_key(),
                ),
                frozenset((one.digest,)),
            )
            for device, one in ordered.items()
        }
        every = {one.digest: shelve(one.envelope) for one in (*ordered.values(), *needed)}
        self.publisher.want(orders, every, self.now)
        self.answer()

    def connect(self) -> None:
        self.broker.backlog = 0
        self.publisher.on_connected(self.now)
        self.answer()

    def answer(self) -> None:
        self.now = self.broker.answer(self.publisher, self.now)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.publisher.tick(self.now)
        self.answer()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(BlobFolder(tmp_path))


def topics_of(bundle: Bundle) -> set[str]:
    chunks = {chunk for blob in blobs_of(bundle.manifest) for chunk in blob.chunks}
    return {text(BundleTopic(bundle.digest)), *(text(BlobTopic(chunk)) for chunk in chunks)}


def test_an_order_its_manifest_and_every_chunk_are_retained(bench: Bench) -> None:
    bundle = bench.add(SHARED + b"one")
    bench.connect()
    bench.want({DEVICE: bundle})
    assert set(bench.broker.retained) == topics_of(bundle) | {text(DesiredTopic(DEVICE))}
    assert bench.broker.retained[text(BundleTopic(bundle.digest))] == bundle.envelope
    assert bench.publisher.is_settled


def test_an_order_goes_before_chunks_and_a_manifest_after_them(bench: Bench) -> None:
    bundle = bench.add(SHARED + b"one")
    bench.connect()
    bench.want({DEVICE: bundle})
    assert bench.broker.sent[0] == text(DesiredTopic(DEVICE))
    assert bench.broker.sent[-1] == text(BundleTopic(bundle.digest))


def test_only_a_few_publications_wait_for_the_broker_at_a_time(bench: Bench) -> None:
    bundle = bench.add(SHARED + b"one")
    bench.connect()
    bench.publisher.want({}, {bundle.digest: shelve(bundle.envelope)}, bench.now)
    assert len(bench.broker.sent) == 2
    bench.broker.backlog -= 1
    bench.publisher.on_delivered(bench.now)
    assert len(bench.broker.sent) == 3


def test_a_chunk_that_two_bundles_share_goes_once(bench: Bench) -> None:
    one, two = bench.add(SHARED + b"one"), bench.add(SHARED + b"two")
    bench.connect()
    bench.want({DEVICE: one})
    bench.want({DEVICE: two}, one)
    chunks = [topic for topic in bench.broker.sent if "/blobs/" in topic]
    assert len(chunks) == len(set(chunks))
    assert topics_of(one) | topics_of(two) <= set(bench.broker.retained)


def test_what_nothing_needs_any_more_is_cleared(bench: Bench) -> None:
    one, two = bench.add(SHARED + b"one"), bench.add(SHARED + b"two")
    bench.connect()
    bench.want({DEVICE: one})
    bench.want({DEVICE: two})
    assert set(bench.broker.retained) == topics_of(two) | {text(DesiredTopic(DEVICE))}
    bench.want({})
    assert bench.broker.retained == {}


def test_what_a_broker_lost_while_it_was_down_comes_back(bench: Bench) -> None:
    bundle = bench.add(SHARED + b"one")
    bench.connect()
    bench.want({DEVICE: bundle})
    before = dict(bench.broker.retained)
    bench.publisher.on_disconnected()
    bench.broker.lose("wherry")
    bench.connect()
    assert bench.broker.retained == before


def test_a_broker_that_kept_everything_is_sent_nothing(bench: Bench) -> None:
    bundle = bench.add(SHARED + b"one")
    bench.connect()
    bench.want({DEVICE: bundle})
    bench.broker.sent.clear()
    bench.publisher.on_disconnected()
    bench.connect()
    bench.wait(61.0)
    assert bench.broker.requests == 3
    assert bench.broker.sent == []


def test_what_is_missing_older_or_foreign_is_repaired_at_an_interval(bench: Bench) -> None:
    bundle = bench.add(SHARED + b"one")
    bench.connect()
    bench.want({DEVICE: bundle})
    right = dict(bench.broker.retained)
    bench.broker.lose("bundles")
    bench.broker.retained[text(DesiredTopic(DEVICE))] = b'{"an":"older order"}'
    bench.broker.retained[text(DesiredTopic(a_device_id("stranger")))] = b"{}"
    bench.broker.retained[text(BundleTopic(Digest("f" * 64)))] = b"no manifest"
    bench.wait(61.0)
    assert bench.broker.retained == right


def test_a_foreign_manifest_vouches_for_no_chunk_of_a_wanted_bundle(bench: Bench) -> None:
    bundle = bench.add(SHARED + b"one")
    bench.connect()
    bench.want({DEVICE: bundle})
    right = dict(bench.broker.retained)
    bench.broker.lose("blobs")
    foreign = a_bundle_of(SHARED + b"one", key=a_key(9))
    bench.broker.retained[text(BundleTopic(bundle.digest))] = foreign.envelope
    bench.wait(61.0)
    assert bench.broker.retained == right


def test_nothing_is_judged_missing_before_the_broker_began_to_read_back(bench: Bench) -> None:
    bundle = bench.add(SHARED + b"one")
    bench.connect()
    bench.want({DEVICE: bundle})
    bench.broker.sent.clear()
    bench.publisher.tick(bench.now + 61.0)
    bench.publisher.tick(bench.now + 1000.0)  # The grant has not come yet.
    assert bench.broker.sent == []


def test_a_device_is_sent_again_what_it_misses_of_its_own_bundle(bench: Bench) -> None:
    bundle = bench.add(SHARED + b"one")
    bench.connect()
    bench.want({DEVICE: bundle})
    lost = shelve(bundle.envelope).chunks.keys()
    chunk = next(iter(lost))
    bench.broker.lose(chunk)
    bench.now += 31.0
    assert bench.publisher.say_again(DEVICE, (chunk, bundle.digest), bench.now) == 0
    bench.answer()
    assert topics_of(bundle) <= set(bench.broker.retained)


def test_a_chunk_is_not_sent_again_within_half_a_minute(bench: Bench) -> None:
    bundle = bench.add(SHARED + b"one")
    bench.connect()
    bench.want({DEVICE: bundle})
    chunk = next(iter(shelve(bundle.envelope).chunks))
    assert bench.publisher.say_again(DEVICE, (chunk,), bench.now + 1.0) == 1
    assert bench.publisher.say_again(DEVICE, (chunk,), bench.now + 31.0) == 0
    assert bench.publisher.say_again(DEVICE, (chunk,), bench.now + 32.0) == 1


def test_a_device_is_not_sent_what_its_order_does_not_name(bench: Bench) -> None:
    mine, other = bench.add(SHARED + b"one"), bench.add(b"two")
    bench.connect()
    bench.want({DEVICE: mine, a_device_id("pi-2"): other})
    assert bench.publisher.say_again(DEVICE, (other.digest,), bench.now + 31.0) == 1
    assert bench.publisher.say_again(a_device_id("pi-3"), (mine.digest,), bench.now + 31.0) == 1


def test_a_blob_that_the_disk_lost_holds_up_nothing_else(bench: Bench) -> None:
    lost, sound = bench.add(SHARED + b"lost"), bench.add(b"sound")
    bench.connect()
    for blob in lost.blobs:
        bench.blobs.path(blob).unlink(missing_ok=True)
    for data in sound.blobs.values():
        bench.blobs.put(data)
    bench.want({DEVICE: lost}, sound)
    assert topics_of(sound) <= set(bench.broker.retained)


def test_a_removed_device_leaves_no_topic_behind(bench: Bench) -> None:
    bundle = bench.add(b"one")
    bench.connect()
    bench.want({DEVICE: bundle})
    bench.publisher.say(AcksTopic(DEVICE), b"{}")
    bench.publisher.forget(DEVICE)
    bench.want({})
    assert bench.broker.retained == {}


def test_bundles_together_take_a_shared_chunk_once(bench: Bench) -> None:
    one, two = bench.add(SHARED + b"one"), bench.add(SHARED + b"two")
    apart = [shelve(bundle.envelope).size_bytes for bundle in (one, two)]
    together = size_of_all(shelve(bundle.envelope) for bundle in (one, two))
    assert sum(apart) - together >= len(SHARED)


# The budget, and leases


def a_tight_bench(tmp_path: Path) -> tuple[Bench, Bundle, Bundle]:
    """Return a bench whose broker has room for the newer of two bundles that are ordered."""
    bench = Bench(BlobFolder(tmp_path))
    new, old = bench.add(numbers(0)), bench.add(numbers(5000))
    room = shelve(new.envelope).size_bytes + 100
    bench.publisher = Publisher(
        bench.broker, bench.blobs, Pace(inflight=2, budget_bytes=room, lease_s=600.0)
    )
    bench.connect()
    return bench, new, old


def numbers(first: int) -> bytes:
    """Return bytes whose chunks are no two alike."""
    return b"".join(number.to_bytes(4, "big") for number in range(first, first + 2000))


def want_both(bench: Bench, new: Bundle, old: Bundle, *must: Bundle) -> None:
    other = a_device_id("pi-2")
    orders = {DEVICE: an_order_to(DEVICE, old), other: an_order_to(other, new)}
    shelved = {one.digest: shelve(one.envelope) for one in (new, old)}
    bench.publisher.want(orders, shelved, bench.now, must={one.digest for one in must})
    bench.answer()


def an_order_to(device: DeviceId, bundle: Bundle) -> SignedOrder:
    order = an_order(device=device, aliases={an_alias(): a_wanted(bundle=bundle.digest)})
    return SignedOrder(signing.sign(order, a_key()), frozenset((bundle.digest,)))


def holds(bench: Bench, bundle: Bundle) -> bool:
    return topics_of(bundle) <= set(bench.broker.retained)


def test_what_finds_no_room_is_cleared_whole_and_the_newest_stays(tmp_path: Path) -> None:
    bench, new, old = a_tight_bench(tmp_path)
    want_both(bench, new, old, old)
    assert holds(bench, old) and not holds(bench, new)
    want_both(bench, new, old)
    assert holds(bench, new)
    own = topics_of(old) - topics_of(new)
    assert not own & set(bench.broker.retained)


def test_a_chunk_that_was_cleared_brings_its_bundle_back_for_a_while(tmp_path: Path) -> None:
    bench, new, old = a_tight_bench(tmp_path)
    want_both(bench, new, old)
    chunk = next(iter(shelve(old.envelope).chunks))
    assert bench.publisher.say_again(DEVICE, (chunk,), bench.now) == 0
    bench.answer()
    assert holds(bench, old) and not holds(bench, new)
    bench.now += 500.0
    bench.publisher.tick(bench.now)
    bench.answer()
    assert holds(bench, old)
    bench.now += 200.0
    bench.publisher.tick(bench.now)
    bench.answer()
    assert holds(bench, new) and not holds(bench, old)


def test_many_that_come_back_for_a_bundle_have_it_published_once(tmp_path: Path) -> None:
    bench, new, old = a_tight_bench(tmp_path)
    want_both(bench, new, old)
    bench.broker.sent.clear()
    chunks = list(shelve(old.envelope).chunks)
    for number in range(100):
        bench.now += 0.01
        some = chunks[number % 5 : number % 5 + 3]
        bench.publisher.say_again(DEVICE, (*some, old.digest), bench.now)
        bench.answer()
    sent = [topic for topic in bench.broker.sent if topic in topics_of(old)]
    assert len(sent) == len(set(sent))


def test_a_device_that_still_wants_prolongs_the_lease(tmp_path: Path) -> None:
    bench, new, old = a_tight_bench(tmp_path)
    want_both(bench, new, old)
    chunk = next(iter(shelve(old.envelope).chunks))
    for _ in range(3):
        bench.publisher.say_again(DEVICE, (chunk,), bench.now)
        bench.answer()
        bench.now += 500.0
        bench.publisher.tick(bench.now)
        bench.answer()
        assert holds(bench, old)


def test_a_delta_is_retained_with_its_index_and_goes_with_its_offer(bench: Bench) -> None:
    bundle, delta = bench.add(numbers(0)), numbers(9000)[:3000]
    blob = describe(delta, 1024)
    index = codec.encode(DeltaIndex(base=a_digest("base"), blob=a_digest("blob"), delta=blob))
    bench.blobs.put(delta)
    name = bench.blobs.put(index)
    offered = Delta(blob=a_digest("blob"), base=a_digest("base"), index=name)
    order = replace(an_order_to(DEVICE, bundle), beside=Beside(deltas=(offered,)))
    shelved = {bundle.digest: shelve(bundle.envelope), name: shelve_delta(index)}
    bench.connect()
    bench.publisher.want({DEVICE: order}, shelved, bench.now)
    bench.answer()
    parts = {text(BlobTopic(chunk)) for chunk in (name, *blob.chunks)}
    assert parts <= set(bench.broker.retained)
    assert bench.broker.retained[text(BlobTopic(name))] == index
    bench.wait(61.0)  # Read back: what its index names is believed to be there.
    assert len([topic for topic in bench.broker.sent if topic in parts]) == len(parts)
    bench.broker.lose(blob.chunks[1])
    assert bench.publisher.say_again(DEVICE, (blob.chunks[1],), bench.now + 31.0) == 0
    bench.answer()
    assert parts <= set(bench.broker.retained)
    stranger = bench.publisher.say_again(a_device_id("pi-2"), (name,), bench.now + 99.0)
    assert stranger == 1
    bench.want({DEVICE: bundle})
    assert not parts & set(bench.broker.retained)
