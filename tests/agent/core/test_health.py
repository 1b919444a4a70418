"""What probation concludes from what a device measured."""

from __future__ import annotations

import pytest

from tests.builders import a_histogram
from wherry.histogram import Histogram
from wherry.reasons import Reason
from wherry_agent.core.health import (
    FEWEST_ERRORS,
    NOT_FINITE,
    PROBATION_LATENCY,
    Watch,
    diagnose,
    observe,
)

A_WINDOW = PROBATION_LATENCY.window_requests


def a_window(median_ms: float, requests: int = A_WINDOW) -> Histogram:
    return a_histogram(*[median_ms] * requests)


def a_watch(*medians_ms: float, incumbent_ms: float = 1.0, incumbent: int = A_WINDOW) -> Watch:
    watch = Watch(incumbent=a_window(incumbent_ms, incumbent) if incumbent else Histogram())
    for median in medians_ms:
        watch = observe(watch, requests=A_WINDOW, errors={}, compute=a_window(median))
    return watch


def reason_of(watch: Watch) -> Reason | None:
    sickness = diagnose(watch)
    return sickness.reason if sickness else None


def test_one_slow_window_says_nothing() -> None:
    assert reason_of(a_watch(5.0)) is None
    assert reason_of(a_watch(5.0, 1.0, 5.0)) is None


def test_two_successive_slow_windows_are_sickness_and_the_sentence_names_both_medians() -> None:
    watch = a_watch(1.0, 5.0, 5.0)
    assert reason_of(watch) is Reason.SLOW
    sickness = diagnose(watch)
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
        watch = observe(watch, requests=10, errors={}, compute=a_window(5.0, 10))
    assert reason_of(watch) is Reason.SLOW


def failing(times: int, requests: int, kind: str = "runtime") -> Watch:
    return observe(a_watch(), requests=requests, errors={kind: times}, compute=Histogram())


def test_a_few_errors_are_no_sickness() -> None:
    assert reason_of(failing(FEWEST_ERRORS - 1, 5)) is None
    assert reason_of(failing(FEWEST_ERRORS, 250)) is None
    assert reason_of(failing(FEWEST_ERRORS, 249)) is Reason.ERRORS


def test_errors_add_up_over_windows_and_the_most_frequent_is_named() -> None:
    watch = failing(3, 20)
    watch = observe(watch, requests=20, errors={"timeout": 2}, compute=Histogram())
    sickness = diagnose(watch)
    assert sickness and sickness.reason is Reason.ERRORS
    assert sickness.detail == "5 of 40 requests failed (runtime)"


def test_answers_that_are_no_numbers_have_their_own_name() -> None:
    assert reason_of(failing(FEWEST_ERRORS, 100, NOT_FINITE)) is Reason.NOT_FINITE
