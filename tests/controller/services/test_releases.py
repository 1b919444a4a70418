"""What creating a rollout makes of its version: a release, signed here or waited for."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.builders import an_alias
from tests.controller.services.test_rollouts import PI_1, Bench, a_wish
from tests.controller.trusts import target_of
from tests.trusted import BUNDLE_KEY
from wherry.bundle import Bundle
from wherry.names import AliasName
from wherry.topics import TimestampTopic, text
from wherry.trust.documents import add_signature
from wherry_controller.core.rollout import NotNow, RolloutStatus
from wherry_controller.services.fleet import InARollout
from wherry_controller.services.releases import NeedsNothing

DETECTOR = an_alias("detector")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def apart(tmp_path: Path) -> Bench:
    """Return a controller whose bundle key is on another machine."""
    return Bench(tmp_path, bundle_key=None)


def released(bench: Bench, bundle: Bundle) -> dict[AliasName, int] | None:
    """Return the releases that are published of a bundle; None where it is no target."""
    target = target_of(bench.store, bench.trust, bundle.digest)
    return None if target is None else target.releases


def sign_what_waits(bench: Bench) -> None:
    """Do what an operator does on the machine of the bundle key."""
    with bench.store.transaction() as tx:
        files = [add_signature(one.data, BUNDLE_KEY) for one in bench.trust.waiting(tx)]
        bench.trust.publish(tx, files, bench.now)


def test_a_rollout_makes_its_version_the_next_release_of_the_alias(bench: Bench) -> None:
    first, second = bench.build("v1"), bench.build("v2")
    bench.create("v1")
    bench.rollouts.cancel(a_wish("v1").name, bench.now)
    bench.create("v2")
    assert [released(bench, one) for one in (first, second)] == [{an_alias(): 1}, {an_alias(): 2}]


def test_a_version_that_is_rolled_out_again_keeps_its_release(bench: Bench) -> None:
    bundle = bench.release("v1")
    bench.release("v2")
    again = replace(a_wish("v1"), name=a_wish("v1-again").name)
    bench.rollouts.create(again, bench.now)
    assert released(bench, bundle) == {an_alias(): 1}


def test_a_release_says_which_releases_of_other_aliases_it_needs(bench: Bench) -> None:
    bundle = bench.build("v1")
    bench.build("v2")
    bench.rollouts.create(replace(a_wish("v2"), alias=DETECTOR), bench.now)
    bench.rollouts.cancel(a_wish("v2").name, bench.now)
    bench.rollouts.create(replace(a_wish("v1"), needs={DETECTOR: 1}), bench.now)
    target = target_of(bench.store, bench.trust, bundle.digest)
    assert target is not None and target.needs == {DETECTOR: 1}


def test_a_release_cannot_need_what_is_no_release(bench: Bench) -> None:
    bundle = bench.build("v1")
    with pytest.raises(NeedsNothing, match="no release 3 of 'detector', whose newest is 0"):
        bench.rollouts.create(replace(a_wish("v1"), needs={DETECTOR: 3}), bench.now)
    assert released(bench, bundle) is None


def test_a_rollout_that_is_refused_releases_nothing(bench: Bench) -> None:
    bundle = bench.build("v1")
    bench.create("v1")
    other = bench.build("v2")
    with pytest.raises(InARollout):
        bench.create("v2")
    assert released(bench, other) is None
    assert released(bench, bundle) == {an_alias(): 1}


def test_a_rollout_waits_for_the_bundle_key_and_starts_by_itself(apart: Bench) -> None:
    bundle = apart.build("v1")
    apart.start()
    state = apart.state()
    assert state.status is RolloutStatus.SCHEDULED
    assert "wherry keys sign" in state.why
    assert apart.order_for(PI_1) is None
    apart.tick(60.0)
    assert apart.state().status is RolloutStatus.SCHEDULED
    sign_what_waits(apart)
    apart.tick(60.0)
    assert (apart.state().status, apart.state().why) == (RolloutStatus.RUNNING, "")
    assert apart.bundle_for(PI_1) == bundle.digest


def test_a_rollout_that_waits_can_be_canceled_and_not_be_started_twice(apart: Bench) -> None:
    apart.build("v1")
    apart.start()
    with pytest.raises(NotNow):
        apart.rollouts.start(a_wish("v1").name, apart.now)
    apart.rollouts.cancel(a_wish("v1").name, apart.now)
    sign_what_waits(apart)
    apart.tick(60.0)
    assert apart.state().status is RolloutStatus.CANCELED
    assert apart.order_for(PI_1) is None


def test_the_timestamp_of_a_release_is_retained_when_its_rollout_starts(bench: Bench) -> None:
    bench.build("v1")
    bench.start()
    with bench.store.reading() as tx:
        published = bench.trust.repository(tx)
    assert bench.broker.retained[text(TimestampTopic())] == published.timestamp.data
