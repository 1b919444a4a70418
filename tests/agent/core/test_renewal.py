"""A certificate is renewed in time, again after failures, and never in a rush."""

from __future__ import annotations

import pytest

from wherry.reasons import Reason
from wherry_agent.core.renewal import (
    DAY_S,
    FIRST_S,
    LARGEST_S,
    Outcome,
    Renewal,
    Renewed,
    begin,
    end,
    find_fault,
    is_due,
    renewed_to,
)

START, LIFE_S = 1_000_000.0, 30 * DAY_S
PLAIN = Renewal(not_before=START, not_after=START + LIFE_S, chance=0.0)
FAILED = Renewed(outcome=Outcome.UNAVAILABLE)


def test_it_is_renewed_at_two_thirds_of_its_life() -> None:
    due = START + LIFE_S * 2 / 3
    assert not is_due(PLAIN, 0.0, due - 1)
    assert is_due(PLAIN, 0.0, due + 1)


def test_a_fleet_that_was_enrolled_in_one_hour_is_spread_over_a_day_and_more() -> None:
    late = Renewal(not_before=START, not_after=START + LIFE_S, chance=0.999)
    due = START + LIFE_S * 2 / 3
    assert not is_due(late, 0.0, due + DAY_S)
    assert is_due(late, 0.0, START + LIFE_S * 0.72)


def test_a_certificate_that_ended_long_ago_is_renewed() -> None:
    assert is_due(PLAIN, 0.0, START + 400 * DAY_S)


def test_who_asks_does_not_ask_again_meanwhile() -> None:
    assert not is_due(begin(PLAIN), 0.0, START + LIFE_S)


@pytest.mark.parametrize("failed", range(12))
def test_after_a_failure_it_waits_longer_each_time_and_never_for_ever(failed: int) -> None:
    state = PLAIN
    for _ in range(failed):
        state = end(begin(state), FAILED, 0.0, 0.5)
    soon, late = (end(begin(state), FAILED, 0.0, chance).at_s for chance in (0.0, 1.0))
    assert soon == late / 2 == min(LARGEST_S, FIRST_S * 2**failed) / 2
    after = end(begin(state), FAILED, 0.0, 1.0)
    assert not is_due(after, late - 1, START + LIFE_S)
    assert is_due(after, late, START + LIFE_S)


def test_a_busy_door_is_let_be_as_long_as_it_asks() -> None:
    busy = Renewed(outcome=Outcome.UNAVAILABLE, wait_s=900.0)
    assert end(begin(PLAIN), busy, 100.0, 0.0).at_s == 1000.0


@pytest.mark.parametrize("outcome", [Outcome.RENEWED, Outcome.REFUSED])
def test_a_clock_that_runs_ahead_renews_once_a_day_at_most(outcome: Outcome) -> None:
    state = renewed_to(PLAIN, START, START + LIFE_S)
    state = end(begin(state), Renewed(outcome=outcome), 0.0, 0.0)
    in_2100 = 4_102_444_800.0
    assert not is_due(state, DAY_S - 1, in_2100)
    assert is_due(state, DAY_S, in_2100)


def test_a_new_certificate_is_renewed_by_its_own_dates() -> None:
    state = end(begin(PLAIN), Renewed(outcome=Outcome.RENEWED), 0.0, 0.0)
    state = renewed_to(state, START + LIFE_S, START + 2 * LIFE_S)
    assert not is_due(state, 2 * DAY_S, START + LIFE_S * 1.5)
    assert is_due(state, 2 * DAY_S, START + LIFE_S * 1.7)


def test_a_success_begins_the_waiting_anew() -> None:
    state = end(begin(PLAIN), FAILED, 0.0, 1.0)
    state = end(begin(state), Renewed(outcome=Outcome.RENEWED), 0.0, 0.0)
    assert end(begin(state), FAILED, 0.0, 1.0).at_s == FIRST_S


def test_only_what_is_proved_says_that_a_certificate_has_ended() -> None:
    late = START + 2 * LIFE_S
    assert find_fault(PLAIN, floor=START + LIFE_S, now=late) is None
    expired = find_fault(PLAIN, floor=START + LIFE_S + 1, now=late)
    assert expired is Reason.CERTIFICATE_EXPIRED
    ahead = end(begin(PLAIN), Renewed(outcome=Outcome.RENEWED, clock_ahead=True), 0.0, 0.0)
    assert find_fault(ahead, floor=START, now=START) is Reason.CLOCK_AHEAD


def test_a_certificate_that_is_asked_for_in_vain_is_told_of_before_it_ends() -> None:
    failing, late = end(begin(PLAIN), FAILED, 0.0, 1.0), START + 0.85 * LIFE_S
    assert find_fault(failing, floor=START, now=late - 1) is None
    assert find_fault(failing, floor=START, now=late) is Reason.CERTIFICATE_ENDS_SOON
    assert find_fault(PLAIN, floor=START, now=late) is None
    mended = end(begin(failing), Renewed(outcome=Outcome.RENEWED), 0.0, 1.0)
    assert find_fault(mended, floor=START, now=late) is None
