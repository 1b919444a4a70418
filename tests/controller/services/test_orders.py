"""Orders as the broker retains them: signed once, renewed in time, told anew to who needs it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from msgspec.structs import replace
from sqlalchemy import insert

from tests.builders import (
    A_TIME,
    a_bundle_of,
    a_device_id,
    a_key,
    a_profile,
    a_reported,
    a_wanted,
    an_alias,
)
from tests.controller.services.brokers import MemoryBroker
from tests.controller.stores import a_store, add_built_version, add_devices
from tests.controller.trusts import a_fleet, a_trust, order_in, vouch
from tests.trusted import DIRECTOR_KEY, a_root, the_holders
from wherry import codec, messages
from wherry.blobs import digest_of
from wherry.bundle import Bundle
from wherry.messages import Order, TrustReport
from wherry.names import DeviceId, parse_version_name
from wherry.reasons import Phase
from wherry.signing import Envelope, NotSignedByTrusted, key_id
from wherry.topics import DesiredTopic, MetadataTopic, TimestampTopic, parse_topic, text
from wherry.trust import packet
from wherry.trust.making import DAY_S, LIFETIMES, SNAPSHOT
from wherry.trust.repository import bin_of
from wherry_controller.core.audit import Entry, verify
from wherry_controller.services import fleet
from wherry_controller.services.fleet import Fleet, device_of
from wherry_controller.services.ingest import Ingest, Message
from wherry_controller.services.orders import MOST_RENEWED, Advise, Orders
from wherry_controller.services.publisher import Beside, Pace, Publisher
from wherry_controller.store import devices
from wherry_controller.store.audit import list_entries
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.convert import columns
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import Desired, Device
from wherry_controller.store.tables import DesiredRow, DeviceRow

NEXT_DIRECTOR = a_key(78)
PI_1, PI_2 = a_device_id("pi-1"), a_device_id("pi-2")


class Bench:
    """A fleet of some devices behind a broker in memory."""

    def __init__(self, folder: Path, *members: DeviceId) -> None:
        self.now = float(A_TIME)
        self.store = a_store(folder)
        self.blobs = BlobFolder(folder / "blobs")
        self.trust = a_trust(self.store, more=(NEXT_DIRECTOR,))
        with self.store.transaction() as tx:
            add_devices(tx, *(members or (PI_1, PI_2)))
            self.bundle = add_built_version(tx, self.blobs, "v1")
        vouch(self.store, self.trust, self.bundle)
        self.broker = MemoryBroker()
        self.restart()

    def restart(self) -> None:
        """Begin anew with what the broker and the database kept."""
        self.publisher = Publisher(self.broker, self.blobs, Pace())
        self.fleet = a_fleet(self.store, self.publisher, self.trust)
        self.fleet.publish(self.now)
        self.publisher.on_connected(self.now)
        self.now = self.broker.answer(self.publisher, self.now)

    def order(self, *members: DeviceId) -> None:
        with self.store.transaction() as tx:
            for device in members:
                wanted = a_wanted(f"v1:{device}", bundle=self.bundle.digest)
                fleet.order(tx, device, an_alias(), wanted, rollout=None, now=self.now)
        self.publish()

    def publish(self) -> None:
        self.fleet.publish(self.now)
        self.broker.answer(self.publisher, self.now)

    def bring(self, signed: bytes) -> None:
        """Bring what was signed on another machine."""
        with self.store.transaction() as tx:
            self.trust.publish(tx, [signed], self.now)
        self.publish()

    def sent(self) -> list[str]:
        """Return the kinds of topics that were published since this was asked last."""
        topics = [type(parse_topic(topic)).__name__ for topic in self.broker.sent]
        self.broker.sent.clear()
        return topics

    def told(self, device: DeviceId = PI_1) -> messages.Desired:
        return codec.decode(messages.Desired, self.broker.retained[text(DesiredTopic(device))])

    def order_for(self, device: DeviceId = PI_1) -> Order:
        return order_in(self.broker.retained[text(DesiredTopic(device))])

    def pieces(self, device: DeviceId = PI_1) -> set[str]:
        return set(packet.unpack(self.told(device).packet))

    def follow(self, device: DeviceId, *, root: int = 1, seq: int = 1) -> None:
        """Have a device report that it has accepted its order."""
        trust = TrustReport(epoch=0, root=root, timestamp=1, snapshot=1, targets=1)
        generation = self.order_for(device).generation
        reported = replace(a_reported(report_seq=seq, generation=generation), trust=trust)
        Ingest(self.store).take([Message(device, reported, live=True)], self.now)

    def seal(self, name: str = "v2") -> Bundle:
        """Have the controller vouch for one more bundle."""
        bundle = a_bundle_of(name.encode(), version=parse_version_name(name))
        vouch(self.store, self.trust, bundle, now=self.now)
        return bundle


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_an_order_travels_with_what_its_device_needs_to_verify_it(bench: Bench) -> None:
    bench.order(PI_1)
    role = bin_of(bench.bundle.digest)
    assert bench.pieces() == {"snapshot/2", "targets/1", f"{role}/1"}
    topics = set(bench.broker.retained)
    assert text(TimestampTopic()) in topics
    assert text(MetadataTopic(SNAPSHOT, 2)) in topics


def test_a_new_bundle_is_told_to_who_has_not_followed_and_to_nobody_else(bench: Bench) -> None:
    bench.order(PI_1, PI_2)
    bench.follow(PI_1)
    bench.sent()
    bench.seal()
    bench.publish()
    assert bench.sent().count("DesiredTopic") == 1
    assert "snapshot/2" in bench.pieces(PI_1)
    assert "snapshot/3" in bench.pieces(PI_2)
    assert bench.order_for(PI_2).generation == 1


def test_superseded_metadata_is_cleared_and_the_timestamp_follows_the_rest(bench: Bench) -> None:
    bench.order(PI_1)
    bench.sent()
    bench.seal()
    bench.publish()
    retained = set(bench.broker.retained)
    assert text(MetadataTopic(SNAPSHOT, 3)) in retained
    assert text(MetadataTopic(SNAPSHOT, 2)) not in retained
    assert bench.sent()[:3] == ["MetadataTopic", "TimestampTopic", "DesiredTopic"]


def test_a_controller_that_restarts_says_the_same_again(bench: Bench) -> None:
    bench.order(PI_1, PI_2)
    bench.follow(PI_1)
    bench.seal()
    bench.publish()
    bench.sent()
    bench.restart()
    assert bench.sent() == []


def test_an_order_that_the_broker_lost_comes_back_as_it_was(bench: Bench) -> None:
    bench.order(PI_1)
    bench.follow(PI_1)
    bench.seal()
    bench.publish()
    before = bench.broker.retained[text(DesiredTopic(PI_1))]
    bench.broker.lose("desired", "trust")
    bench.restart()
    assert bench.broker.retained[text(DesiredTopic(PI_1))] == before
    assert text(TimestampTopic()) in bench.broker.retained


def test_what_somebody_wrote_over_trust_is_repaired(bench: Bench) -> None:
    bench.order(PI_1)
    right = dict(bench.broker.retained)
    bench.broker.retained[text(TimestampTopic())] = b"an older timestamp"
    bench.broker.retained[text(MetadataTopic(SNAPSHOT, 99))] = b"nobody's snapshot"
    bench.now += 61.0
    bench.publisher.tick(bench.now)
    bench.broker.answer(bench.publisher, bench.now)
    assert bench.broker.retained == right


def test_an_order_is_renewed_at_half_of_its_life_under_its_deployment_id(bench: Bench) -> None:
    bench.order(PI_1)
    bench.follow(PI_1)
    first = bench.order_for()
    bench.now += 44 * DAY_S
    bench.publish()
    assert bench.order_for() == first
    bench.now += 2 * DAY_S
    bench.publish()
    second = bench.order_for()
    assert second.generation == first.generation + 1
    assert second.aliases == first.aliases
    assert second.expires - second.issued == 90 * DAY_S
    assert second.issued == int(bench.now)


def test_an_order_for_a_device_that_was_enrolled_again_is_for_the_new_epoch(bench: Bench) -> None:
    bench.order(PI_1)
    bench.follow(PI_1)
    with bench.store.transaction() as tx:
        devices.save_device(tx, replace(device_of(tx, PI_1), epoch=2))
    bench.publish()
    order = bench.order_for()
    assert (order.epoch, order.generation) == (2, 2)


def test_a_fleet_is_not_renewed_all_at_once(tmp_path: Path) -> None:
    members = [a_device_id(f"pi-{number}") for number in range(MOST_RENEWED + 20)]
    bench = Bench(tmp_path, *members)
    bench.order(*members)
    bench.now += 46 * DAY_S
    bench.sent()
    bench.publish()
    assert bench.sent().count("DesiredTopic") == MOST_RENEWED
    bench.publish()
    assert bench.sent().count("DesiredTopic") == 20


def test_who_trusts_an_older_root_is_told_those_since(bench: Bench) -> None:
    bench.order(PI_1, PI_2)
    for device in (PI_1, PI_2):
        bench.follow(device)
    bench.bring(a_root(2).data)
    assert "root/2" in bench.pieces(PI_1)
    bench.follow(PI_1, root=2, seq=2)
    bench.sent()
    bench.seal()
    bench.publish()
    assert bench.sent().count("DesiredTopic") == 1


def test_the_next_director_signs_the_same_orders_again(bench: Bench) -> None:
    bench.order(PI_1)
    bench.follow(PI_1)
    before = bench.order_for()
    bench.bring(a_root(2, holders=the_holders(director=NEXT_DIRECTOR)).data)
    message = bench.broker.retained[text(DesiredTopic(PI_1))]
    assert order_in(message, NEXT_DIRECTOR) == before
    with pytest.raises(NotSignedByTrusted):
        order_in(message, DIRECTOR_KEY)


def test_advice_follows_as_long_as_a_device_fetches(bench: Bench) -> None:
    sources = ["https://one.example/blobs/"]

    def advise(_: Transaction, __: frozenset[DeviceId]) -> Advise:
        return lambda _device, _bundles: Beside(sources=tuple(sources))

    orders = Orders(bench.store, bench.trust, lifetime_s=LIFETIMES.order_s, advise=advise)
    bench.fleet = Fleet(bench.store, bench.publisher, orders)
    bench.order(PI_1, PI_2)
    bench.follow(PI_1)
    with bench.store.transaction() as tx:
        journey = devices.get_journey(tx, a_wanted(f"v1:{PI_2}").deployment)
        assert journey is not None
        devices.save_journey(tx, replace(journey, phase=Phase.PROBATION))
    bench.follow(PI_2)
    packets = [bench.told(device).packet for device in (PI_1, PI_2)]
    sources.append("https://two.example/blobs/")
    bench.publish()
    assert bench.told(PI_1).sources == tuple(sources)
    assert bench.told(PI_2).sources == tuple(sources[:1])
    assert [bench.told(device).packet for device in (PI_1, PI_2)] == packets


def order_many(bench: Bench, count: int) -> None:
    """Add devices that were all ordered the bundle, and have all followed."""
    members = [a_device_id(f"pi-{number}") for number in range(10, 10 + count)]
    wanted = {an_alias(): a_wanted(bundle=bench.bundle.digest)}
    profile = a_profile().name
    added = (
        Device(id=device, profile=profile, registered_at=0.0, generation=1, root=1)
        for device in members
    )
    ordered = (Desired(device=device, generation=1, aliases=wanted) for device in members)
    with bench.store.transaction() as tx:
        tx.execute(insert(DeviceRow), [columns(record) for record in added])
        tx.execute(insert(DesiredRow), [columns(record) for record in ordered])


def test_one_new_bundle_is_no_news_to_ten_thousand_devices(bench: Bench) -> None:
    order_many(bench, 10_000)
    bench.publish()
    assert bench.sent().count("DesiredTopic") == 10_000
    bench.seal()
    bench.publish()
    assert Counter(bench.sent()) == {"MetadataTopic": 2, "TimestampTopic": 1}


def signatures_noted(bench: Bench) -> list[dict[str, str]]:
    """Return what the audit log tells of orders, the oldest first."""
    with bench.store.reading() as tx:
        bodies = list_entries(tx)
    verify(bodies)
    entries = [codec.decode(Entry, body.encode()) for body in bodies]
    return [entry.facts for entry in entries if "order_of" in entry.facts]


def test_the_audit_log_tells_each_order_that_the_director_signs_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.order(PI_1, PI_2)
    bench.restart()
    first, second = signatures_noted(bench)
    signed = codec.decode(Envelope, bytes(bench.told(PI_1).order)).signed
    assert {first["order_of"], second["order_of"]} == {PI_1, PI_2}
    told = next(facts for facts in (first, second) if facts["order_of"] == PI_1)
    assert told["digest"] == digest_of(bytes(signed)) and told["generation"] == "1"
    assert told["keys"] == key_id(DIRECTOR_KEY.public_key())
