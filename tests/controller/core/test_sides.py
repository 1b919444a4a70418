"""Both sides of a rollout: what adds up, and what is read off it."""

from __future__ import annotations

import msgspec
import pytest

from tests.builders import a_device_id, a_digest, a_histogram
from wherry.measures import ClassCounts, Feedback, ShadowCounts
from wherry.names import parse_profile_name
from wherry_controller.core.sides import (
    COLUMNS,
    Pair,
    Tally,
    by_profile,
    cells_of,
    compared,
    shown,
    total,
)

PI, X86 = parse_profile_name("pi"), parse_profile_name("x86")
LABELLED = Feedback(
    labelled=100,
    right=90,
    classes={"0": ClassCounts(60, 60, 50), "1": ClassCounts(40, 40, 40)},
)
SHADOW = ShadowCounts(
    requests=50,
    rows=100,
    agreed=97,
    distance=2.0,
    largest_distance=0.5,
    compute=a_histogram(4, 4, 4),
    incumbent_compute=a_histogram(2, 2, 2),
    errors={"NotFinite": 1},
    skipped={"over_cpu": 7},
)


def a_tally(*times_ms: float, errors: int = 0, feedback: Feedback = LABELLED) -> Tally:
    times = a_histogram(*times_ms)
    requests = len(times_ms)
    return Tally(requests=requests, errors=errors, latency=times, compute=times, feedback=feedback)


def a_pair(name: str = "pi-1", **facts: object) -> Pair:
    pair = Pair(
        device=a_device_id(name),
        profile=PI,
        bundle=a_digest("new"),
        before=a_digest("old"),
        candidate=a_tally(2, 2, 2),
        incumbent=a_tally(1, 1, 1),
    )
    return msgspec.structs.replace(pair, **facts)


def test_both_sides_of_a_device_stand_beside_one_another() -> None:
    sides = compared([a_pair(candidate=a_tally(2, 2, 9, errors=1))])
    assert sides.incumbent is not None
    assert (sides.candidate.requests, sides.candidate.errors) == (3, 1)
    assert sides.candidate.compute_p50_ms == pytest.approx(2, rel=0.07)
    assert sides.candidate.latency_p99_ms == pytest.approx(9, rel=0.07)
    assert sides.incumbent.compute_p50_ms == pytest.approx(1, rel=0.07)
    assert sides.candidate.accuracy == 0.9
    assert sides.candidate.f1 == pytest.approx((2 * 50 / 120 + 1) / 2)
    assert sides.candidate.mean_error is None


def test_numbers_have_errors_in_place_of_accuracy() -> None:
    feedback = Feedback(values=4, absolute_error=2.0, squared_error=4.0)
    figures = compared([a_pair(candidate=a_tally(1, feedback=feedback))]).candidate
    assert (figures.mean_error, figures.root_mean_square_error) == (0.5, 1.0)
    assert (figures.accuracy, figures.f1) == (None, None)


def test_the_sides_of_a_profile_are_those_of_its_devices_added_up() -> None:
    pairs = [a_pair("a"), a_pair("b", candidate=a_tally(4)), a_pair("c", profile=X86)]
    groups = by_profile(pairs)
    assert list(groups) == [PI, X86]
    sides = compared(groups[PI])
    assert (sides.devices, sides.candidate.requests, sides.candidate.labelled) == (2, 4, 200)
    assert sides.incumbent is not None and sides.incumbent.requests == 6


def test_a_device_that_served_nothing_has_one_side() -> None:
    alone = a_pair(before=None, incumbent=Tally())
    assert compared([alone]).incumbent is None
    both = compared([alone, a_pair("b")])
    assert both.incumbent is not None and both.incumbent.requests == 3


def test_shadowing_shows_agreement_distance_and_both_times_of_the_same_requests() -> None:
    tally = msgspec.structs.replace(Tally(), shadow=SHADOW)
    shadowing = compared([a_pair("a", candidate=tally), a_pair("b", candidate=tally)]).shadowing
    assert shadowing is not None
    assert (shadowing.requests, shadowing.rows, shadowing.agreement) == (100, 200, 0.97)
    assert (shadowing.mean_distance, shadowing.largest_distance) == (0.02, 0.5)
    assert shadowing.compute_p50_ms == pytest.approx(4, rel=0.07)
    assert shadowing.incumbent_p99_ms == pytest.approx(2, rel=0.07)
    assert (shadowing.errors, shadowing.skipped) == ({"NotFinite": 2}, {"over_cpu": 14})
    assert compared([a_pair()]).shadowing is None


def test_a_shadow_that_could_copy_nothing_says_why() -> None:
    tally = Tally(shadow=ShadowCounts(skipped={"too_hot": 9}))
    shadowing = compared([a_pair(candidate=total([tally, Tally()]))]).shadowing
    assert shadowing is not None
    assert (shadowing.skipped, shadowing.agreement) == ({"too_hot": 9}, None)


def test_columns_that_say_nothing_are_left_out() -> None:
    cells = cells_of(compared([a_pair()]))
    assert len(cells) == len(COLUMNS)
    names = [COLUMNS[at] for at in shown([cells])]
    assert names[:2] == ["requests", "errors"] and names[-1] == "F1"
    shadowed = cells_of(compared([a_pair(candidate=Tally(shadow=SHADOW))]))
    assert [COLUMNS[at] for at in shown([cells, shadowed])][-5:] == list(COLUMNS[-5:])
    assert shadowed[COLUMNS.index("agreement")] == "0.9700"
