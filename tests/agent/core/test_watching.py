"""What is watched begins and ends with the states, and each window counts for the right side."""

from __future__ import annotations

import itertools

from msgspec.structs import replace

from tests.builders import a_digest, a_histogram, a_wanted, an_alias
from wherry.measures import Feedback, ShadowCounts
from wherry.messages import Shadow, Split
from wherry.names import Digest
from wherry.reasons import Reason
from wherry_agent.core import install
from wherry_agent.core.health import PROBATION_LATENCY, WINDOWS_KEPT, Window
from wherry_agent.core.install import Idle, Loading, Probation, Shadowing, Shown, State
from wherry_agent.core.labels import labels_of
from wherry_agent.core.watching import LABELS_KEPT, Watching, follow, weigh

DEFAULT = an_alias()
OLD, NEW = a_digest("old"), a_digest("new")
ENOUGH = PROBATION_LATENCY.window_requests
SHADOW = Shadow(min_requests=100, min_agreement=0.9)
WANTED = replace(a_wanted("d-2", bundle=NEW), shadow=SHADOW, split=Split())
SHOWN = Shown(
    runtime="onnxruntime", runtime_version="1.31", outputs=a_digest("outputs"), memory_bytes=7_000
)
SERVING = Idle((OLD,))
LOADING = Loading(wanted=WANTED, confirmed=(OLD,), revoked=frozenset(), began_s=0.0)
SHADOWING = Shadowing(wanted=WANTED, confirmed=(OLD,), revoked=frozenset(), began_s=0.0)
PROBATION = Probation(
    wanted=WANTED, confirmed=(OLD,), revoked=frozenset(), began_s=0.0, shown=SHOWN
)
SHARING = replace(PROBATION, shares=True)
CONFIRMED = Idle((NEW, OLD))


def a_window(
    median_ms: float = 1.0,
    *,
    requests: int = ENOUGH,
    right: int = 0,
    labelled: int = 0,
    temperature_c: float | None = None,
) -> Window:
    return Window(
        requests=requests,
        compute=a_histogram(*[median_ms] * requests),
        feedback=Feedback(labelled=labelled, right=right),
        temperature_c=temperature_c,
    )


def copies(requests: int, agreed: int) -> Window:
    return Window(shadow=ShadowCounts(requests=requests, rows=requests, agreed=agreed))


def went(watching: Watching, *states: State) -> Watching:
    """Return what is watched once the alias has gone from each state to the next."""
    for before, after in itertools.pairwise(states):
        watching = follow(watching, DEFAULT, before, after)
    return watching


def measured(watching: Watching, state: State, bundle: Digest, *windows: Window) -> Watching:
    """Return what is watched after windows that say nothing bad."""
    for window in windows:
        watching, event = weigh(watching, DEFAULT, state, bundle, window)
        assert event is None or isinstance(event, install.Compared)
    return watching


# The incumbent


def test_the_incumbents_last_windows_and_labels_are_kept() -> None:
    windows = [a_window(labelled=10, right=9)] * (WINDOWS_KEPT + 3)
    watching = measured(Watching(), SERVING, OLD, *windows)
    assert len(watching.recent[DEFAULT]) == WINDOWS_KEPT
    assert watching.labels[DEFAULT] == Feedback(10 * len(windows), 9 * len(windows))


def test_a_window_without_requests_or_labels_leaves_nothing() -> None:
    assert measured(Watching(), SERVING, OLD, Window()) == Watching()


def test_what_was_long_ago_fades_from_the_labels() -> None:
    watching = measured(Watching(), SERVING, OLD, a_window(labelled=LABELS_KEPT, right=LABELS_KEPT))
    watching = measured(watching, SERVING, OLD, a_window(labelled=2, right=0))
    assert watching.labels[DEFAULT] == Feedback(LABELS_KEPT // 2 + 1, LABELS_KEPT // 2)


def test_windows_of_a_bundle_that_is_neither_side_count_for_none() -> None:
    stranger = a_window(labelled=10, right=1)
    assert measured(Watching(), SERVING, a_digest("gone"), stranger) == Watching()


def test_while_another_is_fetched_or_loaded_the_incumbents_windows_go_on() -> None:
    watching = went(measured(Watching(), SERVING, OLD, a_window()), SERVING, LOADING)
    watching = measured(watching, LOADING, OLD, a_window())
    assert len(watching.recent[DEFAULT]) == 2


# Shadowing


def test_copies_are_added_up_from_the_beginning_of_the_shadowing() -> None:
    watching = went(Watching(), LOADING, SHADOWING)
    watching, first = weigh(watching, DEFAULT, SHADOWING, NEW, copies(60, 60))
    watching, second = weigh(watching, DEFAULT, SHADOWING, NEW, copies(60, 59))
    assert first == install.Compared(WANTED.deployment, 60)
    assert second == install.Compared(WANTED.deployment, 120)
    assert watching.shadows[DEFAULT].agreed == 119
    again = went(watching, SHADOWING, LOADING, SHADOWING)
    assert again.shadows[DEFAULT] == ShadowCounts()


def test_a_step_within_shadowing_loses_no_copies() -> None:
    watching = went(Watching(), LOADING, SHADOWING)
    watching = measured(watching, SHADOWING, NEW, copies(60, 60))
    watching = went(watching, SHADOWING, replace(SHADOWING, compared=60))
    assert watching.shadows[DEFAULT].requests == 60


def test_a_candidate_that_disagrees_is_told_of_once_enough_was_compared() -> None:
    watching = went(Watching(), LOADING, SHADOWING)
    watching, early = weigh(watching, DEFAULT, SHADOWING, NEW, copies(60, 0))
    assert isinstance(early, install.Compared)
    _, event = weigh(watching, DEFAULT, SHADOWING, NEW, copies(60, 0))
    assert isinstance(event, install.Sickened)
    assert (event.deployment, event.reason) == (WANTED.deployment, Reason.DISAGREES)


def test_a_candidates_windows_without_copies_say_nothing() -> None:
    watching = went(Watching(), LOADING, SHADOWING)
    assert weigh(watching, DEFAULT, SHADOWING, NEW, Window()) == (watching, None)
    assert weigh(watching, DEFAULT, LOADING, NEW, copies(60, 60)) == (watching, None)


def test_after_shadowing_its_copies_are_forgotten() -> None:
    watching = went(Watching(), LOADING, SHADOWING, PROBATION)
    assert watching.shadows == {}


# Probation


def test_a_probation_begins_with_what_the_incumbent_had_and_the_candidate_showed() -> None:
    watching = measured(
        Watching(), SERVING, OLD, a_window(2.0, labelled=20, right=19, temperature_c=50.0)
    )
    watch = went(watching, SERVING, LOADING, PROBATION).watches[DEFAULT]
    assert watch.incumbent.compute == a_histogram(*[2.0] * ENOUGH)
    assert watch.incumbent.labels == Feedback(20, 19)
    assert watch.incumbent.temperature_c == 50.0
    assert (watch.base_bytes, watch.shares) == (SHOWN.memory_bytes, False)


def test_a_probation_without_a_proof_has_no_base_yet() -> None:
    watch = went(Watching(), LOADING, replace(PROBATION, shown=None)).watches[DEFAULT]
    assert watch.base_bytes is None


def test_heat_of_the_probation_is_not_taken_for_the_incumbents() -> None:
    watching = measured(Watching(), SERVING, OLD, a_window(temperature_c=50.0))
    watching = went(watching, SERVING, LOADING, PROBATION)
    watching = measured(watching, PROBATION, NEW, a_window(temperature_c=70.0))
    assert watching.temperature_c == 50.0


def test_a_slow_candidate_is_told_of_after_successive_windows() -> None:
    watching = went(measured(Watching(), SERVING, OLD, a_window(1.0)), LOADING, PROBATION)
    watching, first = weigh(watching, DEFAULT, PROBATION, NEW, a_window(9.0))
    _, second = weigh(watching, DEFAULT, PROBATION, NEW, a_window(9.0))
    assert first is None
    assert isinstance(second, install.Sickened) and second.reason is Reason.SLOW


def test_labels_of_the_incumbents_last_answers_count_for_it_in_the_probation() -> None:
    watching = went(Watching(), LOADING, PROBATION)
    watching = measured(watching, PROBATION, OLD, a_window(labelled=10, right=9))
    assert watching.watches[DEFAULT].incumbent.labels == Feedback(10, 9)
    assert watching.watches[DEFAULT].requests == 0
    assert DEFAULT not in watching.recent  # It answers no more: those are no times to go by.


def test_both_sides_of_a_split_are_measured_in_the_same_time() -> None:
    watching = went(Watching(), LOADING, SHARING)
    watching = measured(watching, SHARING, OLD, a_window(1.0))
    watching = measured(watching, SHARING, NEW, a_window(2.0))
    watch = watching.watches[DEFAULT]
    assert watch.shares
    assert watch.beside == ((a_histogram(*[2.0] * ENOUGH), a_histogram(*[1.0] * ENOUGH)),)
    assert len(watching.recent[DEFAULT]) == 1


def test_where_the_incumbent_is_lost_the_split_ends_and_the_watch_goes_on() -> None:
    watching = measured(went(Watching(), LOADING, SHARING), SHARING, NEW, a_window())
    watching = went(watching, SHARING, replace(SHARING, shares=False))
    watch = watching.watches[DEFAULT]
    assert (watch.shares, watch.requests) == (False, ENOUGH)


# The end


def test_what_was_measured_of_a_confirmed_candidate_is_the_incumbents_now() -> None:
    watching = measured(Watching(), SERVING, OLD, a_window(1.0, labelled=5, right=5))
    watching = went(watching, SERVING, LOADING, PROBATION)
    watching = measured(watching, PROBATION, NEW, a_window(1.2, labelled=20, right=18))
    watching = went(watching, PROBATION, CONFIRMED)
    assert watching.watches == {}
    assert watching.recent[DEFAULT] == (a_histogram(*[1.2] * ENOUGH),)
    assert watching.labels[DEFAULT] == Feedback(20, 18)


def test_numbers_of_the_incumbent_are_kept_and_fade_as_labels_do() -> None:
    numbers = Feedback(
        values=3 * LABELS_KEPT, absolute_error=6.0, squared_error=8.0, answers=LABELS_KEPT
    )
    watching = measured(Watching(), SERVING, OLD, Window(feedback=numbers))
    assert watching.labels[DEFAULT] == labels_of(numbers)
    one = Feedback(values=3, absolute_error=1.0, squared_error=2.0, answers=1)
    watching = measured(watching, SERVING, OLD, Window(feedback=one))
    assert watching.labels[DEFAULT] == Feedback(
        answers=LABELS_KEPT // 2,
        values=3 * LABELS_KEPT // 2 + 1,
        absolute_error=3.5,
        squared_error=5.0,
    )


def test_after_a_revert_the_incumbent_has_what_it_had() -> None:
    before = measured(Watching(), SERVING, OLD, a_window(1.0, labelled=5, right=5))
    watching = went(before, SERVING, LOADING, PROBATION)
    watching = measured(watching, PROBATION, NEW, a_window(1.2, labelled=20, right=1))
    after = went(watching, PROBATION, SERVING)
    assert (after.recent, after.labels, after.watches) == (before.recent, before.labels, {})


def test_what_was_measured_of_a_bundle_that_is_lost_goes_with_it() -> None:
    watching = measured(Watching(), SERVING, OLD, a_window(labelled=5, right=5))
    after = went(watching, SERVING, Idle(()))
    assert (after.recent, after.labels) == ({}, {})


def test_aliases_are_watched_apart() -> None:
    other = an_alias("detector")
    watching = measured(Watching(), SERVING, OLD, a_window())
    watching = follow(watching, other, LOADING, PROBATION)
    watching = follow(watching, other, PROBATION, Idle(()))
    assert len(watching.recent[DEFAULT]) == 1
