"""A wall clock that jumps is seen, one that drifts is not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.laws import tried
from wherry_agent.core.clock import JUMP_S, SHOWN_S, Clock, has_jumped, read

START = Clock(1_000_000.0, 10.0)


def test_a_clock_that_is_set_right_after_boot_has_jumped_for_an_hour() -> None:
    clock, jump_s = read(Clock(0.0, 10.0), unix_s=1.7e9, at_s=10.25)
    assert jump_s == 1.7e9 - 0.25
    assert has_jumped(clock)
    clock, _ = read(clock, unix_s=1.7e9 + SHOWN_S - 1, at_s=10.25 + SHOWN_S - 1)
    assert has_jumped(clock)
    clock, _ = read(clock, unix_s=1.7e9 + SHOWN_S, at_s=10.25 + SHOWN_S)
    assert not has_jumped(clock)


def test_a_jump_back_is_one_too() -> None:
    clock, jump_s = read(START, unix_s=START.unix_s - 86_400, at_s=START.at_s)
    assert jump_s == -86_400
    assert has_jumped(clock)


@tried
@given(st.lists(st.floats(0, 1e5), max_size=20), st.floats(-0.01, 0.01))
def test_time_that_passes_and_a_clock_that_drifts_are_no_jump(
    steps: list[float], drift: float
) -> None:
    clock = START
    for step_s in steps:
        step_s = min(step_s, JUMP_S / 0.011)
        clock, jump_s = read(
            clock, unix_s=clock.unix_s + step_s * (1 + drift), at_s=clock.at_s + step_s
        )
        assert jump_s == 0.0
    assert not has_jumped(clock)
