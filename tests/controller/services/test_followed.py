"""What the controller publishes, followed as a device does: by the topics and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.builders import A_TIME, a_profile, an_alias
from tests.controller.services.test_orders import PI_1, PI_2, Bench
from tests.trusted import a_root
from wherry.names import DeviceId
from wherry.topics import TimestampTopic, text
from wherry.trust import device, keeping, packet
from wherry.trust.keeping import Followed, Lacking, Offer, Outcome, Repeated, Trust
from wherry.trust.making import DAY_S
from wherry.trust.target import Target


@dataclass
class Follower:
    """A device that was given the first root; it reads what the broker retains."""

    bench: Bench
    name: DeviceId = PI_1
    trust: Trust = field(default_factory=lambda: device.begin(a_root().data, epoch=0))

    def follow(self, **more: bytes) -> Outcome:
        """Take the timestamp, then the order with the pieces beside it and `more`."""
        stamp = self.bench.broker.retained[text(TimestampTopic())]
        self.trust = device.take_timestamp(self.trust, stamp, self.bench.now)
        told = self.bench.told(self.name)
        pieces = {**packet.unpack(told.packet), **more}
        offer = Offer(bytes(told.order), pieces, self.name, a_profile().name)
        outcome = device.follow(self.trust, offer, self.bench.now)
        self.trust = outcome.trust
        return outcome

    def ask(self, names: tuple[str, ...]) -> dict[str, bytes]:
        """Read the trust topics of these pieces."""
        return {name: self.bench.broker.retained[f"wherry/v1/trust/{name}"] for name in names}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    with bench.store.transaction() as tx:
        bench.trust.release(tx, an_alias(), [bench.bundle.digest], now=A_TIME)
    bench.order(PI_1, PI_2)
    return bench


def test_a_device_follows_its_order_without_asking_for_anything(bench: Bench) -> None:
    outcome = Follower(bench).follow()
    assert isinstance(outcome, Followed)
    verdict = outcome.verdicts[an_alias()]
    assert isinstance(verdict, Target)
    assert verdict.releases == {an_alias(): 1}


def test_a_device_that_looks_again_finds_nothing_new(bench: Bench) -> None:
    follower = Follower(bench)
    follower.follow()
    bench.follow(PI_1)
    bench.seal()
    bench.publish()
    assert isinstance(follower.follow(), Repeated)


def test_a_device_whose_metadata_is_older_than_the_timestamp_asks_the_topics(bench: Bench) -> None:
    bench.follow(PI_1)  # With another store: this one has not seen the order.
    bench.seal()
    bench.publish()
    follower = Follower(bench)
    lacking = follower.follow()
    assert isinstance(lacking, Lacking)
    assert isinstance(follower.follow(**follower.ask(lacking.names)), Followed)


def test_a_device_follows_a_renewed_order_and_renewed_metadata(bench: Bench) -> None:
    follower = Follower(bench)
    first = follower.follow()
    bench.follow(PI_1)
    bench.now += 46 * DAY_S
    with bench.store.transaction() as tx:
        assert bench.trust.resign(tx, bench.now)
    bench.publish()
    renewed = follower.follow()
    assert isinstance(first, Followed) and isinstance(renewed, Followed)
    assert renewed.order.generation == first.order.generation + 1
    assert renewed.order.aliases == first.order.aliases


def test_a_device_that_was_away_follows_to_the_newest_root(bench: Bench) -> None:
    follower = Follower(bench)
    bench.bring(a_root(2).data)
    bench.bring(a_root(3).data)
    assert isinstance(follower.follow(), Followed)
    assert keeping.report_of(follower.trust, bench.now).root == 3
