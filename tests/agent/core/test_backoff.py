"""The wait before a try: it doubles up to a bound, and the fleet spreads over all of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.laws import tried
from wherry_agent.core.backoff import FIRST_S, LARGEST_S, delay_s


def test_the_bound_doubles_until_it_is_the_largest() -> None:
    assert [delay_s(attempt, 1.0) for attempt in range(3)] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S]
    assert delay_s(7, 1.0) == LARGEST_S
    assert delay_s(10**6, 1.0) == LARGEST_S


@tried
@given(st.integers(0, 10**6), st.floats(0, 1, exclude_max=True))
def test_the_jitter_is_full(attempt: int, chance: float) -> None:
    assert delay_s(attempt, chance) == chance * delay_s(attempt, 1.0)


@tried
@given(st.integers(0, 30), st.floats(0, 1, exclude_max=True), st.floats(0, 3600))
def test_a_spread_lengthens_the_first_tries_and_shortens_none(
    attempt: int, chance: float, spread_s: float
) -> None:
    assert delay_s(attempt, chance, spread_s) == chance * max(spread_s, delay_s(attempt, 1.0))
