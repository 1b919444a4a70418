"""Threats to what a device installs: orders that targets, time or the operator do not bear out.

A director may be compromised, a broker may drop or replay: the device rejects what is not
vouched for, with a reason of its own, and serves on what it had.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders import A_TIME, a_bundle_of, a_profile, a_wanted, an_alias, an_order
from tests.threats.devices import PROBATION_S, PROFILE, Broker, Device, a_device
from tests.trusted import ONLINE, a_listing, a_repository, desired_of, with_min_release
from wherry import codec
from wherry.bundle import Bundle
from wherry.messages import Desired, Order
from wherry.names import AliasName, Digest, ProfileName, VersionName
from wherry.reasons import Reason, Status
from wherry.trust.repository import Repository, release, resign, with_bundles
from wherry_agent.core.acceptance import RETRY_S, DesiredCame, TimestampCame

DAY_S = 86_400.0
DEFAULT, DETECTOR = an_alias(), an_alias("detector")


def a_version(name: str) -> Bundle:
    return a_bundle_of(name.encode() * 700, version=VersionName(name), profile=PROFILE)


V1, V2, V3 = a_version("v1"), a_version("v2"), a_version("v3")
REPOSITORY = a_repository([V1, V2])


def an_order_for(
    generation: int,
    bundles: dict[AliasName, Digest],
    *,
    revoked: tuple[Digest, ...] = (),
    now: float = A_TIME,
) -> Order:
    aliases = {
        alias: a_wanted(f"d-{generation}-{alias}", bundle=bundle, probation_s=PROBATION_S)
        for alias, bundle in bundles.items()
    }
    issued = int(now)
    return an_order(
        generation=generation,
        aliases=aliases,
        revoked=revoked,
        issued=issued,
        expires=issued + 90 * 86_400,
    )


def desired(repository: Repository, order: Order) -> DesiredCame:
    return DesiredCame(desired_of(repository, order))


def stamp(repository: Repository) -> TimestampCame:
    return TimestampCame(repository.timestamp.data)


def install(device: Device, repository: Repository, bundle: Bundle, generation: int) -> None:
    """Have the device confirm a bundle."""
    device.broker.retain(repository, bundle)
    order = an_order_for(generation, {DEFAULT: bundle.digest}, now=device.clock)
    device.hear(stamp(repository), desired(repository, order))
    device.wait(PROBATION_S)
    assert device.serving[DEFAULT] == bundle.digest


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    """Return a device that serves `V2`, which was its second order, with `V1` to go back to."""
    with a_device(tmp_path, REPOSITORY, Broker()) as device:
        install(device, REPOSITORY, V1, 1)
        install(device, REPOSITORY, V2, 2)
        device.fetched.clear()
        yield device


def rejects(
    device: Device,
    repository: Repository,
    bundle: Bundle,
    reason: Reason,
    *,
    alias: AliasName = DEFAULT,
    revoked: tuple[Digest, ...] = (),
) -> None:
    """Check that the bundle is rejected for the reason, which is told once, and changes nothing.

    The order itself is followed: it is the director's word.
    """
    device.broker.retain(repository, bundle)
    before = device.keeps()
    wanted = {DEFAULT: V2.digest, alias: bundle.digest}
    for generation in (3, 4):
        order = an_order_for(3, wanted, revoked=revoked)  # Renewed: the same deployment ids.
        changed = {"generation": generation}
        device.hear(stamp(repository), desired(repository, renewed(order, generation)))
        device.wait(PROBATION_S)
        assert device.keeps() == {**before, **changed}
    (told,) = [event for event in device.told(f"d-3-{alias}") if event.deployment]
    assert told.deployment is not None
    assert (told.deployment.status, told.deployment.reason) == (Status.REJECTED, reason)
    assert told.deployment.detail
    assert (device.fetched, device.refused) == ([], [])


def renewed(order: Order, generation: int) -> Order:
    return an_order(
        generation=generation,
        aliases=order.aliases,
        revoked=order.revoked,
        issued=order.issued,
        expires=order.expires,
    )


# What a compromised director may wish for in vain


def test_an_unsigned_bundle_from_a_compromised_director_is_rejected(device: Device) -> None:
    rejects(device, REPOSITORY, V3, Reason.NOT_IN_TARGETS)


def test_a_bundle_below_min_release_is_rejected(device: Device) -> None:
    raised = with_min_release(REPOSITORY, {DEFAULT: 2})
    rejects(device, raised, V1, Reason.BELOW_MIN_RELEASE)


def test_a_revoked_bundle_is_rejected(device: Device) -> None:
    rejects(device, REPOSITORY, V1, Reason.REVOKED, revoked=(V1.digest,))


def test_a_bundle_for_another_platform_is_rejected(device: Device) -> None:
    other = a_bundle_of(b"jetson" * 700, profile=a_profile(name=ProfileName("jetson")))
    rejects(device, a_repository([V1, V2, other]), other, Reason.UNSUITABLE_PROFILE)


def test_a_bundle_under_another_alias_is_rejected(device: Device) -> None:
    rejects(device, REPOSITORY, V1, Reason.WRONG_ALIAS, alias=DETECTOR)


def test_a_bundle_without_what_it_needs_is_rejected(device: Device) -> None:
    listed = with_bundles(REPOSITORY, {V3.digest: a_listing(V3)}, ONLINE, A_TIME)
    needing = release(listed, DEFAULT, [V3.digest], ONLINE, A_TIME, needs={DETECTOR: 1})
    rejects(device, needing, V3, Reason.MISSING_DEPENDENCY)


def test_an_altered_manifest_is_rejected(device: Device) -> None:
    listed = a_repository([V1, V2, V3])
    device.broker.retain(listed, V3)
    evil = V3.envelope.replace(b'"version":"v3"', b'"version":"v4"')
    assert evil != V3.envelope
    device.broker.manifests[V3.digest] = evil
    before = device.keeps()
    order = an_order_for(3, {DEFAULT: V3.digest})
    device.hear(stamp(listed), desired(listed, order))
    outcome = device.outcome(DEFAULT)
    assert outcome is not None
    assert (outcome.status, outcome.reason) == (Status.REJECTED, Reason.WRONG_MANIFEST)
    assert device.keeps() == {**before, "generation": 3}
    assert device.fetched == []


# Orders again


def test_the_same_generation_again_is_silent_also_after_a_kill(device: Device) -> None:
    again = desired(REPOSITORY, an_order_for(2, {DEFAULT: V2.digest}, now=device.clock))
    first = desired(REPOSITORY, order := an_order_for(3, {DEFAULT: V2.digest}))
    device.hear(first)
    before, events = device.keeps(), len(device.events())
    for _ in range(2):
        device.hear(first)
        device.kill()
        device.start()
        device.connect()
    assert (device.keeps(), len(device.events())) == (before, events)
    assert device.refused == []
    device.hear(again)
    assert device.refused == [Reason.STALE_ORDER]
    device.hear(desired(REPOSITORY, renewed(an_order_for(9, {}), order.generation)))
    assert device.refused == [Reason.STALE_ORDER, Reason.ALTERED_ORDER]
    assert device.keeps() == before


def test_a_revert_on_order_needs_no_offline_key_and_fetches_nothing(device: Device) -> None:
    targets = device.memory.acceptance.trust.targets
    back = an_order_for(3, {DEFAULT: V1.digest})
    device.hear(desired(REPOSITORY, back))
    device.wait(PROBATION_S)
    assert device.serving[DEFAULT] == V1.digest
    outcome = device.outcome(DEFAULT)
    assert outcome is not None
    assert (outcome.deployment, outcome.status) == ("d-3-default", Status.SUCCEEDED)
    assert device.memory.acceptance.trust.targets == targets
    assert (device.fetched, device.refused) == ([], [])


def test_with_active_and_previous_revoked_the_device_serves_on_degraded_and_waits(
    device: Device,
) -> None:
    both = (V1.digest, V2.digest)
    device.hear(desired(REPOSITORY, an_order_for(3, {DEFAULT: V1.digest}, revoked=both)))
    assert device.serving[DEFAULT] == V2.digest
    assert device.degraded() == [Reason.ALL_REVOKED]
    device.kill()
    device.start()
    device.connect()
    assert (device.serving[DEFAULT], device.degraded()) == (V2.digest, [Reason.ALL_REVOKED])
    newer = a_repository([V1, V2, V3])
    device.broker.retain(newer, V3)
    order = an_order_for(4, {DEFAULT: V3.digest}, revoked=both)
    device.hear(stamp(newer), desired(newer, order))
    device.wait(PROBATION_S)
    assert (device.serving[DEFAULT], device.degraded()) == (V3.digest, [])


def test_a_revoked_bundle_that_serves_gives_way_although_its_own_order_wants_it(
    device: Device,
) -> None:
    order = an_order_for(2, {DEFAULT: V2.digest}, revoked=(V2.digest,))
    device.hear(desired(REPOSITORY, renewed(order, 3)))
    assert (device.serving[DEFAULT], device.degraded()) == (V1.digest, [])


# What does not come, or comes late


def test_a_dropped_request_leaves_the_device_serving_and_is_asked_again(device: Device) -> None:
    newer = a_repository([V1, V2, V3])
    device.broker.retain(newer, V3)
    missing = f"snapshot/{newer.snapshot.signed.version}"
    device.broker.drops.add(missing)
    bare = codec.decode(Desired, desired_of(newer, an_order_for(3, {DEFAULT: V3.digest})))
    order = DesiredCame(codec.encode(Desired(order=bare.order)))
    before = device.keeps()
    for _ in range(2):
        device.connect()
        device.hear(stamp(newer), order)
        assert missing in device.asks()
        assert device.keeps() == before
    device.broker.drops.clear()
    device.connect()
    device.hear(order)
    device.wait(PROBATION_S)
    assert device.serving[DEFAULT] == V3.digest
    assert device.refused == []


def test_a_device_that_was_off_for_forty_days_follows_again(device: Device) -> None:
    device.kill()
    device.clock += 40 * DAY_S
    device.start()
    assert device.serving[DEFAULT] == V2.digest
    today = resign(resign(REPOSITORY, ONLINE, device.clock), ONLINE, device.clock)
    device.broker.retain(today, V1)
    device.connect()
    back = an_order_for(3, {DEFAULT: V1.digest}, now=device.clock)
    device.hear(stamp(today), desired(today, back))
    device.wait(PROBATION_S)
    assert device.serving[DEFAULT] == V1.digest
    assert device.refused == []


def test_with_the_controller_down_for_ten_days_the_device_serves_on(device: Device) -> None:
    before = device.keeps()
    device.wait(10 * DAY_S)
    device.kill()
    device.start()
    device.connect()
    device.hear(stamp(REPOSITORY))
    late = desired(REPOSITORY, an_order_for(3, {DEFAULT: V1.digest}, now=A_TIME + DAY_S))
    device.hear(late, late)
    device.wait(RETRY_S)
    assert device.keeps() == before
    assert device.refused == [Reason.EXPIRED_TIMESTAMP]
    today = resign(REPOSITORY, ONLINE, device.clock)
    device.broker.retain(today)
    device.hear(stamp(today))
    device.wait(PROBATION_S)
    assert device.serving[DEFAULT] == V1.digest
