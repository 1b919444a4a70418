"""Which candidate is shipped: figures held to goals, the Pareto set, one of it and the reason.

    measured candidates --> judge (goals, budgets) --> Pareto set --> choose --> the one and why

The metric that judges comes from rows that no decision was made by. A latency is compared only
where it was measured on hardware of the profile: the machine that builds says nothing of an ARM
board's speed. Float is a candidate like any other, so "fp32" is an answer and not a failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from wherry.names import Digest, ProfileName
from wherry.profile import Objective, Precision, Profile
from wherry_controller.core.card import Card
from wherry_controller.core.fault import BuildReason, Fault
from wherry_controller.core.recipe import Recipe

# Shares of rows: 0.97 - 0.96 must not exceed 0.01 by a rounding error.
ROUNDING = 1e-9
NEAREST = 3
# How many times smaller than fp32 a precision can be.
SHRINKS = {
    Precision.FP32: 1,
    Precision.FP16: 2,
    Precision.INT8: 4,
    Precision.INT8_DYNAMIC: 4,
    Precision.INT8_WEIGHTS: 4,
    Precision.INT4: 8,
}
# The fastest first, as far as a precision alone tells: integers are multiplied faster than floats,
# and where ranges found at each run are tried at all they beat static ones; weights that are only
# stored small save no time.
EXPECTED = (
    Precision.INT8_DYNAMIC,
    Precision.INT8,
    Precision.INT4,
    Precision.INT8_WEIGHTS,
    Precision.FP16,
    Precision.FP32,
)
LARGEST_FLOAT_SHARE = 0.6  # Of the operators; beyond it little of the quantization is left.


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """How long one row took; `measured_on` says where, for people.

    It is no part of the bundle, which is the same whenever and wherever it is built.
    `speed_ratio` is float's p50 over this one's in the same interleaved run.
    """

    p50_ms: float
    p99_ms: float
    measured_on: str
    speed_ratio: float = 1.0


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """The metric on some rows beside float's on the same, with a 95 % interval of the drop.

    A drop is a loss, whichever way the metric counts. `output_error` is the root mean square of
    the outputs' difference from float's, as a share of their spread.
    """

    value: float
    reference_value: float
    drop: float
    drop_low: float
    drop_high: float
    agreement: float | None
    output_error: float
    samples: int


RUINED = 1000.0  # Stands for NaN too, and for what cannot be made or run.


class Sensitivity(msgspec.Struct, frozen=True):
    """What quantizing one operator alone does to the outputs: `Score.output_error`, or `RUINED`.

    `layer` is the net's own name for the part that the operator comes from, for people.
    """

    operator: str
    kind: str
    layer: str
    output_error: float


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe that was tried, and what came of it; what was not reached is None.

    `float_layers` are those with weights that the file holds in float, returned or never taken.
    `searched` is the score on the rows that the search looks at, `judged` on the final ones.
    `memory_bytes` is the peak of a process that loads and runs it above one that does not;
    `latency` is None where nothing was timed on hardware of the profile.
    """

    recipe: Recipe
    name: str
    digest: Digest | None = None
    float_layers: tuple[str, ...] = ()
    size_bytes: int | None = None
    searched: Score | None = None
    judged: Score | None = None
    load_ms: float | None = None
    memory_bytes: int | None = None
    latency: Latency | None = None
    evaluated_on: str = ""
    emulated_on: tuple[str, ...] = ()
    fault: BuildReason | None = None
    problem: str = ""
    on_pareto: bool = False


class DeviceFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What devices of a profile found of a bundle for measuring: the median over devices."""

    profile: ProfileName
    recipe: str
    devices: int
    faithful: bool
    p50_ms: float
    p99_ms: float
    memory_bytes: int
    temperature_c: float | None = None


class ProfileReport(msgspec.Struct, frozen=True, kw_only=True):
    """All that was tried for a profile; `chosen` is the name of the candidate that is shipped."""

    profile: ProfileName
    runtime: str
    metric: str
    candidates: tuple[Candidate, ...]
    chosen: str | None
    why: str
    sensitivities: tuple[Sensitivity, ...] = ()
    verified: bool = True
    not_emulated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """What a variant of one version for one profile has to meet, and what then counts most."""

    floor: float | None
    largest_drop: float
    grows: bool
    size_bytes: int | None
    latency_ms: float | None
    memory_bytes: int | None
    precisions: tuple[Precision, ...]
    prefer: Objective


def goals_of(card: Card, profile: Profile) -> Goals:
    """Return the version's goals with those that the profile sets in their place."""
    floor, drop = profile.metric_floor, profile.largest_drop
    return Goals(
        floor=card.goal.floor if floor is None else floor,
        largest_drop=card.goal.largest_drop if drop is None else drop,
        grows=card.task.grows,
        size_bytes=profile.size_bytes,
        latency_ms=profile.latency_ms,
        memory_bytes=profile.memory_bytes,
        precisions=profile.precisions,
        prefer=profile.prefer,
    )


def judge_weights(profile: Profile, weight_bytes: int) -> Fault | None:
    """Say that a version is over the profile's size however it is made, or None.

    It is asked before anything is exported, so it lets through whatever might fit.
    """
    smallest = weight_bytes // max(SHRINKS[precision] for precision in profile.precisions)
    if profile.size_bytes is None or smallest <= profile.size_bytes:
        return None
    problem = (
        f"the weights have {weight_bytes} bytes, {smallest} at best in a precision of the profile, "
        f"and its budget is {profile.size_bytes}"
    )
    return Fault(BuildReason.OVER_BUDGET, problem)


def is_below(value: float, floor: float | None, *, grows: bool) -> bool:
    """Say whether the metric's value is worse than the floor."""
    if floor is None:
        return False
    return value < floor - ROUNDING if grows else value > floor + ROUNDING


def judge_score(score: Score, goals: Goals) -> Fault | None:
    """Say which of the metric's goals a score misses, or None."""
    if is_below(score.value, goals.floor, grows=goals.grows):
        problem = f"the metric is {score.value:.4f} and the floor is {goals.floor:.4f}"
        return Fault(BuildReason.BELOW_FLOOR, problem)
    if score.drop > goals.largest_drop + ROUNDING:
        problem = (
            f"the metric is {score.value:.4f} and fp32's {score.reference_value:.4f}: a drop of "
            f"{score.drop:.4f}, and the largest is {goals.largest_drop:.4f}"
        )
        return Fault(BuildReason.DROP_TOO_LARGE, problem)
    return None


def judge(candidate: Candidate, baseline: Candidate, goals: Goals) -> Fault | None:
    """Say what keeps a measured candidate from being shipped, or None."""
    if candidate.fault is not None:
        return Fault(candidate.fault, candidate.problem)
    if candidate.recipe.precision not in goals.precisions:
        what = candidate.recipe.precision.value
        problem = f"the profile does not take {what}, which is only compared with here"
        return Fault(BuildReason.NO_RECIPE, problem)
    for score in (candidate.searched, candidate.judged):
        fault = judge_score(score, goals) if score is not None else None
        if fault is not None:
            return fault
    return _judge_budget(candidate, goals) or _judge_speed(candidate, baseline)


def pareto(candidates: Sequence[Candidate]) -> frozenset[str]:
    """Return the names of the candidates that none other beats in every figure."""
    return frozenset(
        one.name for one in candidates if not any(_beats(other, one) for other in candidates)
    )


def choose(candidates: Sequence[Candidate], goals: Goals) -> tuple[Candidate | None, str]:
    """Return the candidate that is shipped and why; None where none meets the goals.

    The first candidate is the float baseline. Where none is good enough, the reason names the
    nearest misses.
    """
    base = candidates[0]
    faults = {one.name: judge(one, base, goals) for one in candidates}
    good = [one for one in candidates if faults[one.name] is None]
    if not good:
        return None, _nearest(eligible(candidates, goals), faults)
    front = pareto(good)
    best = min((one for one in good if one.name in front), key=lambda one: _rank(one, goals))
    return best, _why(best, candidates, good, faults, goals)


def eligible(candidates: Sequence[Candidate], goals: Goals) -> list[Candidate]:
    """Return the candidates in a precision that the profile takes."""
    return [one for one in candidates if one.recipe.precision in goals.precisions]


def next_kept(tried: Sequence[tuple[int, bool]], operators: int) -> int | None:
    """Return how many of the most sensitive operators to keep in float next, or None: it is over.

    `tried` holds each number so far and whether it met the goal. The number doubles until the
    goal holds, then halves the gap: NNCF's accuracy control (OpenVINO documentation, "Quantizing
    with Accuracy Control"), with a bisection in place of one operator at a time.
    """
    most = int(operators * LARGEST_FLOAT_SHARE)
    failed = max((count for count, met in tried if not met), default=0)
    met = min((count for count, met in tried if met), default=None)
    if met is None:
        following = max(1, 2 * failed)
        if failed >= most:
            return None
        return min(following, most)
    return (failed + met) // 2 if met - failed > 1 else None


def _judge_budget(candidate: Candidate, goals: Goals) -> Fault | None:
    size, memory = candidate.size_bytes, candidate.memory_bytes
    if goals.size_bytes is not None and size is not None and size > goals.size_bytes:
        problem = f"the model file has {size} bytes and the budget is {goals.size_bytes}"
        return Fault(BuildReason.OVER_BUDGET, problem)
    # Both models are resident while one gives way to the other.
    if goals.memory_bytes is not None and memory is not None and 2 * memory > goals.memory_bytes:
        problem = f"two of it take {2 * memory} bytes and the budget is {goals.memory_bytes}"
        return Fault(BuildReason.OVER_BUDGET, problem)
    latency = candidate.latency
    if goals.latency_ms is not None and latency is not None and latency.p50_ms > goals.latency_ms:
        problem = (
            f"the median latency is {latency.p50_ms:.3f} ms and the budget is {goals.latency_ms} ms"
        )
        return Fault(BuildReason.OVER_BUDGET, problem)
    return None


def _judge_speed(candidate: Candidate, baseline: Candidate) -> Fault | None:
    latency = candidate.latency
    if candidate.name == baseline.name or latency is None or latency.speed_ratio >= 1:
        return None
    problem = f"it runs at {latency.speed_ratio:.3f} times the speed of fp32"
    return Fault(BuildReason.SLOWER_THAN_FLOAT, problem)


def _beats(one: Candidate, other: Candidate) -> bool:
    mine, theirs = _figures(one), _figures(other)
    pairs = [pair for pair in zip(mine, theirs, strict=True) if None not in pair]
    figures = [(a, b) for a, b in pairs if a is not None and b is not None]
    return all(a <= b for a, b in figures) and any(a < b for a, b in figures)


def _figures(one: Candidate) -> tuple[float | None, ...]:
    """Return what Pareto compares, smaller the better: drop, size, latency, promise, memory."""
    score = one.searched or one.judged
    drop = score.drop if score is not None else None
    promise = EXPECTED.index(one.recipe.precision) if one.latency is None else None
    return (drop, one.size_bytes, _relative_ms(one), promise, one.memory_bytes)


def _relative_ms(one: Candidate) -> float | None:
    """Return the latency as a share of float's, which one interleaved run makes comparable."""
    return 1 / one.latency.speed_ratio if one.latency is not None else None


def _rank(one: Candidate, goals: Goals) -> tuple[float, ...]:
    drop, size, latency, promise, memory = (
        float("inf") if figure is None else figure for figure in _figures(one)
    )
    match goals.prefer:
        case Objective.LATENCY:
            return (latency, promise, size, drop)
        case Objective.SIZE:
            return (size, latency, drop)
        case Objective.MEMORY:
            return (memory, size, latency)
        case Objective.METRIC:
            return (drop, latency, size)


def _why(
    best: Candidate,
    candidates: Sequence[Candidate],
    good: Sequence[Candidate],
    faults: dict[str, Fault | None],
    goals: Goals,
) -> str:
    """Say in a sentence or two why this one, and what it gains over float."""
    base = candidates[0]
    of = f"{len(good)} of {len(faults)} candidates meet the goals"
    if best.name == base.name:
        others = _misses(candidates, faults) or f"none is better in {goals.prefer.value}"
        return f"fp32 stays the best choice ({of}; {others})"
    parts = []
    if best.latency is not None:
        parts.append(f"{best.latency.speed_ratio:.2f} times as fast as fp32")
    if best.size_bytes and base.size_bytes:
        parts.append(f"{base.size_bytes / best.size_bytes:.2f} times smaller")
    score = best.judged or best.searched
    if score is not None:
        parts.append(f"a drop of {score.drop:.4f}")
    kept = len(best.recipe.kept_float)
    operators = "1 operator" if kept == 1 else f"{kept} operators"
    held = f", with {operators} back in float to hold the goal" if kept else ""
    by = goals.prefer.value
    if goals.prefer is Objective.LATENCY and best.latency is None:
        by = "latency as its precision promises it, for none was measured on the profile's hardware"
    return f"{best.name} is the best in {by} ({of}): {', '.join(parts)}{held}"


def _nearest(candidates: Sequence[Candidate], faults: dict[str, Fault | None]) -> str:
    misses = _misses(candidates, faults)
    if not misses:
        return "no recipe is worth a trial for the profile's precisions"
    return misses if len(candidates) == 1 else f"no candidate meets the goals; nearest are {misses}"


def _misses(candidates: Sequence[Candidate], faults: dict[str, Fault | None]) -> str:
    """Return what the nearest of the refused candidates miss, and how many others there are."""

    def distance(one: Candidate) -> float:
        score = one.judged or one.searched
        return score.drop if score is not None else float("inf")

    missed = [(one, fault) for one in candidates if (fault := faults[one.name]) is not None]
    ordered = sorted(missed, key=lambda pair: distance(pair[0]))
    parts = [f"{one.name}: {fault.problem}" for one, fault in ordered[:NEAREST]]
    if len(ordered) > NEAREST:
        parts.append(f"and {len(ordered) - NEAREST} more, which the report lists")
    return "; ".join(parts)
