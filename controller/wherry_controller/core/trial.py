"""What devices find of a build's candidates: within what they are asked, and the median of it.

Only devices that measured the same candidates are put together, float among them where any did:
a ratio of medians over different devices would compare the devices. A candidate that one device
runs unfaithfully is unfaithful, whatever the others say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import median

import msgspec

from wherry.measures import TrialFigures
from wherry.messages import Trial, TrialResult
from wherry.names import DeviceId, Digest, ProfileName, TrialId
from wherry.profile import Profile
from wherry_controller.core.choice import DeviceFigures

RUNS = 200
DEADLINE_S = 600.0
MEMORY_BYTES = 512 << 20  # Where the profile sets no budget.
WORKER_BYTES = 96 << 20  # Of a worker without a model: Python, numpy and the largest runtime.
MOST_DEVICES = 5  # Of a profile: more than that change no median by much.


class Found(msgspec.Struct, frozen=True):
    """What one device answered of one candidate."""

    device: DeviceId
    recipe: str
    result: TrialResult


def trial_of(trial: TrialId, bundle: Digest, profile: Profile) -> Trial:
    """Return a trial within what the profile leaves one of two bundles, and the worker itself."""
    budget_bytes = profile.memory_bytes
    memory_bytes = MEMORY_BYTES if budget_bytes is None else budget_bytes // 2 + WORKER_BYTES
    return Trial(
        trial=trial,
        bundle=bundle,
        runs=RUNS,
        deadline_s=DEADLINE_S,
        memory_bytes=memory_bytes,
    )


def figures_of(
    profile: ProfileName, baseline: str, found: Sequence[Found]
) -> tuple[DeviceFigures, ...]:
    """Return what devices of a profile found of each recipe; `baseline` is float's."""
    strange = Counter(one.recipe for one in found if one.result.faithful is False)
    measured = _comparable(baseline, _by_device(found))
    unfaithful = [_unfaithful(profile, recipe, count) for recipe, count in strange.items()]
    if baseline in strange:
        return tuple(unfaithful)  # There is nothing left to compare with.
    recipes = {recipe: None for figures in measured for recipe in figures}
    faithful = [
        _median(profile, recipe, [figures[recipe] for figures in measured])
        for recipe in recipes
        if recipe not in strange
    ]
    return (*faithful, *unfaithful)


def _by_device(found: Iterable[Found]) -> Mapping[DeviceId, dict[str, TrialFigures]]:
    figures: dict[DeviceId, dict[str, TrialFigures]] = {}
    for one in found:
        if one.result.figures is not None:
            figures.setdefault(one.device, {})[one.recipe] = one.result.figures
    return figures


def _comparable(
    baseline: str, by_device: Mapping[DeviceId, dict[str, TrialFigures]]
) -> Collection[dict[str, TrialFigures]]:
    """Return the figures of the devices that measured the same recipes, the most of them."""
    groups: dict[frozenset[str], list[dict[str, TrialFigures]]] = {}
    for figures in by_device.values():
        groups.setdefault(frozenset(figures), []).append(figures)
    if not groups:
        return []
    best = max(groups, key=lambda one: (baseline in one, len(one), len(groups[one]), sorted(one)))
    return groups[best]


def _median(profile: ProfileName, recipe: str, figures: Sequence[TrialFigures]) -> DeviceFigures:
    heat = [one.temperature_after_c for one in figures if one.temperature_after_c is not None]
    return DeviceFigures(
        profile=profile,
        recipe=recipe,
        devices=len(figures),
        faithful=True,
        p50_ms=median(one.p50_ms for one in figures),
        p99_ms=median(one.p99_ms for one in figures),
        memory_bytes=round(median(max(0, one.memory_bytes - one.base_bytes) for one in figures)),
        temperature_c=median(heat) if heat else None,
    )


def _unfaithful(profile: ProfileName, recipe: str, devices: int) -> DeviceFigures:
    return DeviceFigures(
        profile=profile,
        recipe=recipe,
        devices=devices,
        faithful=False,
        p50_ms=0.0,
        p99_ms=0.0,
        memory_bytes=0,
    )
