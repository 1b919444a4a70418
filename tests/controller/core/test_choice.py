"""Tests of the choice: goals, budgets, the Pareto set, and how many operators stay in float."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.builders import a_profile
from wherry.profile import Objective, Precision, Runtime
from wherry_controller.core.choice import (
    EXPECTED,
    LARGEST_FLOAT_SHARE,
    Candidate,
    Goals,
    Latency,
    Score,
    choose,
    judge,
    judge_score,
    judge_weights,
    next_kept,
    pareto,
)
from wherry_controller.core.fault import BuildReason, Fault
from wherry_controller.core.recipe import Recipe

SHARES = st.integers(0, 1000).map(lambda rows: rows / 1000)
FLOAT_BYTES = 4_000_000


def the_goals(**changes: object) -> Goals:
    facts: dict[str, object] = {
        "floor": 0.9,
        "largest_drop": 0.01,
        "grows": True,
        "size_bytes": None,
        "latency_ms": None,
        "memory_bytes": None,
        "precisions": tuple(Precision),
        "prefer": Objective.LATENCY,
    }
    return Goals(**{**facts, **changes})  # type: ignore[arg-type]


def a_score(drop: float = 0.0, *, value: float | None = None) -> Score:
    return Score(
        value=0.96 - drop if value is None else value,
        reference_value=0.96,
        drop=drop,
        drop_low=drop - 0.005,
        drop_high=drop + 0.005,
        agreement=0.99,
        output_error=0.01,
        samples=1000,
    )


def a_candidate(
    precision: Precision = Precision.FP32,
    *,
    drop: float = 0.0,
    size: int = FLOAT_BYTES,
    speed: float | None = 1.0,
    memory: int = 10_000_000,
    kept: tuple[str, ...] = (),
) -> Candidate:
    recipe = Recipe(runtime=Runtime.ONNXRUNTIME, precision=precision, kept_float=kept)
    latency = (
        None
        if speed is None
        else Latency(p50_ms=1 / speed, p99_ms=2 / speed, measured_on="here", speed_ratio=speed)
    )
    return Candidate(
        recipe=recipe,
        name=recipe.name,
        size_bytes=size,
        searched=a_score(drop),
        judged=a_score(drop),
        memory_bytes=memory,
        latency=latency,
    )


FLOAT = a_candidate()
INT8 = a_candidate(Precision.INT8, drop=0.005, size=1_000_000, speed=2.0, memory=5_000_000)


def reason(fault: Fault | None) -> BuildReason | None:
    return fault.reason if fault else None


@given(SHARES, SHARES)
@example(0.97, 0.96)
def test_a_score_passes_at_its_floor_within_the_largest_drop(fp32: float, int8: float) -> None:
    score = replace(a_score(fp32 - int8, value=int8), reference_value=fp32)
    found = reason(judge_score(score, the_goals()))
    if round(int8 * 1000) < 900:
        assert found is BuildReason.BELOW_FLOOR
    elif round(fp32 * 1000) - round(int8 * 1000) > 10:
        assert found is BuildReason.DROP_TOO_LARGE
    else:
        assert found is None


def test_where_less_is_better_the_floor_is_a_ceiling() -> None:
    goals = the_goals(grows=False, floor=0.5)
    assert judge_score(a_score(value=0.5), goals) is None
    assert reason(judge_score(a_score(value=0.51), goals)) is BuildReason.BELOW_FLOOR
    assert judge_score(a_score(value=99.0), the_goals(grows=False, floor=None)) is None


def test_what_the_search_saw_and_what_it_did_not_see_must_both_hold() -> None:
    seen = replace(INT8, searched=a_score(0.02))
    unseen = replace(INT8, judged=a_score(0.02))
    for one in (seen, unseen):
        assert reason(judge(one, FLOAT, the_goals())) is BuildReason.DROP_TOO_LARGE


@pytest.mark.parametrize(
    ("budget", "fits", "exceeds"),
    [
        ("size_bytes", 1_000_000, 999_999),
        ("latency_ms", 0.5, 0.49),
        ("memory_bytes", 10_000_000, 9_999_999),  # Both bundles are resident at a swap.
    ],
)
def test_budgets_are_upper_bounds(budget: str, fits: float, exceeds: float) -> None:
    assert judge(INT8, FLOAT, the_goals(**{budget: fits})) is None
    fault = judge(INT8, FLOAT, the_goals(**{budget: exceeds}))
    assert reason(fault) is BuildReason.OVER_BUDGET


def test_what_was_not_measured_exceeds_no_budget() -> None:
    unmeasured = replace(INT8, latency=None, memory_bytes=None)
    assert judge(unmeasured, FLOAT, the_goals(latency_ms=0.001, memory_bytes=1)) is None


@pytest.mark.parametrize(
    ("precision", "smallest"),
    [(Precision.FP32, 4000), (Precision.INT8, 1000), (Precision.INT4, 500)],
)
def test_weights_that_cannot_fit_are_seen_before_anything_is_made(
    precision: Precision, smallest: int
) -> None:
    fits = replace(a_profile(size_bytes=smallest), precisions=(precision,))
    assert judge_weights(fits, 4000) is None
    small = replace(fits, size_bytes=smallest - 1)
    assert reason(judge_weights(small, 4000)) is BuildReason.OVER_BUDGET
    assert judge_weights(replace(fits, size_bytes=None), 1 << 40) is None


def test_a_candidate_slower_than_float_is_not_shipped() -> None:
    slow = a_candidate(Precision.INT8, size=1_000_000, speed=0.99)
    assert reason(judge(slow, FLOAT, the_goals())) is BuildReason.SLOWER_THAN_FLOAT
    assert choose([FLOAT, slow], the_goals(prefer=Objective.SIZE))[0] == FLOAT
    assert judge(replace(slow, latency=None), FLOAT, the_goals()) is None


def test_a_precision_that_the_profile_does_not_take_is_only_compared_with() -> None:
    goals = the_goals(precisions=(Precision.INT8,))
    assert choose([FLOAT, INT8], goals)[0] == INT8
    chosen, why = choose([FLOAT, replace(INT8, judged=a_score(0.5))], goals)
    assert chosen is None
    assert why == "int8-s8s8: the metric is 0.4600 and the floor is 0.9000"


@pytest.mark.parametrize("prefer", list(Objective))
def test_the_objective_decides_among_the_good(prefer: Objective) -> None:
    small = a_candidate(Precision.INT4, drop=0.008, size=500_000, speed=1.1, memory=8_000_000)
    wanted = {
        Objective.LATENCY: INT8,
        Objective.SIZE: small,
        Objective.MEMORY: INT8,
        Objective.METRIC: FLOAT,
    }
    chosen, why = choose([FLOAT, INT8, small], the_goals(prefer=prefer))
    assert chosen == wanted[prefer]
    assert why


def test_without_a_latency_the_precision_decides_and_the_reason_says_so() -> None:
    untimed = [
        a_candidate(precision, size=size, speed=None)
        for precision, size in (
            (Precision.FP32, FLOAT_BYTES),
            (Precision.INT4, 600_000),
            (Precision.INT8, 1_000_000),
            (Precision.INT8_WEIGHTS, 1_000_000),
        )
    ]
    chosen, why = choose(untimed, the_goals())
    assert chosen is not None
    assert chosen.recipe.precision is Precision.INT8
    assert "none was measured on the profile's hardware" in why
    smallest, _ = choose(untimed, the_goals(prefer=Objective.SIZE))
    assert smallest == untimed[1]


def test_every_precision_has_a_place_among_the_expected() -> None:
    assert sorted(EXPECTED) == sorted(Precision)


def test_float_is_an_answer_and_is_stated_as_one() -> None:
    chosen, why = choose([FLOAT, replace(INT8, judged=a_score(0.5))], the_goals())
    assert chosen == FLOAT
    assert why.startswith("fp32 stays the best choice")
    assert "the metric is 0.4600 and the floor is 0.9000" in why


def test_the_reason_says_what_was_kept_in_float_and_what_it_gains() -> None:
    mixed = a_candidate(Precision.INT8, size=2_000_000, speed=1.5, kept=("conv1", "conv2"))
    _, why = choose([FLOAT, mixed], the_goals())
    assert "2 operators back in float" in why
    assert "1.50 times as fast" in why
    assert "2.00 times smaller" in why


def test_the_nearest_misses_are_named_nearest_first() -> None:
    far = a_candidate(Precision.INT4, drop=0.3)
    near = a_candidate(Precision.INT8, drop=0.02)
    _, why = choose([a_candidate(drop=0.5), far, near], the_goals())
    assert 0 < why.index("int8") < why.index("int4")


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
        min_size=1,
        max_size=6,
    )
)
def test_nothing_in_the_pareto_set_is_beaten_and_all_else_is(
    figures: list[tuple[int, int, int, int]],
) -> None:
    every = [
        a_candidate(Precision.INT8, drop=d, size=s, speed=v, memory=m, kept=("x",) * index)
        for index, (d, s, v, m) in enumerate(figures)
    ]
    front = pareto(every)
    assert front
    for one, mine in zip(every, figures, strict=True):
        beaten = any(
            all(a <= b for a, b in zip(cost(other), cost(mine), strict=True)) and other != mine
            for other in figures
        )
        assert (one.name in front) is not beaten


def cost(figures: tuple[int, int, int, int]) -> tuple[float, ...]:
    drop, size, speed, memory = figures
    return (drop, size, 1 / speed, memory)


@given(st.integers(1, 200), st.integers(0, 200))
@example(10, 0)
@example(1, 1)
def test_the_search_keeps_the_fewest_operators_that_hold_the_goal(
    operators: int, needed: int
) -> None:
    most = int(operators * LARGEST_FLOAT_SHARE)
    tried: list[tuple[int, bool]] = []
    while (count := next_kept(tried, operators)) is not None:
        assert count not in [before for before, _ in tried]
        assert 1 <= count <= most
        tried.append((count, count >= needed))
    assert len(tried) <= 2 * math.log2(operators + 1) + 2
    met = [count for count, holds in tried if holds]
    assert min(met, default=None) == (max(needed, 1) if max(needed, 1) <= most else None)
