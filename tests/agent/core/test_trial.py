"""Trials of bundles for measuring: one at a time, answered once, and out of the way."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import a_digest, a_trial, trial_figures
from tests.laws import tried
from wherry.messages import Trial
from wherry.names import TrialId
from wherry.reasons import Reason
from wherry_agent.core.trial import (
    MAX_RESTARTS,
    Answer,
    Clear,
    Effects,
    Event,
    Fetched,
    Fetching,
    Freed,
    Occupied,
    Ordered,
    Ran,
    Refused,
    Restarted,
    Run,
    Running,
    State,
    Stop,
    Tick,
    bundle_of,
    fetching_of,
    step,
)

FLOAT = a_trial("build:float", bundle=a_digest("float"))
INT8 = a_trial("build:int8", bundle=a_digest("int8"))
BAD = "its bytes are wrong"


def after(*events: Event, state: State | None = None) -> tuple[State, Effects]:
    """Return where events lead, and what the last one ordered."""
    state = state or State()
    effects: Effects = ()
    for event in events:
        state, effects = step(state, event)
    return state, effects


def running(trial: Trial = FLOAT) -> State:
    state, _ = after(Ordered((trial,)), Freed(10.0), Fetched(trial.bundle))
    return state


def answer_of(effects: Effects) -> Answer:
    (answer,) = (effect for effect in effects if isinstance(effect, Answer))
    return answer


def test_a_trial_is_fetched_run_answered_and_cleared_away() -> None:
    state, effects = after(Ordered((FLOAT,)), Freed(10.0))
    assert (fetching_of(state), effects) == (FLOAT.bundle, ())
    state, effects = after(Fetched(FLOAT.bundle), state=state)
    assert (bundle_of(state), fetching_of(state)) == (FLOAT.bundle, None)
    assert effects == (Run(FLOAT, 10.0 + FLOAT.deadline_s),)
    state, effects = after(Ran(FLOAT.trial, trial_figures()), state=state)
    result = answer_of(effects).result
    assert (result.trial, result.bundle) == (FLOAT.trial, FLOAT.bundle)
    assert (result.figures, result.faithful, result.reason) == (trial_figures(), True, None)
    assert (effects[0], effects[-1]) == (Stop(), Clear())
    assert state == State(answered=(FLOAT.trial,))


def test_trials_are_taken_in_their_order_one_after_another() -> None:
    state, _ = after(Ordered((FLOAT, INT8)), Freed(0.0), Freed(1.0))
    assert (fetching_of(state), state.waiting) == (FLOAT.bundle, (INT8,))
    state, _ = after(Refused(FLOAT.bundle, Reason.WRONG_BYTES, BAD), Freed(2.0), state=state)
    assert fetching_of(state) == INT8.bundle


def test_a_device_on_its_way_to_a_bundle_begins_no_trial() -> None:
    state, effects = after(Ordered((FLOAT,)), Occupied())
    assert (state.waiting, state.current, effects) == ((FLOAT,), None, ())


def test_a_deployment_ends_the_trial_under_way_and_the_next_waits() -> None:
    state, effects = after(Ordered((FLOAT, INT8)), Freed(0.0), Fetched(FLOAT.bundle), Occupied())
    result = answer_of(effects).result
    assert (result.reason, result.faithful, result.figures) == (Reason.BUSY, None, None)
    assert state == State(waiting=(INT8,), answered=(FLOAT.trial,))
    assert after(Occupied(), state=state) == (state, ())


def test_a_device_that_gives_other_outputs_is_unfaithful() -> None:
    for reason, faithful in [
        (Reason.GOLDEN_MISMATCH, False),
        (Reason.NOT_FINITE, False),
        (Reason.LOAD_FAILED, None),
        (Reason.OVER_BUDGET, None),
    ]:
        _, effects = after(Ran(FLOAT.trial, None, reason, BAD), state=running())
        result = answer_of(effects).result
        assert (result.reason, result.detail, result.faithful) == (reason, BAD, faithful)


def test_a_trial_ends_at_its_deadline_wherever_it_is() -> None:
    fetching, _ = after(Ordered((FLOAT,)), Freed(10.0))
    for state, at in [(fetching, "fetched"), (running(), "measured")]:
        late = 10.0 + FLOAT.deadline_s
        assert after(Tick(late), state=state) == (state, ())
        _, effects = after(Tick(late + 0.1), state=state)
        result = answer_of(effects).result
        assert (result.reason, at in result.detail) == (Reason.DEADLINE, True)


def test_an_order_that_names_a_trial_no_more_ends_it_without_a_word() -> None:
    state, effects = after(Ordered((INT8,)), state=running())
    assert effects == (Stop(), Clear())
    assert state == State(waiting=(INT8,))


def test_an_order_that_names_the_trial_still_leaves_it_alone() -> None:
    state, effects = after(Ordered((FLOAT, INT8)), state=running())
    assert (effects, state.waiting, bundle_of(state)) == ((), (INT8,), FLOAT.bundle)


def test_an_answered_trial_is_not_begun_again_by_an_order_that_still_names_it() -> None:
    state, _ = after(Ran(FLOAT.trial, trial_figures()), state=running())
    state, _ = after(Ordered((FLOAT,)), Freed(50.0), state=state)
    assert (state.current, state.waiting) == (None, ())
    state, _ = after(Ordered(()), state=state)
    assert state == State()


def test_a_restart_begins_a_trial_anew_and_too_many_end_it() -> None:
    state = running()
    for restart in range(1, MAX_RESTARTS + 1):
        state, effects = after(Restarted(5.0), state=state)
        assert state.current == Fetching(trial=FLOAT, began_s=5.0, restarts=restart)
        assert effects == ()
        state, _ = after(Fetched(FLOAT.bundle), state=state)
        assert isinstance(state.current, Running)
    state, effects = after(Restarted(5.0), state=state)
    assert answer_of(effects).result.reason is Reason.RESTARTED_TOO_OFTEN
    assert state.current is None


def test_news_of_another_trial_changes_nothing() -> None:
    state = running()
    strange: list[Event] = [
        Ran(INT8.trial, trial_figures()),
        Refused(FLOAT.bundle, Reason.WRONG_BYTES),
        Fetched(INT8.bundle),
        Freed(11.0),
    ]
    for event in strange:
        assert after(event, state=state) == (state, ())


TRIALS = [a_trial(f"build:{name}", bundle=a_digest(name), deadline_s=5.0) for name in "abc"]
trials = st.sampled_from(TRIALS)
events = st.one_of(
    st.builds(Ordered, st.lists(trials, unique=True, max_size=3).map(tuple)),
    st.builds(Freed, st.floats(0, 20)),
    st.just(Occupied()),
    st.builds(Refused, trials.map(lambda one: one.bundle), st.just(Reason.WRONG_BYTES)),
    st.builds(Fetched, trials.map(lambda one: one.bundle)),
    st.builds(Ran, trials.map(lambda one: one.trial), st.just(trial_figures())),
    st.builds(Tick, st.floats(0, 20)),
    st.builds(Restarted, st.floats(0, 20)),
)


@tried
@given(st.lists(events, max_size=25))
def test_whatever_comes_a_trial_is_answered_once_as_long_as_it_is_named(
    story: list[Event],
) -> None:
    state, answered = State(), set[TrialId]()
    for event in story:
        before = state
        state, effects = step(state, event)
        if isinstance(event, Ordered):
            answered &= {trial.trial for trial in event.trials}
        for effect in effects:
            if isinstance(effect, Answer):
                assert effect.result.trial not in answered
                answered.add(effect.result.trial)
            if isinstance(effect, Run):
                assert effect.trial.trial not in answered
        assert answered == set(state.answered)
        assert not answered & {trial.trial for trial in state.waiting}
        if before.current is not None and state.current is None:
            assert (effects[0], effects[-1]) == (Stop(), Clear())
        if isinstance(event, Occupied):
            assert state.current is None


@tried
@given(st.lists(events, max_size=10))
def test_the_state_survives_the_disk(story: list[Event]) -> None:
    state, _ = after(*story)
    assert msgspec.json.decode(msgspec.json.encode(state), type=State) == state
