"""What a certificate's dates are worth on a device whose clock may be anything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wherry_agent.core.dates import Dates, Verdict, judge

MOMENTS = st.floats(min_value=0.0, max_value=5e9)


def test_a_certificate_that_has_yet_to_end_is_sound() -> None:
    assert judge(Dates(100.0, 200.0), floor=150.0, clock=150.0) is Verdict.SOUND


def test_a_clock_in_1970_keeps_nobody_out() -> None:
    assert judge(Dates(100.0, 200.0), floor=0.0, clock=0.0) is Verdict.SOUND


def test_a_certificate_that_ended_by_the_clock_alone_is_taken_and_told_of() -> None:
    assert judge(Dates(100.0, 200.0), floor=200.0, clock=201.0) is Verdict.CLOCK_AHEAD


def test_a_certificate_that_ended_before_a_proved_time_is_expired_whatever_the_clock_says() -> None:
    for clock in (0.0, 150.0, 5e9):
        assert judge(Dates(100.0, 200.0), floor=201.0, clock=clock) is Verdict.EXPIRED


def test_a_certificate_that_ends_before_it_begins_is_expired() -> None:
    assert judge(Dates(200.0, 100.0), floor=0.0, clock=0.0) is Verdict.EXPIRED


@given(begins=MOMENTS, ends=MOMENTS, floor=MOMENTS, clock=MOMENTS, later=MOMENTS)
def test_no_clock_makes_an_expired_certificate_sound_nor_a_sound_one_expired(
    begins: float, ends: float, floor: float, clock: float, later: float
) -> None:
    verdicts = {judge(Dates(begins, ends), floor=floor, clock=c) for c in (clock, later)}
    assert verdicts == {Verdict.EXPIRED} or Verdict.EXPIRED not in verdicts
