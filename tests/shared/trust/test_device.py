"""What a device keeps: it comes as far as the pieces reach, and never falls behind."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.builders import (
    A_TIME,
    a_bundle_of,
    a_device_id,
    a_digest,
    a_key,
    a_trial,
    a_wanted,
    an_alias,
    an_order,
)
from tests.laws import tried
from tests.trusted import (
    BUNDLE_KEY,
    ONLINE,
    TIMESTAMP_KEY,
    a_listing,
    a_repository,
    a_root,
    bundles_of,
    sign_order,
    the_holders,
    with_min_release,
    with_next_root,
)
from wherry import codec
from wherry.messages import Order, TrustReport
from wherry.names import Digest, ProfileName, VersionName
from wherry.reasons import Reason
from wherry.trust.device import begin, follow, take_roots, take_timestamp
from wherry.trust.documents import sign
from wherry.trust.keeping import (
    CERTIFICATE,
    Followed,
    Lacking,
    Offer,
    Outcome,
    Repeated,
    Trust,
    next_root,
    now_of,
    proved_by_certificates,
    raise_floor,
    report_of,
)
from wherry.trust.making import Signers
from wherry.trust.refusals import MetadataRefused, OrderRefused
from wherry.trust.repository import OnlineKeys, Repository, bin_of, pieces_for, with_bundles
from wherry.trust.target import Denied, Target

NOW = A_TIME + 60.0
BUNDLE = a_bundle_of(b"one" * 500)
NEXT = a_bundle_of(b"two" * 500, version=VersionName("v2"))
REPOSITORY = a_repository([BUNDLE])
NEWER = with_bundles(REPOSITORY, {NEXT.digest: a_listing(NEXT)}, ONLINE, A_TIME)


def order_of(generation: int = 1, **aliases: Digest) -> Order:
    wanted = {
        an_alias(alias): a_wanted(f"d-{generation}-{alias}", bundle=digest)
        for alias, digest in (aliases or {"default": BUNDLE.digest}).items()
    }
    return an_order(generation=generation, aliases=wanted)


def offer(order: Order, pieces: dict[str, bytes]) -> Offer:
    return Offer(sign_order(order), pieces, a_device_id(), ProfileName("x86-onnx-fp32"))


def offered(repository: Repository, order: Order) -> Offer:
    return offer(order, pieces_for(repository, bundles_of(order), root_after=1))


def enrolled(repository: Repository = REPOSITORY) -> Trust:
    trust = begin(repository.roots[0].data, epoch=1)
    return take_timestamp(trust, repository.timestamp.data, NOW)


def followed(outcome: Outcome) -> Followed:
    assert isinstance(outcome, Followed)
    return outcome


def following() -> Trust:
    return followed(follow(enrolled(), offered(REPOSITORY, order_of()), NOW)).trust


def lacks(outcome: Outcome) -> tuple[str, ...]:
    assert isinstance(outcome, Lacking)
    return outcome.names


def test_a_device_asks_for_one_piece_after_another_and_keeps_what_it_has() -> None:
    """The timestamp says which snapshot, that one which targets, and those which bin."""
    trust, order = begin(REPOSITORY.root.data, epoch=1), order_of()
    every = pieces_for(REPOSITORY, [BUNDLE.digest], root_after=1)
    asked = []
    outcome = follow(trust, offer(order, {}), NOW)
    while isinstance(outcome, Lacking):
        (name,) = outcome.names
        asked.append(name.partition("/")[0])
        trust, pieces = outcome.trust, {}
        if name == "timestamp":
            trust = take_timestamp(trust, REPOSITORY.timestamp.data, NOW)
        else:
            pieces = {name: every[name]}
        outcome = follow(trust, offer(order, pieces), NOW)
    assert asked == ["timestamp", "snapshot", "targets", bin_of(BUNDLE.digest)]
    assert isinstance(followed(outcome).verdicts[an_alias()], Target)


def test_what_is_stored_need_not_come_again() -> None:
    outcome = follow(following(), offer(order_of(2), {}), NOW)
    assert isinstance(followed(outcome).verdicts[an_alias()], Target)


def test_all_bins_that_an_order_needs_are_lacking_at_once() -> None:
    trust = enrolled(NEWER)
    pieces = pieces_for(NEWER, [], root_after=1)
    both = order_of(1, default=BUNDLE.digest, other=NEXT.digest)
    bins = {bin_of(BUNDLE.digest), bin_of(NEXT.digest)}
    outcome = follow(trust, offer(both, pieces), NOW)
    assert {name.partition("/")[0] for name in lacks(outcome)} == bins
    # One of them is kept while the other is on its way.
    some = pieces_for(NEWER, [BUNDLE.digest], root_after=1)
    outcome = follow(trust, offer(both, some), NOW)
    (left,) = lacks(outcome)
    assert left.startswith(bin_of(NEXT.digest))
    rest = {left: NEWER.bins[bin_of(NEXT.digest)].data}
    assert isinstance(follow(outcome.trust, offer(both, rest), NOW), Followed)


def test_an_order_under_a_snapshot_that_no_timestamp_named_yet_waits_for_it() -> None:
    """Judged by the old snapshot, its bundle would be in no targets."""
    order = order_of(2, default=NEXT.digest)
    outcome = follow(following(), offered(NEWER, order), NOW)
    assert lacks(outcome) == ("timestamp",)
    trust = take_timestamp(following(), NEWER.timestamp.data, NOW)
    assert isinstance(follow(trust, offered(NEWER, order), NOW), Followed)


def test_an_order_whose_metadata_was_withheld_is_not_judged_by_what_is_older() -> None:
    """A broker that keeps the timestamp and the packet back delays a bundle, and denies none."""
    seen = NEWER.snapshot.signed.version
    order = msgspec.structs.replace(order_of(2, default=NEXT.digest), snapshot=seen)
    assert lacks(follow(following(), offer(order, {}), NOW)) == ("timestamp",)
    trust = take_timestamp(following(), NEWER.timestamp.data, NOW)
    assert isinstance(follow(trust, offered(NEWER, order), NOW), Followed)


def test_a_bundle_whose_bin_nobody_made_is_in_no_targets() -> None:
    order = order_of(1, default=a_digest("nowhere"))
    verdict = followed(follow(enrolled(), offered(REPOSITORY, order), NOW)).verdicts[an_alias()]
    assert isinstance(verdict, Denied)
    assert verdict.reason is Reason.NOT_IN_TARGETS


def test_bundles_that_no_alias_names_may_be_for_a_trial() -> None:
    order = an_order(aliases={}, trials=(a_trial(bundle=BUNDLE.digest),))
    outcome = followed(follow(enrolled(), offered(REPOSITORY, order), NOW))
    (verdict,) = outcome.trials.values()
    assert isinstance(verdict, Denied)
    assert verdict.reason is Reason.NOT_FOR_MEASURING


def test_a_denied_bundle_leaves_the_rest_of_its_order_followed() -> None:
    order = order_of(2, default=BUNDLE.digest, other=BUNDLE.digest)
    outcome = followed(follow(following(), offered(REPOSITORY, order), NOW))
    assert isinstance(outcome.verdicts[an_alias()], Target)
    other = outcome.verdicts[an_alias("other")]
    assert isinstance(other, Denied)
    assert other.reason is Reason.WRONG_ALIAS
    assert outcome.trust.generation == 2


def test_an_operators_least_release_reaches_the_device_with_the_next_targets() -> None:
    raised = with_min_release(REPOSITORY, {an_alias(): 2})
    trust = take_timestamp(following(), raised.timestamp.data, NOW)
    outcome = followed(follow(trust, offered(raised, order_of(2)), NOW))
    denied = outcome.verdicts[an_alias()]
    assert isinstance(denied, Denied)
    assert denied.reason is Reason.BELOW_MIN_RELEASE


def test_only_the_bins_of_the_order_are_kept() -> None:
    assert set(following().bins) == {bin_of(BUNDLE.digest)}
    trust = take_timestamp(following(), NEWER.timestamp.data, NOW)
    newer = followed(follow(trust, offered(NEWER, order_of(2, default=NEXT.digest)), NOW))
    assert set(newer.trust.bins) == {bin_of(NEXT.digest)}


def test_the_same_order_again_is_repeated_even_when_it_is_expired_by_now() -> None:
    late = A_TIME + 400 * 86_400.0
    assert follow(following(), offered(REPOSITORY, order_of()), late) == Repeated(following())


def test_the_same_timestamp_again_changes_nothing() -> None:
    trust = following()
    assert take_timestamp(trust, REPOSITORY.timestamp.data, NOW) is trust


def test_roots_are_taken_one_after_another_and_gaps_are_lacking() -> None:
    third = with_next_root(with_next_root(REPOSITORY))
    roots = {f"root/{held.signed.version}": held.data for held in third.roots}
    trust = following()
    assert next_root(trust) == "root/2"
    assert report_of(take_roots(trust, roots), NOW).root == 3
    gap = {"root/3": roots["root/3"]}
    assert lacks(follow(trust, offer(order_of(2), gap), NOW)) == ("root/2",)
    far = {"root/9999999999": roots["root/3"]}
    assert len(lacks(follow(trust, offer(order_of(2), far), NOW))) == 16


def test_a_root_that_keeps_the_keys_keeps_what_they_signed() -> None:
    repository = with_next_root(REPOSITORY)
    trust = take_roots(following(), {"root/2": repository.root.data})
    assert trust == msgspec.structs.replace(following(), root=repository.root.data.decode())


def test_a_key_that_joins_a_role_leaves_what_the_others_signed() -> None:
    two = Signers((TIMESTAMP_KEY.public_key(), a_key(161).public_key()), 1)
    root = a_root(2, holders=replace(the_holders(), timestamp=two))
    assert take_roots(following(), {"root/2": root.data}).timestamp == following().timestamp


def test_signatures_that_are_too_few_under_a_new_root_count_no_more() -> None:
    """The key stayed, and the role needs a second one by now."""
    more = a_key(162)
    two = Signers((TIMESTAMP_KEY.public_key(), more.public_key()), 2)
    root = a_root(2, holders=replace(the_holders(), timestamp=two))
    trust = take_roots(following(), {"root/2": root.data})
    assert lacks(follow(trust, offer(order_of(2), {}), NOW)) == ("timestamp",)
    both = sign(REPOSITORY.timestamp.signed, TIMESTAMP_KEY, more)
    trust = take_timestamp(trust, both.data, NOW)
    assert isinstance(follow(trust, offer(order_of(2), {}), NOW), Followed)


@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_stored_metadata_whose_signatures_are_too_few_by_now_is_asked_for_anew(role: str) -> None:
    more, held = a_key(163), the_holders()
    two = Signers((getattr(held, role).keys[0], more.public_key()), 2)
    root = a_root(2, holders=replace(held, **{role: two}))
    outcome = follow(following(), offer(order_of(2), {"root/2": root.data}), NOW)
    (lacking,) = lacks(outcome)
    assert lacking.startswith(f"{role}/")


def test_rotated_online_keys_are_followed_from_one_desired_state() -> None:
    keys = OnlineKeys(snapshot=a_key(164), timestamp=a_key(165), bundle=BUNDLE_KEY)
    holders = the_holders(snapshot=a_key(164), timestamp=a_key(165))
    repository = with_next_root(REPOSITORY, holders=holders, keys=keys)
    outcome = follow(following(), offered(repository, order_of(2)), NOW)
    assert lacks(outcome) == ("timestamp",)
    assert (outcome.trust.timestamp, outcome.trust.snapshot) == ("", "")
    assert "timestamp" not in outcome.trust.floors
    trust = take_timestamp(outcome.trust, repository.timestamp.data, NOW)
    assert isinstance(follow(trust, offered(repository, order_of(2)), NOW), Followed)


def test_with_either_online_key_both_of_their_roles_begin_anew() -> None:
    for holders in (the_holders(timestamp=a_key(166)), the_holders(snapshot=a_key(167))):
        trust = take_roots(following(), {"root/2": a_root(2, holders=holders).data})
        assert (trust.timestamp, trust.snapshot) == ("", "")
        assert trust.targets == following().targets


def history() -> tuple[Repository, ...]:
    """Return what a repository was, one state after another."""
    listed = [REPOSITORY, NEWER]
    listed.append(with_min_release(listed[-1], {an_alias(): 1}))
    listed.append(with_next_root(listed[-1]))
    return tuple(listed)


HISTORY = history()
OFFERS = st.tuples(st.sampled_from(HISTORY), st.integers(1, 4), st.sampled_from([0.0, NOW]))


@settings(tried, max_examples=20)
@given(st.lists(OFFERS, max_size=8))
@example([(HISTORY[3], 4, NOW), (HISTORY[0], 1, NOW), (HISTORY[1], 2, 0.0)])
def test_whatever_comes_in_whatever_order_a_device_never_falls_behind(
    offers: list[tuple[Repository, int, float]],
) -> None:
    trust = begin(REPOSITORY.root.data, epoch=1)
    for repository, generation, clock in offers:
        before = trust
        with suppress(MetadataRefused):
            trust = take_timestamp(trust, repository.timestamp.data, clock)
        with suppress(MetadataRefused, OrderRefused):
            trust = follow(trust, offered(repository, order_of(generation)), clock).trust
        was, is_now = report_of(before, clock), report_of(trust, clock)
        for name in ("root", "timestamp", "snapshot", "targets", "now_s"):
            assert getattr(is_now, name) >= getattr(was, name), name
        assert trust.generation >= before.generation


def test_time_is_the_clock_or_the_highest_floor() -> None:
    trust = begin(REPOSITORY.root.data, epoch=1)
    assert now_of(trust, 5.0) == 5.0
    assert now_of(trust, -5.0) == 0.0
    trust = raise_floor(raise_floor(trust, "certificate", 100.0), "order", 50.0)
    assert (now_of(trust, 5.0), now_of(trust, 500.0)) == (100.0, 500.0)
    assert raise_floor(trust, "certificate", 99.0) is trust


def test_no_key_that_is_online_decides_which_certificates_are_expired() -> None:
    trust = raise_floor(following(), "timestamp", 2 * A_TIME)
    assert proved_by_certificates(trust) == 0.0
    assert proved_by_certificates(raise_floor(trust, CERTIFICATE, 100.0)) == 100.0


def test_what_is_accepted_raises_the_floor_under_its_source() -> None:
    assert following().floors == {"timestamp": A_TIME, "order": A_TIME}


def test_a_device_reports_how_far_it_has_come() -> None:
    nothing = begin(REPOSITORY.root.data, epoch=3)
    assert report_of(nothing, 7.0) == TrustReport(epoch=3, root=1, now_s=7.0)
    assert report_of(following(), 0.0) == TrustReport(
        epoch=1,
        root=1,
        timestamp=REPOSITORY.timestamp.signed.version,
        snapshot=REPOSITORY.snapshot.signed.version,
        targets=1,
        now_s=A_TIME,
    )


def test_trust_is_kept_as_a_document() -> None:
    trust = following()
    assert codec.decode(Trust, codec.encode(trust)) == trust
    assert b'"format":"wherry.trust/1"' in codec.encode(trust)


def test_nobody_begins_with_a_root_that_does_not_sign_itself() -> None:
    with pytest.raises(MetadataRefused):
        begin(a_root(signed_by=()).data, epoch=1)
