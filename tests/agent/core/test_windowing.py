"""Windows are as long as the day's bytes want them, and no longer than they may be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wherry_agent.core.budget import Spent, spend
from wherry_agent.core.windowing import Rule, is_due, is_idle_long, length_s, may_tell

DAY_S = 86_400


def test_without_a_budget_a_window_has_its_length() -> None:
    rule = Rule(10.0, 3600.0)
    assert length_s(rule, 10**9) == 10.0
    assert not is_due(rule, 10**9, since_s=5.0, now_s=14.9)
    assert is_due(rule, 10**9, since_s=5.0, now_s=15.0)


def test_a_budget_makes_windows_longer_up_to_the_longest() -> None:
    rule = Rule(10.0, 3600.0, bytes_per_day=90_000)
    assert length_s(rule, 0) == 10.0
    assert length_s(rule, 100) == 100.0
    assert length_s(rule, 10**9) == 3600.0


def test_a_longest_length_below_the_ordinary_one_shortens_nothing() -> None:
    assert length_s(Rule(10.0, 1.0, bytes_per_day=1), 10**9) == 10.0


def test_a_device_that_nobody_asks_tells_of_itself_once_in_the_longest_length() -> None:
    rule = Rule(10.0, 3600.0)
    assert not is_idle_long(rule, told_s=100.0, now_s=3699.0)
    assert is_idle_long(rule, told_s=100.0, now_s=3700.0)


@given(
    st.lists(st.integers(1, 20_000), min_size=1, max_size=200),
    st.integers(5_000, 1_000_000),
    st.integers(0, 30 * DAY_S),
)
def test_in_no_day_more_is_told_than_the_budget(
    sizes: list[int], bytes_per_day: int, start_s: int
) -> None:
    rule = Rule(60.0, 3600.0, bytes_per_day)
    now_s, since_s, last, told = float(start_s), float(start_s), 0, list[tuple[float, int]]()
    spent = Spent()
    for size in sizes:
        for _ in range(60):
            now_s += rule.window_s
            if is_due(rule, last, since_s=since_s, now_s=now_s) and may_tell(
                rule, spent, size, now_s
            ):
                spent, since_s, last = spend(spent, size, now_s), now_s, size
                told.append((now_s, size))
                break
    for at_s, _ in told:
        assert sum(size for t, size in told if at_s - DAY_S < t <= at_s) <= bytes_per_day


def test_windows_of_one_size_last_the_whole_day() -> None:
    day_bytes = 100_000
    rule = Rule(10.0, 3600.0, day_bytes)
    spent, now_s, since_s, last, told = Spent(), 0.0, 0.0, 0, 0
    while now_s < 10 * DAY_S:
        now_s += rule.window_s
        if is_due(rule, last, since_s=since_s, now_s=now_s):
            assert may_tell(rule, spent, 1000, now_s)
            spent, since_s, last, told = spend(spent, 1000, now_s), now_s, 1000, told + 1000
    assert told > 0.9 * 10 * day_bytes
