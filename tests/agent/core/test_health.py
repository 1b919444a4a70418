"""What probation concludes from what a device measured."""

from __future__ import annotations

import pytest

from tests.builders import a_histogram
from wherry.histogram import Histogram
from wherry.messages import Reason
from wherry_agent.core.health import (
    FEWEST_ERRORS,
    NOT_FINITE,
    PROBATION_LATENCY,
    Trial,
    diagnose,
    observe,
)

A_WINDOW = PROBATION_LATENCY.window_requests


def a_window(median_ms: float, requests: int = A_WINDOW) -> Histogram:
    return a_histogram(*[median_ms] * requests)


def a_trial(*medians_ms: float, incumbent_ms: float = 1.0, incumbent: int = A_WINDOW) -> Trial:
    trial = Trial(incumbent=a_window(incumbent_ms, incumbent) if incumbent else Histogram())
    for median in medians_ms:
        trial = observe(trial, requests=A_WINDOW, errors={}, compute=a_window(median))
    return trial


def reason_of(trial: Trial) -> Reason | None:
    sickness = diagnose(trial)
    return sickness.reason if sickness else None


def test_one_slow_window_says_nothing() -> None:
    assert reason_of(a_trial(5.0)) is None
    assert reason_of(a_trial(5.0, 1.0, 5.0)) is None


def test_two_successive_slow_windows_are_sickness_and_the_sentence_names_both_medians() -> None:
    trial = a_trial(1.0, 5.0, 5.0)
    assert reason_of(trial) is Reason.SLOW
    sickness = diagnose(trial)
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
    trial = a_trial(candidate_ms, candidate_ms, incumbent_ms=incumbent_ms)
    assert (reason_of(trial) is Reason.SLOW) == is_slow


def test_nothing_is_slow_beside_an_incumbent_with_too_few_requests() -> None:
    assert reason_of(a_trial(9.0, 9.0, incumbent=A_WINDOW - 1)) is None
    assert reason_of(a_trial(9.0, 9.0, incumbent=0)) is None


def test_small_windows_are_gathered_until_they_can_be_compared() -> None:
    trial = a_trial()
    for _ in range(2 * A_WINDOW // 10):
        assert reason_of(trial) is None
        trial = observe(trial, requests=10, errors={}, compute=a_window(5.0, 10))
    assert reason_of(trial) is Reason.SLOW


def failing(times: int, requests: int, kind: str = "runtime") -> Trial:
    return observe(a_trial(), requests=requests, errors={kind: times}, compute=Histogram())


def test_a_few_errors_are_no_sickness() -> None:
    assert reason_of(failing(FEWEST_ERRORS - 1, 5)) is None
    assert reason_of(failing(FEWEST_ERRORS, 250)) is None
    assert reason_of(failing(FEWEST_ERRORS, 249)) is Reason.ERRORS


def test_errors_add_up_over_windows_and_the_most_frequent_is_named() -> None:
    trial = failing(3, 20)
    trial = observe(trial, requests=20, errors={"timeout": 2}, compute=Histogram())
    sickness = diagnose(trial)
    assert sickness and sickness.reason is Reason.ERRORS
    assert sickness.detail == "5 of 40 requests failed (runtime)"


def test_answers_that_are_no_numbers_have_their_own_name() -> None:
    assert reason_of(failing(FEWEST_ERRORS, 100, NOT_FINITE)) is Reason.NOT_FINITE
