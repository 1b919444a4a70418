"""Restarts: how the pauses grow, and what is too often."""

from __future__ import annotations

from wherry_agent.core.restarts import (
    Bounds,
    Restarts,
    come_up,
    count_anew,
    die,
    fail,
    has_just_failed_too_often,
    is_looping,
    pause,
)

BOUNDS = Bounds(pause_s=0.1, longest_pause_s=1.0, steady_s=30.0, failures=2, deaths=3, within_s=60)


def pauses_of(restarts: Restarts, count: int) -> list[float]:
    found = []
    for _ in range(count):
        restarts, pause_s = pause(restarts, BOUNDS)
        found.append(round(pause_s, 6))
    return found


def test_the_first_restart_comes_at_once_and_pauses_grow_up_to_the_longest() -> None:
    assert pauses_of(Restarts(), 7) == [0.0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert pauses_of(Restarts(pauses=10_000), 1) == [1.0]


def test_a_worker_that_lived_steadily_starts_again_at_once() -> None:
    tired = Restarts(pauses=5)
    assert pauses_of(die(tired, BOUNDS, now_s=0.0, lived_s=30.0), 1) == [0.0]
    assert pauses_of(die(tired, BOUNDS, now_s=0.0, lived_s=29.9), 1) == [1.0]


def test_deaths_within_the_time_are_a_loop_and_older_ones_are_forgotten() -> None:
    restarts = Restarts()
    for now_s in (0.0, 30.0, 60.0):
        restarts = die(restarts, BOUNDS, now_s=now_s, lived_s=1.0)
    assert len(restarts.deaths) == 2  # The first is as old as the time is long.
    assert not is_looping(restarts, BOUNDS)
    assert is_looping(die(restarts, BOUNDS, now_s=61.0, lived_s=1.0), BOUNDS)


def test_failures_in_a_row_are_counted_and_forgotten_when_it_comes_up() -> None:
    once = fail(Restarts())
    twice = fail(once)
    said = [has_just_failed_too_often(each, BOUNDS) for each in (once, twice, fail(twice))]
    assert said == [False, True, False]
    assert not has_just_failed_too_often(fail(come_up(once)), BOUNDS)


def test_counting_anew_keeps_the_pauses() -> None:
    restarts = Restarts(pauses=4, failures=2, deaths=(1.0, 2.0, 3.0))
    assert count_anew(restarts) == Restarts(pauses=4)
