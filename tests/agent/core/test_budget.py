"""The day's budget: in no 24 hours more is fetched than it allows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.laws import tried
from wherry_agent.core.budget import HOUR_S, HOURS, Spent, least, left_bytes, spend

LIMIT = 1000


@tried
@given(
    st.lists(st.tuples(st.floats(0, 7200), st.integers(1, 400)), min_size=1, max_size=80),
)
def test_no_24_hours_hold_more_than_the_budget(wishes: list[tuple[float, int]]) -> None:
    spent, now_s = Spent(), 1_800_000_000.0
    fetched: list[tuple[float, int]] = []
    for pause_s, size in wishes:
        now_s += pause_s
        if size <= (left_bytes(spent, LIMIT, now_s) or 0):
            spent = spend(spent, size, now_s)
            fetched.append((now_s, size))
    for at_s, _ in fetched:
        within = [size for then_s, size in fetched if at_s <= then_s < at_s + HOURS * HOUR_S]
        assert sum(within) <= LIMIT


def test_a_day_later_the_whole_budget_is_there_again() -> None:
    spent = spend(Spent(), LIMIT, 0.0)
    assert left_bytes(spent, LIMIT, HOURS * HOUR_S) == 0
    assert left_bytes(spent, LIMIT, (HOURS + 1) * HOUR_S) == LIMIT


def test_a_clock_that_is_set_back_makes_no_room() -> None:
    spent = spend(Spent(), 700, 50 * 365 * 24 * HOUR_S)
    assert left_bytes(spent, LIMIT, 0.0) == 300
    later = spend(spent, 100, HOUR_S)
    assert left_bytes(later, LIMIT, HOUR_S) == 200
    assert left_bytes(later, LIMIT, (HOURS + 2) * HOUR_S) == LIMIT


def test_the_record_stays_small() -> None:
    spent = Spent()
    for hour in range(500):
        spent = spend(spent, 1, hour * HOUR_S)
    assert len(spent.hours) <= HOURS + 1


def test_without_a_limit_nothing_bounds_and_of_several_the_tightest_does() -> None:
    assert left_bytes(spend(Spent(), 5, 0.0), None, 0.0) is None
    assert least(None, None) is None
    assert least(5.0, None, 3) == 3
