"""What probation concludes from what a device measured."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.builders import a_histogram
from wherry.histogram import Histogram
from wherry.measures import Feedback, ShadowCounts
from wherry.messages import Shadow
from wherry.reasons import Reason
from wherry_agent.core.health import (
    FEWEST_ERRORS,
    NOT_FINITE,
    PROBATION_LATENCY,
    SUCCESSIVE_WINDOWS,
    WINDOWS_KEPT,
    Bounds,
    Incumbent,
    Watch,
    Window,
    diagnose,
    diagnose_shadow,
    observe,
    observe_beside,
)
from wherry_agent.core.labels import labels_of

A_WINDOW = PROBATION_LATENCY.window_requests
BOUNDS = Bounds()
MB = 1_000_000


def a_window(median_ms: float, requests: int = A_WINDOW) -> Histogram:
    return a_histogram(*[median_ms] * requests)


def a_watch(*medians_ms: float, incumbent_ms: float = 1.0, incumbent: int = A_WINDOW) -> Watch:
    before = a_window(incumbent_ms, incumbent) if incumbent else Histogram()
    watch = Watch(incumbent=Incumbent(compute=before))
    for median in medians_ms:
        watch = observe(watch, Window(requests=A_WINDOW, compute=a_window(median)))
    return watch


def reason_of(watch: Watch) -> Reason | None:
    sickness = diagnose(watch, BOUNDS)
    return sickness.reason if sickness else None


def test_one_slow_window_says_nothing() -> None:
    assert reason_of(a_watch(5.0)) is None
    assert reason_of(a_watch(5.0, 1.0, 5.0)) is None


def test_two_successive_slow_windows_are_sickness_and_the_sentence_names_both_medians() -> None:
    watch = a_watch(1.0, 5.0, 5.0)
    assert reason_of(watch) is Reason.SLOW
    sickness = diagnose(watch, BOUNDS)
    assert sickness and "5.11 ms, the incumbent's 1.00 ms" in sickness.detail


@pytest.mark.parametrize(
    ("candidate_ms", "incumbent_ms", "is_slow"),
    [
        (1.9, 1.0, False),  # Below the ratio.
        (0.6, 0.2, False),  # Below the difference.
        (2.5, 1.0, True),
        (0.9, 0.2, True),
    ],
)
def test_slow_takes_both_the_ratio_and_the_difference(
    candidate_ms: float, incumbent_ms: float, is_slow: bool
) -> None:
    watch = a_watch(candidate_ms, candidate_ms, incumbent_ms=incumbent_ms)
    assert (reason_of(watch) is Reason.SLOW) == is_slow


def test_nothing_is_slow_beside_an_incumbent_with_too_few_requests() -> None:
    assert reason_of(a_watch(9.0, 9.0, incumbent=A_WINDOW - 1)) is None
    assert reason_of(a_watch(9.0, 9.0, incumbent=0)) is None


def test_small_windows_are_gathered_until_they_can_be_compared() -> None:
    watch = a_watch()
    for _ in range(2 * A_WINDOW // 10):
        assert reason_of(watch) is None
        watch = observe(watch, Window(requests=10, compute=a_window(5.0, 10)))
    assert reason_of(watch) is Reason.SLOW


def failing(times: int, requests: int, kind: str = "runtime") -> Watch:
    return observe(a_watch(), Window(requests=requests, errors={kind: times}))


def test_a_few_errors_are_no_sickness() -> None:
    assert reason_of(failing(FEWEST_ERRORS - 1, 5)) is None
    assert reason_of(failing(FEWEST_ERRORS, 250)) is None
    assert reason_of(failing(FEWEST_ERRORS, 249)) is Reason.ERRORS


def test_errors_add_up_over_windows_and_the_most_frequent_is_named() -> None:
    watch = failing(3, 20)
    watch = observe(watch, Window(requests=20, errors={"timeout": 2}))
    sickness = diagnose(watch, BOUNDS)
    assert sickness and sickness.reason is Reason.ERRORS
    assert sickness.detail == "5 of 40 requests failed (runtime)"


def test_answers_that_are_no_numbers_have_their_own_name() -> None:
    assert reason_of(failing(FEWEST_ERRORS, 100, NOT_FINITE)) is Reason.NOT_FINITE


def test_a_long_probation_keeps_no_more_windows_than_it_needs_and_counts_all_requests() -> None:
    watch = a_watch(*[1.0] * (WINDOWS_KEPT + 5))
    assert len(watch.compute) == WINDOWS_KEPT
    assert watch.whole.total == (WINDOWS_KEPT + 5) * A_WINDOW


# With a split both sides are measured in the same time


def a_split(*medians_ms: tuple[float, float], requests: int = A_WINDOW) -> Watch:
    watch = Watch(incumbent=Incumbent(compute=a_window(1.0)), shares=True)
    for ours, theirs in medians_ms:
        watch = observe(watch, Window(requests=requests, compute=a_window(ours, requests)))
        watch = observe_beside(watch, Window(compute=a_window(theirs, requests)))
    return watch


def test_what_slows_the_whole_device_is_not_the_candidates_fault() -> None:
    assert reason_of(a_split((9.0, 9.0), (9.0, 9.0))) is None
    assert reason_of(a_watch(9.0, 9.0)) is Reason.SLOW


def test_slow_beside_the_incumbent_takes_two_windows_in_a_row() -> None:
    assert reason_of(a_split((9.0, 1.0))) is None
    assert reason_of(a_split((9.0, 1.0), (1.0, 1.0), (9.0, 1.0))) is None
    watch = a_split((1.0, 1.0), (9.0, 1.0), (9.0, 1.0))
    assert reason_of(watch) is Reason.SLOW


def test_a_small_share_is_gathered_until_both_sides_can_be_compared() -> None:
    few = [(9.0, 1.0)] * 19
    assert reason_of(a_split(*few, requests=A_WINDOW // 10)) is None
    assert reason_of(a_split(*few, (9.0, 1.0), requests=A_WINDOW // 10)) is Reason.SLOW


def test_late_windows_of_the_incumbent_do_not_hide_a_slow_candidate_that_serves_alone() -> None:
    watch = observe_beside(a_watch(9.0, 9.0), Window(compute=a_window(9.0)))
    assert reason_of(watch) is Reason.SLOW


# Feedback


GOOD = Feedback(1000, 950)


def labelled(right: int, *, of: int = 100, incumbent: Feedback = GOOD) -> Watch:
    watch = Watch(incumbent=Incumbent(labels=incumbent))
    return observe(watch, Window(feedback=Feedback(labelled=of, right=right)))


def test_a_candidate_whose_labels_say_that_it_is_worse_is_sick_and_both_are_named() -> None:
    sickness = diagnose(labelled(70), BOUNDS)
    assert sickness and sickness.reason is Reason.INACCURATE
    assert sickness.detail == (
        "70 of 100 labelled answers are right (70.0%), the incumbent's 950 of 1000 (95.0%)"
    )


@pytest.mark.parametrize(
    "watch",
    [
        labelled(86),  # Within the drop that is allowed.
        labelled(0, of=49),  # Too few labels of the candidate,
        labelled(0, incumbent=Feedback(49, 49)),  # of the incumbent.
        labelled(41, of=50, incumbent=Feedback(50, 47)),  # A drop of 12 % that chance explains.
    ],
)
def test_what_the_labels_do_not_prove_is_no_sickness(watch: Watch) -> None:
    assert reason_of(watch) is None


def test_labels_that_come_late_for_the_incumbent_count_for_it() -> None:
    watch = labelled(70, incumbent=Feedback())
    watch = observe_beside(watch, Window(feedback=Feedback(labelled=100, right=95)))
    assert reason_of(watch) is Reason.INACCURATE


def off_by(*errors: float, times: int = 50) -> Feedback:
    """Return the feedback of answers of one number each, so far off."""
    return Feedback(
        values=len(errors) * times,
        absolute_error=sum(errors) * times,
        squared_error=sum(error * error for error in errors) * times,
        answers=len(errors) * times,
    )


GOOD_NUMBERS = off_by(0.9, 1.1)


def numbered(feedback: Feedback, incumbent: Feedback = GOOD_NUMBERS) -> Watch:
    watch = Watch(incumbent=Incumbent(labels=labels_of(incumbent)))
    return observe(watch, Window(feedback=feedback))


def test_a_candidate_whose_numbers_are_further_off_is_sick_and_both_are_named() -> None:
    sickness = diagnose(numbered(off_by(1.4, 1.6)), BOUNDS)
    assert sickness and sickness.reason is Reason.INACCURATE
    assert sickness.detail == (
        "100 labelled answers are off by 1.5 on average, the incumbent's 100 by 1"
    )


@pytest.mark.parametrize(
    "watch",
    [
        numbered(off_by(1.1, 1.3)),  # Within the growth that is allowed.
        numbered(off_by(0.1)),  # Better than the incumbent.
        numbered(off_by(9.0, times=49)),  # Too few answers of the candidate,
        numbered(off_by(9.0), off_by(1.0, times=49)),  # of the incumbent.
        numbered(off_by(0.0, 0.0, 0.0, 6.0, times=15)),  # Half as much more, that chance explains.
        # As many numbers as are wanted, but of one answer.
        numbered(replace(off_by(9.0), answers=1)),
    ],
)
def test_what_numbers_do_not_prove_is_no_sickness(watch: Watch) -> None:
    assert reason_of(watch) is None


def test_errors_beyond_all_bounds_are_sick_too() -> None:
    assert reason_of(numbered(off_by(1e200))) is Reason.INACCURATE


# Memory and temperature


def growing(*sizes_mb: float, base_mb: int = 60) -> Watch:
    watch = Watch(base_bytes=base_mb * MB)
    for size in sizes_mb:
        watch = observe(watch, Window(worker_bytes=round(size * MB)))
    return watch


def test_a_worker_that_stays_larger_than_it_may_grow_is_sick() -> None:
    limit_mb = 60 * 1.5 + BOUNDS.memory_slack_bytes / MB
    assert reason_of(growing(*[limit_mb] * SUCCESSIVE_WINDOWS)) is None
    assert reason_of(growing(*[limit_mb + 1] * (SUCCESSIVE_WINDOWS - 1))) is None
    assert reason_of(growing(limit_mb + 1, 60, *[limit_mb + 1] * 2)) is None
    sickness = diagnose(growing(60, *[limit_mb + 1] * SUCCESSIVE_WINDOWS), BOUNDS)
    assert sickness and sickness.reason is Reason.MEMORY_GROWTH
    assert "from 60.0 to 107.8 MB" in sickness.detail


def test_without_a_size_when_it_was_warm_a_worker_is_held_against_its_first_window() -> None:
    assert reason_of(growing(60, 200, 200, 200, base_mb=0)) is Reason.MEMORY_GROWTH
    assert reason_of(growing(200, 200, 200, base_mb=0)) is None


def hot(*degrees: float, before: float | None = 60.0) -> Watch:
    watch = Watch(incumbent=Incumbent(temperature_c=before))
    for temperature in degrees:
        watch = observe(watch, Window(temperature_c=temperature))
    return watch


def test_a_device_that_the_candidate_makes_too_hot_makes_it_sick() -> None:
    sickness = diagnose(hot(90, 88, 87), BOUNDS)
    assert sickness and sickness.reason is Reason.TOO_HOT
    assert "at 87 degrees" in sickness.detail and "after 60 before it" in sickness.detail
    assert reason_of(hot(90, 88, 87, before=None)) is Reason.TOO_HOT


@pytest.mark.parametrize("watch", [hot(90, 90), hot(90, 85, 90), hot(90, 90, 90, before=86)])
def test_heat_that_passes_or_was_there_before_is_no_fault_of_the_candidate(watch: Watch) -> None:
    assert reason_of(watch) is None


# Shadowing


def shadowed(*, agreed: int = 0, requests: int = 100, rows: int = 200) -> ShadowCounts:
    return ShadowCounts(requests=requests, rows=rows, agreed=agreed)


def reason_in_shadow(counts: ShadowCounts, least: float | None = 0.9) -> Reason | None:
    shadow = Shadow(min_requests=100, min_agreement=least)
    sickness = diagnose_shadow(counts, shadow)
    return sickness.reason if sickness else None


def test_a_candidate_that_agrees_too_seldom_is_refused_once_enough_was_compared() -> None:
    assert reason_in_shadow(shadowed(agreed=180)) is None
    assert reason_in_shadow(shadowed(agreed=179)) is Reason.DISAGREES
    assert reason_in_shadow(shadowed(agreed=0, requests=99)) is None
    assert reason_in_shadow(shadowed(agreed=0), least=None) is None
    assert reason_in_shadow(shadowed(rows=0)) is None
    sickness = diagnose_shadow(shadowed(agreed=100), Shadow(min_requests=1, min_agreement=0.9))
    assert sickness and "100 of 200 rows (50.0%)" in sickness.detail


def test_copies_that_fail_are_sickness_before_anything_is_compared() -> None:
    failed = ShadowCounts(requests=0, errors={NOT_FINITE: FEWEST_ERRORS})
    assert reason_in_shadow(failed) is Reason.NOT_FINITE
    failed = ShadowCounts(requests=10, rows=10, errors={"runtime": FEWEST_ERRORS})
    assert reason_in_shadow(failed) is Reason.ERRORS
    assert reason_in_shadow(ShadowCounts(requests=1000, errors={"runtime": 20})) is None
