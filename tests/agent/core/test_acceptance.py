"""What a device takes for its orders and its trust, what it asks for, what it says of the rest."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from tests.builders import A_TIME, a_bundle_of, a_key, a_wanted, an_alias, an_order
from tests.trusted import (
    EVIL_KEY,
    ONLINE,
    ROOT_KEYS,
    a_listing,
    a_repository,
    desired_of,
    the_holders,
    with_next_root,
)
from wherry import codec
from wherry.bundle import Bundle
from wherry.messages import Desired, Order
from wherry.names import DeviceId, ProfileName, VersionName
from wherry.reasons import Reason
from wherry.trust import device
from wherry.trust.device import begin
from wherry.trust.keeping import Verifier, next_root
from wherry.trust.repository import OnlineKeys, Repository, pieces_for, with_bundles
from wherry.trust.target import Target
from wherry_agent.core.acceptance import (
    LARGEST_DESIRED_BYTES,
    RETRY_S,
    Accept,
    Acceptance,
    Advise,
    AskTrust,
    DesiredCame,
    DropTrust,
    Effects,
    Event,
    Joined,
    PieceCame,
    Refuse,
    Tick,
    TimestampCame,
    Vouched,
    step,
)

DAY = 86_400.0
MOST = 1 << 31
BUNDLE, NEXT = a_bundle_of(b"one" * 500), a_bundle_of(b"two" * 500, version=VersionName("v2"))
REPOSITORY = a_repository([BUNDLE])


def an_order_of(bundle: Bundle = BUNDLE, *, generation: int = 1, epoch: int = 1) -> Order:
    wanted = a_wanted(f"d-{generation}", bundle=bundle.digest)
    return an_order(generation=generation, epoch=epoch, aliases={an_alias(): wanted})


def at_rest(repository: Repository = REPOSITORY) -> Acceptance:
    """Return a device that was enrolled while `repository` was what it is."""
    trust = begin(repository.roots[0].data, epoch=1)
    return Acceptance(device=DeviceId("pi-1"), profile=ProfileName("x86-onnx-fp32"), trust=trust)


@dataclass
class Line:
    """A device and what the broker retains for it."""

    state: Acceptance = field(default_factory=at_rest)
    clock: float = A_TIME + 60.0
    effects: Effects = ()
    subscribed: set[str] = field(default_factory=set)
    verifier: Verifier = device

    def hear(self, event: Event) -> Effects:
        self.state, self.effects = step(self.state, event, self.clock, self.verifier)
        for effect in self.effects:
            if isinstance(effect, AskTrust):
                assert self.subscribed.isdisjoint(effect.names)
                self.subscribed |= set(effect.names)
            elif isinstance(effect, DropTrust):
                self.subscribed -= set(effect.names)
        assert self.subscribed == set(self.state.asked)
        return self.effects

    def timestamp(self, repository: Repository = REPOSITORY) -> Effects:
        return self.hear(TimestampCame(repository.timestamp.data))

    def desired(self, payload: bytes | None = None) -> Effects:
        return self.hear(DesiredCame(payload or desired_of(REPOSITORY, an_order_of())))

    def refused(self) -> list[Reason]:
        return [effect.reason for effect in self.effects if isinstance(effect, Refuse)]

    def accepted(self) -> list[Order]:
        return [effect.order for effect in self.effects if isinstance(effect, Accept)]


def following() -> Line:
    """Return a device that follows its first order."""
    line = Line()
    line.hear(Joined())
    line.timestamp()
    line.desired()
    assert line.accepted() == [an_order_of()]
    return line


def unpacked(repository: Repository, order: Order) -> bytes:
    """Return a desired state without any metadata."""
    desired = codec.decode(Desired, desired_of(repository, order))
    return codec.encode(Desired(order=desired.order))


def after_bundle(repository: Repository = REPOSITORY, now: float = A_TIME) -> Repository:
    return with_bundles(repository, {NEXT.digest: a_listing(NEXT)}, ONLINE, now)


def test_an_order_with_what_it_needs_is_accepted_with_the_targets_word_on_it() -> None:
    line = following()
    accept = next(effect for effect in line.effects if isinstance(effect, Accept))
    target = accept.verdicts[an_alias()]
    assert isinstance(target, Target)
    assert target.releases == {an_alias(): 1}
    assert line.state.trust.generation == 1


def test_the_same_order_again_is_silent_but_for_its_advice() -> None:
    line = following()
    before = line.state
    (advice,) = line.desired()
    assert isinstance(advice, Advise)
    assert line.state == before


def test_an_order_waits_for_the_timestamp_and_is_followed_when_it_comes() -> None:
    line = Line()
    line.hear(Joined())
    assert line.desired() == ()
    line.timestamp()
    assert line.accepted() == [an_order_of()]


def test_a_new_timestamp_alone_moves_trust_and_orders_nothing() -> None:
    line = following()
    effects = line.timestamp(after_bundle())
    assert effects == ()
    assert line.state.trust.timestamp == after_bundle().timestamp.data.decode()


def test_lacking_pieces_are_asked_for_dropped_when_they_came_and_then_it_is_followed() -> None:
    line = Line()
    line.hear(Joined())
    line.timestamp()
    line.desired(unpacked(REPOSITORY, an_order_of()))
    known = pieces_for(REPOSITORY, [BUNDLE.digest])
    for _ in range(3):
        (name,) = line.subscribed - {next_root(line.state.trust)}
        line.hear(PieceCame(name, known[name]))
        assert name not in line.subscribed
    assert line.accepted() == [an_order_of()]
    assert line.subscribed == {next_root(line.state.trust)}


def test_pieces_are_tried_once_all_that_were_lacking_came_and_each_is_taken_once() -> None:
    newer, line = after_bundle(), Line()
    wanted = {"default": BUNDLE, "other": NEXT}
    aliases = {
        an_alias(name): a_wanted(f"d-{name}", bundle=bundle.digest)
        for name, bundle in wanted.items()
    }
    order = an_order(aliases=aliases)
    bundles = [bundle.digest for bundle in wanted.values()]
    bins = pieces_for(newer, bundles, root_after=1, targets_after=1, snapshot_after=MOST)
    line.timestamp(newer)
    line.desired(unpacked(newer, order))
    for name, data in pieces_for(newer, [], root_after=1).items():
        line.hear(PieceCame(name, data))
    first, last = sorted(bins)
    assert {first, last} <= line.subscribed
    before = line.state.trust
    assert line.hear(PieceCame(first, bins[first])) == (DropTrust((first,)),)
    assert line.state.trust is before
    assert line.hear(PieceCame(first, b"{}")) == ()
    line.hear(PieceCame(last, bins[last]))
    assert line.accepted() == [order]


def test_a_piece_that_never_came_is_asked_for_at_the_next_connect() -> None:
    line = Line()
    line.hear(Joined())
    line.timestamp()
    line.desired(unpacked(REPOSITORY, an_order_of()))
    asked = set(line.subscribed)
    line.subscribed.clear()  # The connection broke, and with it went all subscriptions.
    line.hear(Joined())
    assert line.subscribed == asked


def test_a_piece_that_nobody_asked_for_is_left() -> None:
    line = following()
    before = line.state
    assert line.hear(PieceCame("snapshot/9", b"{}")) == ()
    assert line.state == before


def test_an_altered_piece_is_refused_once_and_asked_for_anew_after_a_while() -> None:
    line = Line()
    line.hear(Joined())
    line.timestamp()
    line.desired(unpacked(REPOSITORY, an_order_of()))
    name = f"snapshot/{REPOSITORY.snapshot.signed.version}"
    evil = REPOSITORY.snapshot.data.replace(b'"version":', b'"version" :', 1)
    line.hear(PieceCame(name, evil))
    assert line.refused() == [Reason.MIXED_METADATA]
    assert name not in line.subscribed
    line.hear(Tick(RETRY_S))
    assert name in line.subscribed
    line.hear(PieceCame(name, evil))
    assert line.refused() == []


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"no json", Reason.MALFORMED_PACKET),
        (b"x" * (LARGEST_DESIRED_BYTES + 1), Reason.OVERSIZED_PACKET),
        (desired_of(REPOSITORY, an_order_of(), key=EVIL_KEY), Reason.UNTRUSTED_SIGNATURE),
        (desired_of(REPOSITORY, an_order_of(epoch=2)), Reason.WRONG_EPOCH),
    ],
)
def test_what_is_refused_is_told_once_and_changes_no_trust(payload: bytes, reason: Reason) -> None:
    line = Line()
    line.hear(Joined())
    line.timestamp()
    trust = line.state.trust
    line.desired(payload)
    assert line.refused() == [reason]
    for event in (Joined(), DesiredCame(payload), Tick(RETRY_S), Tick(2 * RETRY_S)):
        if isinstance(event, Joined):
            line.subscribed.clear()
        line.hear(event)
        assert line.refused() == []
    assert line.state.trust == trust


def test_an_order_that_came_while_the_timestamp_was_expired_is_followed_with_the_next() -> None:
    line = Line()
    line.hear(Joined())
    line.timestamp()
    line.clock += 10 * DAY
    line.desired()
    assert line.refused() == [Reason.EXPIRED_TIMESTAMP]
    line.timestamp(after_bundle(now=line.clock))
    assert line.refused() == []
    name = f"snapshot/{after_bundle().snapshot.signed.version}"
    line.hear(PieceCame(name, after_bundle(now=line.clock).snapshot.data))
    assert line.accepted() == [an_order_of()]


def test_an_order_that_a_clock_ahead_held_up_is_followed_when_the_clock_is_set() -> None:
    line = Line()
    line.clock = A_TIME + 70 * 365 * DAY
    line.hear(Joined())
    line.timestamp()
    line.desired()
    assert line.accepted() == []
    line.clock = A_TIME + 60.0
    assert line.hear(Tick(RETRY_S - 1)) == ()
    line.hear(Tick(RETRY_S))
    assert line.accepted() == [an_order_of()]


def test_a_rotation_of_the_timestamps_key_is_followed_whichever_comes_first() -> None:
    key = a_key(120)
    keys = OnlineKeys(snapshot=ONLINE.snapshot, timestamp=key, bundle=ONLINE.bundle)
    rotated = with_next_root(REPOSITORY, holders=the_holders(timestamp=key), keys=keys)
    root = PieceCame("root/2", rotated.root.data)
    for first_root in (True, False):
        line = following()
        assert line.subscribed == {"root/2"}
        news: list[Event] = [root, TimestampCame(rotated.timestamp.data)]
        for event in news if first_root else reversed(news):
            line.hear(event)
        assert line.state.trust.timestamp == rotated.timestamp.data.decode()
        assert line.subscribed == {"root/3"}


def test_a_root_that_is_refused_leaves_the_next_one_asked_for() -> None:
    line = following()
    evil = with_next_root(REPOSITORY, signed_by=(EVIL_KEY, ROOT_KEYS[0]))
    trust = line.state.trust
    for _ in range(2):
        line.hear(PieceCame("root/2", evil.root.data))
    assert (line.state.trust, line.subscribed) == (trust, {"root/2"})
    good = with_next_root(REPOSITORY)
    line.hear(PieceCame("root/2", good.root.data))
    assert line.subscribed == {"root/3"}


def test_a_root_in_the_packet_is_kept_although_the_order_is_refused() -> None:
    rotated = with_next_root(REPOSITORY)
    line = following()
    line.desired(desired_of(rotated, an_order_of(generation=2, epoch=9)))
    assert line.refused() == [Reason.WRONG_EPOCH]
    assert line.state.trust.root == rotated.root.data.decode()
    assert line.state.trust.generation == 1


def test_a_signed_time_raises_the_floor_and_only_that() -> None:
    line = following()
    trust = line.state.trust
    assert line.hear(Vouched("certificate", A_TIME + DAY)) == ()
    assert line.state.trust.floors == {**trust.floors, "certificate": A_TIME + DAY}
