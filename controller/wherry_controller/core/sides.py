"""Both sides of a rollout as a person compares them: the candidate's figures and the incumbent's.

A tally adds up over windows and devices; figures are read off it. What candidates showed while
they shadowed is of the same requests on both sides, the rest is of those that each answered.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec

from wherry.histogram import Histogram, merge, quantile_ms
from wherry.measures import Feedback, ShadowCounts, macro_f1
from wherry.names import (
    AliasName,
    DeviceId,
    Digest,
    ModelName,
    ProfileName,
    RolloutName,
    VersionName,
)


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What one bundle did on one device, or on many, in a span of time."""

    requests: int = 0
    errors: int = 0
    latency: Histogram = Histogram()
    compute: Histogram = Histogram()
    feedback: Feedback = Feedback()
    shadow: ShadowCounts = ShadowCounts()


NOTHING = Tally()


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What one side showed.

    `latency` is from a request's last byte to its answer's first, `compute` the runtime's part.
    Where labels are numbers there are errors in place of accuracy and F1.
    """

    requests: int
    errors: int
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    compute_p50_ms: float | None
    compute_p99_ms: float | None
    labelled: int
    accuracy: float | None
    f1: float | None
    values: int
    mean_error: float | None
    root_mean_square_error: float | None


class Shadowing(msgspec.Struct, frozen=True, kw_only=True):
    """What came of copied requests: of these alone are both compute times.

    `distance` is how far the outputs lie apart, relative to the incumbent's (L2), a row.
    """

    requests: int
    rows: int
    agreement: float | None
    mean_distance: float | None
    largest_distance: float | None
    compute_p50_ms: float | None
    compute_p99_ms: float | None
    incumbent_p50_ms: float | None
    incumbent_p99_ms: float | None
    errors: dict[str, int]
    skipped: dict[str, int]


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a device: its bundle of the version, and what it served before."""

    device: DeviceId
    profile: ProfileName
    bundle: Digest
    before: Digest | None
    candidate: Tally = NOTHING
    incumbent: Tally = NOTHING


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """Both sides of one device, or of all devices of a profile; None: it served nothing before."""

    devices: int
    candidate: Figures
    incumbent: Figures | None
    shadowing: Shadowing | None


def total(tallies: Sequence[Tally]) -> Tally:
    """Return everything that was counted in any of them."""
    if len(tallies) == 1:
        return tallies[0]
    return Tally(
        requests=sum(one.requests for one in tallies),
        errors=sum(one.errors for one in tallies),
        latency=merge([one.latency for one in tallies]),
        compute=merge([one.compute for one in tallies]),
        feedback=sum((one.feedback for one in tallies), Feedback()),
        shadow=sum((one.shadow for one in tallies if one.shadow != ShadowCounts()), ShadowCounts()),
    )


def compared(pairs: Sequence[Pair]) -> Compared:
    """Return both sides of some devices, added up: of one, or of all of a profile."""
    candidate = total([one.candidate for one in pairs])
    beside = [one.incumbent for one in pairs if one.before is not None]
    return Compared(
        devices=len(pairs),
        candidate=figures_of(candidate),
        incumbent=figures_of(total(beside)) if beside else None,
        shadowing=_shadowing(candidate.shadow),
    )


def by_profile(pairs: Sequence[Pair]) -> Mapping[ProfileName, Sequence[Pair]]:
    """Return the pairs of each profile, in the profiles' order."""
    found: dict[ProfileName, list[Pair]] = defaultdict(list)
    for one in pairs:
        found[one.profile].append(one)
    return dict(sorted(found.items()))


def figures_of(tally: Tally) -> Figures:
    feedback = tally.feedback
    mean_square = _ratio(feedback.squared_error, feedback.values)
    return Figures(
        requests=tally.requests,
        errors=tally.errors,
        latency_p50_ms=quantile_ms(tally.latency, 0.5),
        latency_p99_ms=quantile_ms(tally.latency, 0.99),
        compute_p50_ms=quantile_ms(tally.compute, 0.5),
        compute_p99_ms=quantile_ms(tally.compute, 0.99),
        labelled=feedback.labelled,
        accuracy=_ratio(feedback.right, feedback.labelled),
        f1=macro_f1(feedback),
        values=feedback.values,
        mean_error=_ratio(feedback.absolute_error, feedback.values),
        root_mean_square_error=None if mean_square is None else math.sqrt(mean_square),
    )


def _shadowing(counts: ShadowCounts) -> Shadowing | None:
    if not (counts.requests or counts.errors or counts.skipped):
        return None
    return Shadowing(
        requests=counts.requests,
        rows=counts.rows,
        agreement=_ratio(counts.agreed, counts.rows),
        mean_distance=_ratio(counts.distance, counts.rows),
        largest_distance=counts.largest_distance if counts.rows else None,
        compute_p50_ms=quantile_ms(counts.compute, 0.5),
        compute_p99_ms=quantile_ms(counts.compute, 0.99),
        incumbent_p50_ms=quantile_ms(counts.incumbent_compute, 0.5),
        incumbent_p99_ms=quantile_ms(counts.incumbent_compute, 0.99),
        errors=dict(counts.errors),
        skipped=dict(counts.skipped),
    )


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None


class DeviceSides(msgspec.Struct, frozen=True, kw_only=True):
    """Both sides of one device; `before` is the incumbent's bundle."""

    device: DeviceId
    profile: ProfileName
    bundle: Digest
    before: Digest | None
    sides: Compared


class RolloutSides(msgspec.Struct, frozen=True, kw_only=True):
    """Both sides of a rollout at a time, by profile and by device."""

    rollout: RolloutName
    model: ModelName
    version: VersionName
    alias: AliasName
    status: str
    at: float
    profiles: dict[ProfileName, Compared]
    devices: tuple[DeviceSides, ...]


def device_sides(pair: Pair) -> DeviceSides:
    return DeviceSides(
        device=pair.device,
        profile=pair.profile,
        bundle=pair.bundle,
        before=pair.before,
        sides=compared([pair]),
    )


# In words

COLUMNS = (
    "requests",
    "errors",
    "p50 ms",
    "p99 ms",
    "compute p50 ms",
    "compute p99 ms",
    "accuracy",
    "F1",
    "error",
    "shadowed",
    "agreement",
    "distance",
    "shadow p50 ms",
    "shadow p99 ms",
)


def cells_of(sides: Compared) -> tuple[str, ...]:
    """Return a cell for each of `COLUMNS`: `candidate / incumbent`, or of shadowing one figure."""
    candidate, incumbent, shadowing = sides.candidate, sides.incumbent, sides.shadowing
    own = _texts(candidate)
    others = _texts(incumbent) if incumbent else ("",) * len(own)
    beside = tuple(
        f"{one} / {other}" if one or other else "" for one, other in zip(own, others, strict=True)
    )
    return beside + (_shadow_cells(shadowing) if shadowing else ("",) * 5)


def shown(rows: Sequence[Sequence[str]]) -> Sequence[int]:
    """Return which of `COLUMNS` say anything in any of the rows."""
    return [at for at in range(len(COLUMNS)) if any(row[at] for row in rows)]


def _texts(one: Figures) -> tuple[str, ...]:
    times = (one.latency_p50_ms, one.latency_p99_ms, one.compute_p50_ms, one.compute_p99_ms)
    quality = (one.accuracy, one.f1, one.mean_error)
    return (
        str(one.requests),
        str(one.errors),
        *(_number(time, 3) for time in times),
        *(_number(value, 4) for value in quality),
    )


def _shadow_cells(shadowing: Shadowing) -> tuple[str, ...]:
    times = (
        (shadowing.compute_p50_ms, shadowing.incumbent_p50_ms),
        (shadowing.compute_p99_ms, shadowing.incumbent_p99_ms),
    )
    return (
        str(shadowing.rows),
        _number(shadowing.agreement, 4),
        _number(shadowing.mean_distance, 4),
        *(f"{_number(one, 3)} / {_number(other, 3)}" for one, other in times),
    )


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
