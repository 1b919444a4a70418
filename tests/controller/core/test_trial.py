"""What devices found is put together fairly: the same candidates on the same devices."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.builders import a_device_id, a_digest, a_profile, a_trial_result, trial_figures
from wherry.measures import TrialFigures
from wherry.names import parse_trial_id
from wherry.reasons import Reason
from wherry_controller.core.trial import MEMORY_BYTES, WORKER_BYTES, Found, figures_of, trial_of

PROFILE = a_profile().name
MB = 1_000_000


def found(
    device: str,
    recipe: str,
    p50_ms: float = 1.0,
    *,
    reason: Reason | None = None,
    faithful: bool | None = None,
    figures: TrialFigures | None = None,
) -> Found:
    measured = figures or trial_figures(p50_ms, p99_ms=2 * p50_ms)
    result = a_trial_result(
        figures=measured, faithful=True if reason is None else faithful, reason=reason
    )
    return Found(a_device_id(device), recipe, result)


def medians(*stories: Found, baseline: str = "fp32") -> dict[str, tuple[int, float]]:
    """Return of each recipe on how many devices it was measured, and its median latency."""
    figures = figures_of(PROFILE, baseline, stories)
    return {one.recipe: (one.devices, one.p50_ms) for one in figures if one.faithful}


def test_the_median_is_over_devices() -> None:
    stories = [found(f"pi-{ms}", recipe, ms) for ms in (1.0, 9.0, 2.0) for recipe in ("fp32", "i")]
    assert medians(*stories) == {"fp32": (3, 2.0), "i": (3, 2.0)}


def test_figures_are_of_a_worker_above_one_without_a_model_and_of_the_heat_after() -> None:
    measured = replace(
        trial_figures(2.0, p99_ms=5.0),
        memory_bytes=90 * MB,
        base_bytes=50 * MB,
        temperature_before_c=40.0,
        temperature_after_c=60.0,
    )
    (figures,) = figures_of(PROFILE, "fp32", [found("pi-1", "fp32", figures=measured)])
    assert (figures.profile, figures.recipe, figures.devices) == (PROFILE, "fp32", 1)
    assert (figures.p50_ms, figures.p99_ms) == (2.0, 5.0)
    assert (figures.memory_bytes, figures.temperature_c) == (40 * MB, 60.0)


def test_a_device_without_a_thermometer_says_nothing_of_heat() -> None:
    cold = replace(trial_figures(), temperature_after_c=None)
    (figures,) = figures_of(PROFILE, "fp32", [found("pi-1", "fp32", figures=cold)])
    assert figures.temperature_c is None


def test_only_devices_that_measured_the_same_candidates_are_put_together() -> None:
    slow = [found("slow", "int8", 10.0), found("slow", "fp32", reason=Reason.OVER_BUDGET)]
    both = [found("pi-1", "fp32", 2.0), found("pi-1", "int8", 1.0)]
    more = [found("pi-2", "fp32", 4.0), found("pi-2", "int8", 2.0)]
    assert medians(*slow, *both, *more) == {"fp32": (2, 3.0), "int8": (2, 1.5)}


def test_devices_that_measured_float_are_heard_before_those_that_measured_more() -> None:
    without = [found("pi-1", name) for name in ("int8", "int4", "fp16")]
    assert medians(*without, found("pi-2", "fp32", 7.0)) == {"fp32": (1, 7.0)}


@pytest.mark.parametrize("reason", [Reason.GOLDEN_MISMATCH, Reason.NOT_FINITE])
def test_one_unfaithful_device_makes_a_candidate_unfaithful(reason: Reason) -> None:
    stories = [
        found("pi-1", "fp32"),
        found("pi-1", "int8"),
        found("pi-2", "fp32"),
        found("pi-2", "int8", reason=reason, faithful=False),
    ]
    by_recipe = {one.recipe: one for one in figures_of(PROFILE, "fp32", stories)}
    assert by_recipe["fp32"].faithful
    assert not by_recipe["int8"].faithful


def test_an_unfaithful_float_leaves_nothing_to_compare_with() -> None:
    stories = [
        found("pi-1", "fp32", reason=Reason.GOLDEN_MISMATCH, faithful=False),
        found("pi-1", "int8", 1.0),
    ]
    assert [(one.recipe, one.faithful) for one in figures_of(PROFILE, "fp32", stories)] == [
        ("fp32", False)
    ]


def test_devices_that_measured_nothing_give_no_figures() -> None:
    busy = [found("pi-1", name, reason=Reason.BUSY) for name in ("fp32", "int8")]
    assert figures_of(PROFILE, "fp32", busy) == ()
    assert figures_of(PROFILE, "fp32", []) == ()


@pytest.mark.parametrize(
    ("budget", "allowed"), [(None, MEMORY_BYTES), (100 * MB, 50 * MB + WORKER_BYTES)]
)
def test_a_trial_keeps_within_the_profiles_memory(budget: int | None, allowed: int) -> None:
    profile = a_profile(memory_bytes=budget)
    trial = trial_of(parse_trial_id("build:1"), a_digest("int8"), profile)
    assert (trial.bundle, trial.memory_bytes) == (a_digest("int8"), allowed)
