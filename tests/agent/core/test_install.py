"""Laws of the install machine, and the deep stories that random ones seldom reach."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.builders import a_deployment_id, a_digest
from tests.laws import tried
from wherry.messages import Deployment, Shadow, Slots, Split, Wanted
from wherry.names import Digest
from wherry.reasons import Phase, Reason, Status
from wherry_agent.core import changes
from wherry_agent.core.install import (
    KEPT_BUNDLES,
    MAX_RESTARTS,
    Compared,
    Denied,
    Effect,
    Effects,
    Event,
    Fetch,
    Fetched,
    Fetching,
    Idle,
    Keep,
    Load,
    Loaded,
    Loading,
    Ordered,
    Probation,
    Refused,
    Report,
    Restarted,
    Retire,
    Serve,
    Shadowing,
    Share,
    Shown,
    Sickened,
    State,
    Tick,
    Unservable,
    Withdrawn,
    deployment_of,
    phase_of,
    serves_revoked,
    slots_of,
    step,
)

OLD, NEW, OTHER = a_digest("old"), a_digest("new"), a_digest("other")
PROBATION_S, DEADLINE_S = 5.0, 50.0
SHADOW = Shadow(for_s=20.0, min_requests=100, deadline_s=40.0)
SPLIT = Split(share=0.2)
SHOWN = Shown(
    runtime="onnxruntime", runtime_version="1.31.1", outputs=a_digest("outputs"), memory_bytes=1
)


def a_wish(
    bundle: Digest = NEW,
    *,
    deployment: str = "",
    shadow: Shadow | None = None,
    split: Split | None = None,
) -> Wanted:
    return Wanted(
        deployment=a_deployment_id(deployment or f"to-{bundle[:8]}"),
        bundle=bundle,
        probation_s=PROBATION_S,
        deadline_s=DEADLINE_S,
        shadow=shadow,
        split=split,
    )


def an_order_for(
    bundle: Digest = NEW,
    *,
    deployment: str = "",
    at_s: float = 0.0,
    revoked: tuple[Digest, ...] = (),
) -> Ordered:
    return Ordered(a_wish(bundle, deployment=deployment), at_s, frozenset(revoked))


ids = st.sampled_from([a_deployment_id(name) for name in "1234"])
digests = st.sampled_from([OLD, NEW, OTHER])
times = st.floats(0, 120)
wishes = st.builds(
    Wanted,
    deployment=ids,
    bundle=digests,
    probation_s=st.just(PROBATION_S),
    deadline_s=st.just(DEADLINE_S),
    shadow=st.none() | st.just(SHADOW),
    split=st.none() | st.just(SPLIT),
)
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(Ordered, wishes, times, st.frozensets(digests, max_size=2)),
    st.builds(Denied, wishes, st.just(Reason.REVOKED), revoked=st.frozensets(digests, max_size=2)),
    st.builds(Fetched, ids),
    st.builds(Refused, ids, st.just(Reason.UNSUITABLE_PROFILE)),
    st.builds(Loaded, ids, times, st.none() | st.just(SHOWN), st.booleans()),
    st.builds(Compared, ids, st.sampled_from([0, 99, 100])),
    st.builds(Sickened, ids, st.just(Reason.SLOW)),
    st.builds(Tick, times),
    st.builds(Unservable, digests),
    st.builds(Restarted, times),
    st.builds(Withdrawn, st.frozensets(digests, max_size=2)),
)
stories = st.lists(events, max_size=30)

ID_1 = a_deployment_id("1")
TO_PROBATION: list[Event] = [
    Ordered(a_wish(deployment="1"), 0.0),
    Fetched(ID_1),
    Loaded(ID_1, 10.0),
]
WAY_BACK: list[Event] = [
    *TO_PROBATION,
    Tick(15.0),
    an_order_for(OLD, revoked=(NEW,)),
    Restarted(20),
]
TO_SHADOWING: list[Event] = [
    Ordered(a_wish(deployment="1", shadow=SHADOW, split=SPLIT), 0.0),
    Fetched(ID_1),
    Loaded(ID_1, 10.0, SHOWN),
]
TO_SHARING: list[Event] = [*TO_SHADOWING, Compared(ID_1, 100), Tick(30.0)]
LOSS_ON_THE_WAY: list[Event] = [an_order_for(OTHER, revoked=(OLD,)), Unservable(OLD), Withdrawn()]


@dataclass(frozen=True)
class Turn:
    """One step of a story: the state and the bundle that served, before and after."""

    before: State
    event: Event
    after: State
    effects: Effects
    serving: Digest | None

    def told(self) -> list[Deployment]:
        return [effect.outcome for effect in self.effects if isinstance(effect, Report)]


def tell(story: list[Event], state: State | None = None) -> Iterator[Turn]:
    """Play a story on a device that serves `OLD`; a restart finds nothing serving."""
    state = state or Idle((OLD,))
    serving: Digest | None = OLD
    for event in story:
        serving = None if isinstance(event, Restarted) else serving
        before, (state, effects) = state, step(state, event)
        for effect in effects:
            serving = effect.bundle if isinstance(effect, Serve) else serving
            assert not isinstance(effect, Share) or serving == slots_of(state).active
        yield Turn(before, event, state, effects, serving)


def end_of(story: list[Event], state: State | None = None) -> Turn:
    return list(tell(story, state))[-1]


def has_ended(turn: Turn) -> bool:
    """Say whether the deployment that was in flight before the turn is no more."""
    if isinstance(turn.before, Idle):
        return False
    return isinstance(turn.after, Idle) or (
        turn.after.wanted.deployment != turn.before.wanted.deployment
    )


@tried
@given(stories)
@example(TO_PROBATION)
@example(WAY_BACK)
@example(LOSS_ON_THE_WAY)
@example([*TO_SHARING, Tick(35.0)])
@example([*TO_SHARING, Unservable(OLD)])
@example([*TO_SHADOWING, Unservable(OLD), Loaded(ID_1, 20.0)])
def test_what_serves_is_what_the_slots_say(story: list[Event]) -> None:
    for turn in tell(story):
        assert turn.serving == slots_of(turn.after).active


@tried
@given(stories)
@example([*TO_PROBATION, an_order_for(OLD)])
def test_every_deployment_that_ends_is_reported_once(story: list[Event]) -> None:
    for turn in tell(story):
        told = [outcome.deployment for outcome in turn.told()]
        assert len(told) == len(set(told))
        if not isinstance(turn.before, Idle):
            ended = has_ended(turn)
            assert told.count(turn.before.wanted.deployment) == (1 if ended else 0)
        if isinstance(turn.after, Idle) and turn.told():
            assert turn.after.settled == turn.told()[-1]
        assert all(outcome.status.is_final and outcome.reason for outcome in turn.told())


@tried
@given(stories)
@example([*TO_PROBATION, Tick(15.0)])
@example([*TO_PROBATION, Sickened(ID_1, Reason.SLOW)])
def test_a_settlement_serves_first_and_reaps_and_deletes_after(story: list[Event]) -> None:
    for turn in tell(story):
        kinds = [type(effect) for effect in turn.effects]
        if has_ended(turn):
            assert Retire in kinds and Keep in kinds
        if Serve in kinds and Retire in kinds:
            assert kinds.index(Serve) < kinds.index(Retire)
        if Retire in kinds and Keep in kinds:
            assert kinds.index(Retire) < kinds.index(Keep)
        for effect in turn.effects:
            if isinstance(effect, Keep):
                assert turn.serving is None or turn.serving in effect.bundles
                assert set(turn.after.confirmed) <= set(effect.bundles)


@tried
@given(stories)
@example([*TO_PROBATION, Withdrawn()])
@example([*TO_SHARING, Tick(35.0)])
def test_a_bundle_is_confirmed_by_its_whole_probation_only(story: list[Event]) -> None:
    for turn in tell(story):
        gained = set(turn.after.confirmed) - set(turn.before.confirmed)
        if gained:
            assert isinstance(turn.before, Probation) and isinstance(turn.event, Tick)
            assert gained == {turn.before.wanted.bundle}
            assert turn.event.at_s - turn.before.began_s >= PROBATION_S
        assert len(turn.after.confirmed) == len(set(turn.after.confirmed)) <= KEPT_BUNDLES


@tried
@given(stories)
@example(WAY_BACK)
@example([an_order_for(OTHER, revoked=(NEW,)), Withdrawn()])
def test_a_deployment_that_fails_falls_back_to_no_revoked_bundle(story: list[Event]) -> None:
    for turn in tell(story, Idle((OLD, OTHER))):
        if not has_ended(turn) or isinstance(turn.before, Idle):
            continue
        says = turn.event if isinstance(turn.event, Ordered | Denied | Withdrawn) else turn.before
        revoked = says.revoked
        if turn.told()[0].status is not Status.SUCCEEDED and set(turn.after.confirmed) - revoked:
            assert turn.after.confirmed[0] not in revoked


@tried
@given(stories)
def test_an_order_repeated_or_renewed_changes_nothing(story: list[Event]) -> None:
    for turn in tell(story):
        current = deployment_of(turn.after)
        if current is not None:
            renewed = Wanted(
                deployment=current.deployment, bundle=current.bundle, probation_s=1, deadline_s=1
            )
            again = Ordered(renewed, 999.0, turn.after.revoked)
            assert step(turn.after, again) == (turn.after, ())


@tried
@given(stories)
def test_late_news_changes_nothing(story: list[Event]) -> None:
    other = a_deployment_id("another")
    late: list[Event] = [
        Fetched(other),
        Refused(other, Reason.UNSUITABLE_PROFILE),
        Loaded(other, 1.0),
        Compared(other, 100),
        Sickened(other, Reason.SLOW),
    ]
    for turn in tell(story):
        for event in late:
            assert step(turn.after, event) == (turn.after, ())
        if isinstance(turn.after, Idle):
            assert step(turn.after, Tick(1e9)) == (turn.after, ())


@tried
@given(stories)
@example(WAY_BACK)
@example(TO_SHARING)
def test_a_state_survives_the_disk(story: list[Event]) -> None:
    for turn in tell(story):
        assert msgspec.json.decode(msgspec.json.encode(turn.after), type=State) == turn.after


def test_an_update_passes_through_its_phases() -> None:
    turns = list(tell([*TO_PROBATION, Tick(14.9), Tick(15.0)]))
    phases = [phase_of(turn.after) for turn in turns]
    assert phases == [Phase.FETCHING, Phase.LOADING, Phase.PROBATION, Phase.PROBATION, None]
    assert [turn.effects for turn in turns] == [
        (Fetch(a_wish(deployment="1")),),
        (Load(a_wish(deployment="1")),),
        (Serve(NEW),),
        (),
        (Retire(), Keep((NEW, OLD)), Report(turns[-1].told()[0])),
    ]
    assert turns[-1].told()[0].status is Status.SUCCEEDED


def test_a_bundle_is_not_confirmed_before_its_probation_ends() -> None:
    assert isinstance(end_of([*TO_PROBATION, Tick(14.99)]).after, Probation)
    assert end_of([*TO_PROBATION, Tick(15.0)]).after.confirmed == (NEW, OLD)


# Shadowing and splits


def test_a_candidate_is_compared_then_shares_and_then_serves_alone() -> None:
    turns = list(tell([*TO_SHARING, Tick(34.9), Tick(35.0)], Idle((OLD, OTHER))))
    wish = a_wish(deployment="1", shadow=SHADOW, split=SPLIT)
    done = turns[-1].told()[0]
    assert [turn.effects for turn in turns] == [
        (Fetch(wish),),
        (Load(wish, OLD),),
        (changes.Shadow(NEW, SHADOW),),
        (),
        (Share(NEW, SPLIT),),
        (),
        (Serve(NEW), Retire(), Keep((NEW, OLD)), Report(done)),
    ]
    assert [phase_of(turn.after) for turn in turns[2:]] == [
        *[Phase.SHADOWING] * 2,
        *[Phase.PROBATION] * 2,
        None,
    ]
    on_the_way = Slots(active=OLD, previous=OTHER, candidate=NEW)
    assert {slots_of(turn.after) for turn in turns[:-1]} == {on_the_way}
    assert (done.status, slots_of(turns[-1].after).active) == (Status.SUCCEEDED, NEW)


def test_what_it_showed_goes_with_it_to_the_end_of_probation() -> None:
    at_once: list[Event] = [*TO_PROBATION[:2], Loaded(ID_1, 10.0, SHOWN)]
    for story in (TO_SHARING, at_once):
        probation = end_of(story).after
        assert isinstance(probation, Probation) and probation.shown == SHOWN


@pytest.mark.parametrize(("compared", "at_s"), [(100, 29.9), (99, 30.0)])
def test_shadowing_ends_after_its_time_and_when_enough_was_compared(
    compared: int, at_s: float
) -> None:
    shadowing = end_of([*TO_SHADOWING, Compared(ID_1, compared), Tick(at_s)]).after
    assert isinstance(shadowing, Shadowing)
    tried = end_of([Compared(ID_1, 100), Tick(30.0)], shadowing).after
    assert isinstance(tried, Probation) and tried.began_s == 30.0


def test_shadowing_that_is_asked_too_little_times_out_and_says_how_much_was_compared() -> None:
    story = [*TO_SHADOWING, Compared(ID_1, 7)]
    assert end_of([*story, Tick(49.9)]).effects == ()
    turn = end_of([*story, Tick(50.0)])
    assert (turn.told()[0].status, turn.told()[0].reason) == (Status.TIMED_OUT, Reason.DEADLINE)
    assert turn.told()[0].detail == "7 of 100 requests were compared within 40 s"
    assert turn.effects[:3] == (Serve(OLD), Retire(), Keep((OLD,)))


def test_the_deadline_of_the_way_is_none_of_shadowing_that_has_seen_enough() -> None:
    long = msgspec.structs.replace(SHADOW, for_s=900.0)
    order = Ordered(a_wish(deployment="1", shadow=long), 0.0)
    story = [order, *TO_SHADOWING[1:], Compared(ID_1, 100), Tick(909.9)]
    assert isinstance(end_of(story).after, Shadowing)


def test_a_candidate_that_disagrees_fails_for_it_never_served() -> None:
    turn = end_of([*TO_SHADOWING, Sickened(ID_1, Reason.DISAGREES, "0.5")])
    assert (turn.told()[0].status, turn.told()[0].detail) == (Status.FAILED, "0.5")
    assert turn.serving == OLD


def test_a_candidate_that_shared_is_called_reverted() -> None:
    turn = end_of([*TO_SHARING, Sickened(ID_1, Reason.SLOW)])
    assert turn.told()[0].status is Status.REVERTED
    assert turn.effects[:3] == (Serve(OLD), Retire(), Keep((OLD,)))


@pytest.mark.parametrize(
    "serves", [Idle(), Idle((OLD,), None, frozenset({OLD})), Idle((OTHER,), None, frozenset())]
)
def test_where_no_sound_incumbent_serves_there_is_nothing_to_compare_with(serves: Idle) -> None:
    revoked = frozenset({OLD, OTHER})
    order = Ordered(a_wish(deployment="1", shadow=SHADOW, split=SPLIT), 0.0, revoked)
    *_, loading, tried = tell([order, *TO_SHADOWING[1:]], serves)
    assert loading.effects == (Load(order.wanted),)
    assert tried.effects == (Serve(NEW),)


def test_a_comparison_for_which_there_is_no_room_fails_and_a_plain_swap_goes_on() -> None:
    alone = Loaded(ID_1, 10.0, alone=True)
    turn = end_of([*TO_SHADOWING[:2], alone])
    assert (turn.told()[0].status, turn.told()[0].reason) == (Status.FAILED, Reason.OVER_BUDGET)
    assert turn.effects[0] == Serve(OLD)
    assert isinstance(end_of([*TO_PROBATION[:2], alone]).after, Probation)


def test_a_kill_in_shadowing_begins_it_anew_and_one_after_it_does_not() -> None:
    again = end_of([*TO_SHADOWING, Compared(ID_1, 100), Restarted(0.0), Loaded(ID_1, 1.0)])
    assert isinstance(again.after, Shadowing) and again.after.compared == 0
    assert isinstance(end_of([Restarted(0.0)], again.after).after, Loading)
    later: list[Event] = [Restarted(0.0), Loaded(ID_1, 1.0, SHOWN)]
    assert end_of([*TO_SHARING, *later]).effects == (Share(NEW, SPLIT),)


def test_an_incumbent_that_is_lost_in_shadowing_gives_its_place_to_the_next() -> None:
    turn = end_of([*TO_SHADOWING, Unservable(OLD)], Idle((OLD, OTHER)))
    wish = a_wish(deployment="1", shadow=SHADOW, split=SPLIT)
    assert turn.effects == (Serve(OTHER), Load(wish, OTHER))
    none_left = end_of([*TO_SHADOWING, Unservable(OLD)])
    assert none_left.effects == (Serve(None), Load(wish, None))
    assert end_of([Loaded(ID_1, 20.0)], none_left.after).effects == (Serve(NEW),)


def test_an_incumbent_that_is_lost_or_revoked_in_a_split_leaves_all_to_the_candidate() -> None:
    renewed = Ordered(a_wish(deployment="1"), 31.0, frozenset({OLD}))
    for event in (Unservable(OLD), renewed):
        turn = end_of([*TO_SHARING, event], Idle((OLD, OTHER)))
        assert turn.effects == (Serve(NEW),)
        assert slots_of(turn.after) == Slots(active=NEW, previous=OTHER)
        assert Serve(NEW) not in end_of([Tick(35.0)], turn.after).effects


def test_the_loss_of_what_does_not_serve_disturbs_no_comparison() -> None:
    for story in (TO_SHADOWING, TO_SHARING):
        turn = end_of([*story, Unservable(OTHER)], Idle((OLD, OTHER)))
        assert (turn.effects, turn.after.confirmed) == ((), (OLD,))
        assert phase_of(turn.after) == phase_of(turn.before)


def test_a_reverted_bundle_is_not_taken_again_without_a_new_deployment() -> None:
    reverted = end_of([*TO_PROBATION, Sickened(ID_1, Reason.SLOW)]).after
    changed = msgspec.structs.replace(a_wish(deployment="1"), probation_s=999.0)
    for again in (Ordered(changed, 20.0), Restarted(30.0), Ordered(changed, 40.0)):
        turn = end_of([again], reverted)
        assert Fetch not in [type(effect) for effect in turn.effects]
        reverted = turn.after
    assert isinstance(end_of([an_order_for(NEW, deployment="2")], reverted).after, Fetching)


def test_the_bundle_before_the_last_is_forgotten() -> None:
    turn = end_of([*TO_PROBATION, Tick(15.0)], Idle((OLD, OTHER)))
    assert turn.after.confirmed == (NEW, OLD)
    assert Keep((NEW, OLD)) in turn.effects


def test_a_sick_bundle_gives_way_to_the_old_one() -> None:
    turn = end_of([*TO_PROBATION, Sickened(ID_1, Reason.SLOW, "9 ms")])
    assert turn.effects[:3] == (Serve(OLD), Retire(), Keep((OLD,)))
    assert turn.after == Idle((OLD,), turn.told()[0])
    assert (turn.told()[0].status, turn.told()[0].detail) == (Status.REVERTED, "9 ms")


@pytest.mark.parametrize("story", [TO_PROBATION[:1], TO_PROBATION[:2]])
def test_a_bundle_that_never_served_fails_and_is_not_called_reverted(story: list[Event]) -> None:
    turn = end_of([*story, Sickened(ID_1, Reason.LOAD_FAILED)])
    assert turn.told()[0].status is Status.FAILED


def test_a_bundle_that_served_before_a_restart_is_called_reverted() -> None:
    turn = end_of([*TO_PROBATION, Restarted(0.0), Sickened(ID_1, Reason.LOAD_FAILED)])
    assert turn.told()[0].status is Status.REVERTED


def test_a_second_restart_does_not_forget_that_the_bundle_served() -> None:
    restarts: list[Event] = [Restarted(0.0), Restarted(0.0)]
    turn = end_of([*TO_PROBATION, *restarts, Sickened(ID_1, Reason.LOAD_FAILED)])
    assert turn.told()[0].status is Status.REVERTED


def test_a_refused_bundle_is_rejected_before_it_serves_and_only_then() -> None:
    refused = Refused(ID_1, Reason.UNSUITABLE_PROFILE, "needs ARM")
    for story in (TO_PROBATION[:1], TO_PROBATION[:2]):
        turn = end_of([*story, refused])
        assert turn.told()[0] == Deployment(
            deployment=ID_1,
            bundle=NEW,
            status=Status.REJECTED,
            reason=Reason.UNSUITABLE_PROFILE,
            detail="needs ARM",
        )
    for later in (TO_PROBATION, TO_SHADOWING):
        assert end_of([*later, refused]).effects == ()
    again = end_of([*TO_PROBATION, Restarted(0.0), refused])
    assert again.told()[0].status is Status.REVERTED


@pytest.mark.parametrize("story", [TO_PROBATION[:1], TO_PROBATION[:2]])
def test_a_deployment_that_does_not_serve_by_its_deadline_times_out(story: list[Event]) -> None:
    assert end_of([*story, Tick(DEADLINE_S - 0.1)]).effects == ()
    turn = end_of([*story, Tick(DEADLINE_S)])
    assert (turn.told()[0].status, turn.told()[0].reason) == (Status.TIMED_OUT, Reason.DEADLINE)
    assert "50 s" in turn.told()[0].detail


def test_time_spent_fetching_counts_for_the_deadline_of_loading() -> None:
    story = [*TO_PROBATION[:1], Tick(DEADLINE_S - 1), Fetched(ID_1), Tick(DEADLINE_S)]
    assert end_of(story).told()[0].status is Status.TIMED_OUT


def test_a_restart_begins_the_deadline_anew() -> None:
    for story in (TO_PROBATION[:1], TO_PROBATION[:2]):
        assert end_of([*story, Restarted(1000.0), Tick(1000.0 + DEADLINE_S - 1)]).effects == ()


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_withdrawn_deployment_is_canceled_and_the_old_bundle_goes_on(length: int) -> None:
    turn = end_of([*TO_PROBATION[:length], Withdrawn()])
    assert turn.serving == OLD
    assert (turn.told()[0].status, turn.told()[0].reason) == (Status.CANCELED, Reason.WITHDRAWN)


def test_what_is_confirmed_outlives_a_withdrawal() -> None:
    turn = end_of([*TO_PROBATION, Tick(15.0), Withdrawn()])
    assert turn.effects == ()
    assert turn.serving == NEW


def test_an_order_for_what_serves_succeeds_at_once() -> None:
    turn = end_of([an_order_for(OLD)])
    assert [type(effect) for effect in turn.effects] == [Report]
    assert turn.told()[0].reason is Reason.SERVES_ALREADY


def test_a_halt_in_mid_probation_serves_the_old_bundle_at_once() -> None:
    turn = end_of([*TO_PROBATION, an_order_for(OLD, revoked=(NEW,))])
    assert [outcome.status for outcome in turn.told()] == [Status.SUPERSEDED, Status.SUCCEEDED]
    assert turn.effects.index(Serve(OLD)) == 0
    assert turn.after.confirmed == (OLD,)


def test_a_newer_order_that_revokes_decides_what_serves_meanwhile() -> None:
    turn = end_of([*TO_PROBATION, an_order_for(OTHER, revoked=(OLD,))], Idle((OLD, OTHER)))
    assert turn.serving == OTHER


def test_a_way_back_never_falls_back_to_the_revoked_bundle() -> None:
    back = an_order_for(OLD, revoked=(NEW,))
    turn = end_of([back, Sickened(back.wanted.deployment, Reason.LOAD_FAILED)], Idle((NEW, OLD)))
    assert turn.serving == OLD
    assert turn.after.confirmed == (OLD, NEW)


def test_a_revoked_bundle_serves_rather_than_nothing() -> None:
    story: list[Event] = [an_order_for(OTHER, revoked=(OLD,)), Restarted(0.0), Withdrawn()]
    assert end_of(story).serving == OLD


# What an order denies or revokes


def a_denial(
    bundle: Digest = NEW, *, deployment: str = "", revoked: tuple[Digest, ...] = ()
) -> Denied:
    why = "ask its operator"
    wish = a_wish(bundle, deployment=deployment)
    return Denied(wish, Reason.NOT_IN_TARGETS, why, frozenset(revoked))


@tried
@given(stories)
def test_a_denied_deployment_is_never_under_way(story: list[Event]) -> None:
    for turn in tell(story):
        if isinstance(turn.event, Denied):
            assert isinstance(turn.after, Idle)
            assert step(turn.after, turn.event) == (turn.after, ())


@tried
@given(stories)
def test_at_rest_what_is_revoked_serves_only_where_nothing_else_can(story: list[Event]) -> None:
    for turn in tell(story, Idle((OLD, OTHER))):
        told_of = isinstance(turn.event, Denied | Withdrawn)
        if told_of and serves_revoked(turn.after):
            assert set(turn.after.confirmed) <= turn.after.revoked


def test_a_denied_bundle_is_rejected_with_its_reason_and_what_serves_goes_on() -> None:
    turn = end_of([a_denial()])
    assert turn.effects == (Report(turn.told()[0]),)
    assert turn.after == Idle((OLD,), turn.told()[0])
    assert turn.told()[0] == Deployment(
        deployment=a_wish().deployment,
        bundle=NEW,
        status=Status.REJECTED,
        reason=Reason.NOT_IN_TARGETS,
        detail="ask its operator",
    )


@pytest.mark.parametrize(
    ("length", "status"), [(1, Status.REJECTED), (2, Status.REJECTED), (3, Status.REVERTED)]
)
def test_a_deployment_that_is_denied_under_way_ends_and_the_old_bundle_serves(
    length: int, status: Status
) -> None:
    turn = end_of([*TO_PROBATION[:length], a_denial(deployment="1")])
    assert [(told.status, told.reason) for told in turn.told()] == [(status, Reason.NOT_IN_TARGETS)]
    assert turn.effects[:3] == (Serve(OLD), Retire(), Keep((OLD,)))


def test_a_denied_order_ends_what_an_earlier_one_began() -> None:
    turn = end_of([*TO_PROBATION, a_denial(OTHER)])
    assert [told.status for told in turn.told()] == [Status.SUPERSEDED, Status.REJECTED]
    assert turn.serving == OLD


def test_a_settled_deployment_stays_settled_when_its_bundle_is_denied_later() -> None:
    turn = end_of([*TO_PROBATION, Tick(15.0), a_denial(deployment="1")])
    assert turn.effects == ()
    assert turn.after.confirmed == (NEW, OLD)


def test_a_revoked_bundle_that_serves_gives_way_to_the_one_before_at_once() -> None:
    serving = [*TO_PROBATION, Tick(15.0)]
    turn = end_of([*serving, a_denial(deployment="1", revoked=(NEW,))])
    assert turn.effects == (Serve(OLD), Retire())
    assert turn.after.confirmed == (OLD, NEW)
    for order in (an_order_for(OTHER, revoked=(NEW,)), Withdrawn(frozenset({NEW}))):
        assert end_of([*serving, order]).serving == OLD


def test_a_loading_candidate_survives_the_revocation_of_what_serves() -> None:
    renewed = Ordered(a_wish(deployment="1"), 3.0, frozenset({OLD}))
    turn = end_of([*TO_PROBATION[:2], renewed], Idle((OLD, OTHER)))
    assert turn.effects == (Serve(OTHER),)
    assert isinstance(turn.after, Loading)


def test_a_candidate_that_serves_is_not_disturbed_by_the_revocation_of_what_was_before() -> None:
    renewed = Ordered(a_wish(deployment="1"), 12.0, frozenset({OLD}))
    turn = end_of([*TO_PROBATION, renewed], Idle((OLD, OTHER)))
    assert turn.effects == ()
    assert slots_of(turn.after) == Slots(active=NEW, previous=OTHER)


def test_with_active_and_previous_revoked_the_device_serves_on_and_says_so() -> None:
    both = Withdrawn(frozenset({OLD, OTHER}))
    turn = end_of([both], Idle((OLD, OTHER)))
    assert (turn.effects, turn.serving) == ((), OLD)
    assert serves_revoked(turn.after)
    assert end_of([both, Restarted(0.0)], Idle((OLD, OTHER))).serving == OLD
    assert not serves_revoked(end_of([Withdrawn()], turn.after).after)


def test_a_revoked_bundle_is_forgotten_when_another_is_confirmed() -> None:
    order = Ordered(a_wish(deployment="1"), 0.0, frozenset({OLD}))
    turn = end_of([order, *TO_PROBATION[1:], Tick(15.0)])
    assert turn.after.confirmed == (NEW,)
    assert not serves_revoked(turn.after)


def test_a_new_order_for_the_same_bundle_keeps_what_was_fetched() -> None:
    turn = end_of([*TO_PROBATION, an_order_for(NEW, deployment="again")])
    assert Keep((OLD, NEW)) in turn.effects
    assert Fetch(a_wish(deployment="again")) in turn.effects


def test_a_confirmed_bundle_that_cannot_come_up_gives_way_to_the_one_before() -> None:
    turn = end_of([Unservable(OLD)], Idle((OLD, OTHER)))
    assert turn.effects == (Serve(OTHER), Retire())
    assert end_of([Unservable(OLD)]).effects == (Serve(None), Retire())


def test_the_only_confirmed_bundle_is_kept_where_it_may_come_up_later() -> None:
    slow = Unservable(OLD, may_pass=True)
    turn = end_of([slow])
    assert (turn.effects, turn.after.confirmed) == ((), (OLD,))
    assert end_of([slow], Idle((OLD, OTHER))).effects == (Serve(OTHER), Retire())
    assert end_of([*TO_PROBATION, slow]).after.confirmed == (OLD,)


def test_a_lost_fallback_does_not_disturb_the_bundle_on_probation() -> None:
    turn = end_of([*TO_PROBATION, Unservable(OLD)])
    assert turn.effects == ()
    assert slots_of(turn.after) == Slots(active=NEW, previous=None)


def test_a_candidate_that_can_answer_no_more_is_given_up() -> None:
    turn = end_of([*TO_PROBATION, Unservable(NEW)])
    assert isinstance(turn.after, Idle) and turn.after.settled is not None
    ended = turn.after.settled
    assert (ended.status, ended.reason) == (Status.REVERTED, Reason.LOAD_FAILED)
    assert Serve(OLD) in turn.effects
    turn = end_of([*TO_SHADOWING, Unservable(NEW)])
    assert isinstance(turn.after, Idle) and turn.after.settled is not None
    assert turn.after.settled.status is Status.FAILED


def test_the_slots_show_where_each_bundle_stands() -> None:
    turns = list(tell([*TO_PROBATION, Tick(15.0)], Idle((OLD, OTHER))))
    assert [slots_of(turn.after) for turn in turns] == [
        Slots(active=OLD, previous=OTHER, candidate=NEW),
        Slots(active=OLD, previous=OTHER, candidate=NEW),
        Slots(active=NEW, previous=OLD),
        Slots(active=NEW, previous=OLD),
    ]


def test_a_restart_serves_the_confirmed_bundle_first() -> None:
    assert end_of([Restarted(0.0)]).effects == (Serve(OLD), Keep((OLD,)))
    assert end_of([*TO_PROBATION[:1], Restarted(0.0)]).effects[0] == Serve(OLD)
    assert end_of([*TO_PROBATION, Restarted(0.0)]).effects[0] == Serve(OLD)


@pytest.mark.parametrize("confirmed", [(OLD,), ()])
@pytest.mark.parametrize("length", [2, 3])
def test_a_bundle_that_kills_the_device_is_given_up(
    confirmed: tuple[Digest, ...], length: int
) -> None:
    restarts: list[Event] = [Restarted(0.0)] * MAX_RESTARTS
    *_, last_try, turn = tell([*TO_PROBATION[:length], *restarts], Idle(confirmed))
    assert Load(a_wish(deployment="1")) in last_try.effects
    assert turn.told()[0].reason is Reason.RESTARTED_TOO_OFTEN
    assert turn.told()[0].status is (Status.REVERTED if length == 3 else Status.FAILED)
    assert turn.serving == next(iter(confirmed), None)


def test_a_bundle_that_kills_the_device_late_in_every_probation_is_given_up() -> None:
    wish = msgspec.structs.replace(a_wish(deployment="1"), probation_s=60.0)
    story: list[Event] = [Ordered(wish, 0.0), Fetched(ID_1)]
    for _ in range(MAX_RESTARTS):
        story += [Loaded(ID_1, 0.0), Tick(59.0), Restarted(0.0)]
    assert end_of(story).told()[0].reason is Reason.RESTARTED_TOO_OFTEN


def test_restarts_while_fetching_do_not_count() -> None:
    turn = end_of([*TO_PROBATION[:1], *[Restarted(0.0)] * 9, Fetched(ID_1), Restarted(0.0)])
    assert isinstance(turn.after, Loading) and turn.after.restarts == 1
    assert isinstance(end_of([*TO_PROBATION[:1], *[Restarted(0.0)] * 9]).after, Fetching)


@dataclass
class Device:
    """Performs what the machine orders, and is killed before each effect that `kills` numbers.

    The state and the reports go to disk in one write; what serves is gone at a kill.
    """

    kills: frozenset[int] = frozenset()
    state: State = field(default_factory=lambda: Idle((OLD,)))
    serving: Digest | None = OLD
    kept: tuple[Digest, ...] = (OLD,)
    outbox: list[Deployment] = field(default_factory=list)
    now_s: float = 0.0
    performed: int = 0

    def hear(self, event: Event) -> None:
        news: deque[Event] = deque([event])
        while news:
            self.state, effects = step(self.state, news.popleft())
            self.outbox += [effect.outcome for effect in effects if isinstance(effect, Report)]
            for effect in effects:
                self.performed += 1
                if self.performed in self.kills:
                    self.serving = None
                    news = deque([Restarted(self.now_s)])
                    break
                news.extend(self._perform(effect))

    def _perform(self, effect: Effect) -> list[Event]:
        match effect:
            case Serve(bundle):
                self.serving = bundle
            case Keep(bundles):
                self.kept = bundles
            case Fetch(wanted):
                return [Fetched(wanted.deployment)]
            case Load(wanted):
                return [Loaded(wanted.deployment, self.now_s)]
            case _:
                pass
        return []

    def settle(self) -> None:
        while not isinstance(self.state, Idle):
            self.now_s += PROBATION_S
            self.hear(Tick(self.now_s))


def test_a_few_kills_between_any_two_effects_change_nothing_but_the_time() -> None:
    for kills in itertools.combinations(range(1, 18), MAX_RESTARTS - 1):
        device = Device(frozenset(kills))
        device.hear(an_order_for(NEW))
        device.settle()
        assert device.state.confirmed == device.kept == (NEW, OLD), kills
        assert device.serving == NEW, kills
        assert [outcome.status for outcome in device.outbox] == [Status.SUCCEEDED], kills


def test_kills_on_the_way_back_change_nothing_but_the_time() -> None:
    for kills in itertools.combinations(range(1, 14), MAX_RESTARTS - 1):
        device = Device(frozenset(kills), state=Idle((NEW, OLD)), serving=NEW)
        device.hear(an_order_for(OLD, revoked=(NEW,)))
        device.settle()
        assert device.state.confirmed == device.kept == (OLD,), kills
        assert device.serving == OLD, kills
        assert [outcome.status for outcome in device.outbox] == [Status.SUCCEEDED], kills
