"""What shadowing and probation conclude: whether the bundle under watch is sick, by which sign.

It judges what this device measured of this bundle, against the incumbent on this same device. In
shadowing: failed copies and the share of equal answers. In probation, in this order:

    answers that are no numbers · requests that failed · compute time (`latency`) · labels
    growth of the worker's own memory · the device's temperature

Windows of one unchanged model stray widely, so that none of them decides alone: times, memory and
temperature take several windows one after the other, labels a drop that chance does not explain.
With a split both sides are measured in the same time, and compared window by window. A worker that
dies in either phase needs no statistics: the engine tells of it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from wherry.histogram import Histogram, merge, quantile_ms
from wherry.latency import LatencyRule, compare, compare_beside
from wherry.measures import Feedback, ShadowCounts
from wherry.messages import Shadow
from wherry.reasons import Reason
from wherry_agent.core.labels import (
    accuracy,
    labels_of,
    mean_error,
    stray_of_accuracies,
    stray_of_errors,
)

NOT_FINITE = "not_finite"

PROBATION_LATENCY = LatencyRule(window_requests=100)
LARGEST_ERROR_SHARE = 0.02
FEWEST_ERRORS = 5
SUCCESSIVE_WINDOWS = 3  # In which the worker is too large, or the device too hot.
CHANCE = 3.0  # Standard errors by which accuracy must have fallen: 1 of 700 looks at chance.
WINDOWS_KEPT = 60


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What makes a bundle in probation sick on this device, beside latency, errors and NaN.

    The worker's own memory may grow by `largest_memory_growth` (a share) and `memory_slack_bytes`;
    the device may be at `largest_temperature_c`. Once both have `min_labels` answers with labels,
    accuracy may fall by `largest_accuracy_drop` below the incumbent's, or the mean absolute error
    of numbers grow by `largest_error_growth` (a share) above the incumbent's.
    """

    largest_memory_growth: Annotated[float, msgspec.Meta(ge=0)] = 0.5
    memory_slack_bytes: Annotated[int, msgspec.Meta(ge=0)] = 16 << 20
    largest_temperature_c: float = 85.0
    largest_accuracy_drop: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    largest_error_growth: Annotated[float, msgspec.Meta(ge=0)] = 0.25
    min_labels: Annotated[int, msgspec.Meta(ge=1)] = 50


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What one window measured of one bundle under one alias, and how hot the device was."""

    requests: int = 0
    errors: dict[str, int] = {}
    compute: Histogram = Histogram()
    feedback: Feedback = Feedback()
    shadow: ShadowCounts | None = None
    worker_bytes: int | None = None
    temperature_c: float | None = None


class Incumbent(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of the bundle before, while it alone served."""

    compute: Histogram = Histogram()
    labels: Feedback = Feedback()
    temperature_c: float | None = None


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured since the flip.

    `compute` are times gathered into windows that can be compared, in their order, and `whole` all
    of them; `beside` are those of the candidate and of the incumbent in the same time, which count
    while the two share requests. `worker` and `temperatures` are the newest, `base_bytes` is the
    worker's memory when it was warm.
    """

    incumbent: Incumbent = Incumbent()
    shares: bool = False
    compute: tuple[Histogram, ...] = ()
    whole: Histogram = Histogram()
    beside: tuple[tuple[Histogram, Histogram], ...] = ()
    requests: int = 0
    errors: dict[str, int] = {}
    labels: Feedback = Feedback()
    base_bytes: int | None = None
    worker: tuple[int, ...] = ()
    temperatures: tuple[float, ...] = ()


class Sickness(msgspec.Struct, frozen=True):
    reason: Reason
    detail: str


def observe(watch: Watch, window: Window) -> Watch:
    """Return the watch with one more window of the candidate."""
    worker = (*watch.worker, *_known(window.worker_bytes))
    return msgspec.structs.replace(
        watch,
        compute=gather(watch.compute, window.compute),
        whole=merge((watch.whole, window.compute)),
        beside=_gather_beside(watch.beside, window.compute, Histogram()),
        requests=watch.requests + window.requests,
        errors=_sum(watch.errors, window.errors),
        labels=watch.labels + labels_of(window.feedback),
        base_bytes=watch.base_bytes or next(iter(worker), None),
        worker=worker[-SUCCESSIVE_WINDOWS:],
        temperatures=(*watch.temperatures, *_known(window.temperature_c))[-SUCCESSIVE_WINDOWS:],
    )


def observe_beside(watch: Watch, window: Window) -> Watch:
    """Return the watch with one more window of the incumbent, which still answers, or did."""
    incumbent = msgspec.structs.replace(
        watch.incumbent, labels=watch.incumbent.labels + labels_of(window.feedback)
    )
    beside = _gather_beside(watch.beside, Histogram(), window.compute)
    return msgspec.structs.replace(watch, incumbent=incumbent, beside=beside)


def diagnose(watch: Watch, bounds: Bounds) -> Sickness | None:
    """Return why the candidate is sick, or None while nothing speaks against it."""
    return (
        _find_failures(watch.requests, watch.errors)
        or _find_slowness(watch)
        or _find_inaccuracy(watch, bounds)
        or _find_error(watch, bounds)
        or _find_growth(watch, bounds)
        or _find_heat(watch, bounds)
    )


def diagnose_shadow(counts: ShadowCounts, shadow: Shadow) -> Sickness | None:
    """Return why a candidate that only saw copies is sick, or None."""
    failed = sum(counts.errors.values())
    sickness = _find_failures(counts.requests + failed, counts.errors)
    least = shadow.min_agreement
    if sickness or least is None or counts.requests < shadow.min_requests:
        return sickness
    if counts.agreed >= least * counts.rows:
        return None
    said = (
        f"{counts.agreed} of {counts.rows} rows ({counts.agreed / counts.rows:.1%}) were answered "
        f"as the incumbent does, and {least:.1%} are wanted"
    )
    return Sickness(Reason.DISAGREES, said)


def gather(windows: tuple[Histogram, ...], more: Histogram) -> tuple[Histogram, ...]:
    """Add to the last window until it can be compared, then begin another; old ones go."""
    if windows and windows[-1].total < PROBATION_LATENCY.window_requests:
        return (*windows[:-1], merge((windows[-1], more)))
    return (*windows, more)[-WINDOWS_KEPT:] if more.total else windows


def _gather_beside(
    pairs: tuple[tuple[Histogram, Histogram], ...], candidate: Histogram, incumbent: Histogram
) -> tuple[tuple[Histogram, Histogram], ...]:
    """Add to the last pair until both sides of it can be compared, then begin another."""
    least = PROBATION_LATENCY.window_requests
    ours, theirs = pairs[-1] if pairs else (Histogram(), Histogram())
    if min(ours.total, theirs.total) >= least:
        return (*pairs, (candidate, incumbent))[-WINDOWS_KEPT:]
    return (*pairs[:-1], (merge((ours, candidate)), merge((theirs, incumbent))))


def _find_failures(requests: int, errors: dict[str, int]) -> Sickness | None:
    strange = errors.get(NOT_FINITE, 0)
    if _too_many(strange, requests):
        return Sickness(Reason.NOT_FINITE, f"{strange} of {requests} answers are not finite")
    failed = sum(errors.values())
    if _too_many(failed, requests):
        worst = max(errors, key=lambda name: errors[name])
        return Sickness(Reason.ERRORS, f"{failed} of {requests} requests failed ({worst})")
    return None


def _find_slowness(watch: Watch) -> Sickness | None:
    """Hold compute times against the incumbent's: of the same time where it answers too."""
    rule = PROBATION_LATENCY
    if watch.shares:
        found = compare_beside(watch.beside, rule)
    else:
        found = compare(watch.compute, watch.incumbent.compute, rule)
    if not found.is_slow:
        return None
    said = (
        f"median {found.candidate_ms:.2f} ms, the incumbent's {found.incumbent_ms:.2f} ms, "
        f"in {rule.successive_windows} successive windows"
    )
    return Sickness(Reason.SLOW, said)


def _find_inaccuracy(watch: Watch, bounds: Bounds) -> Sickness | None:
    ours, theirs = watch.labels, watch.incumbent.labels
    if min(ours.labelled, theirs.labelled) < bounds.min_labels:
        return None
    drop = accuracy(theirs) - accuracy(ours)
    if drop <= bounds.largest_accuracy_drop or drop <= CHANCE * stray_of_accuracies(ours, theirs):
        return None
    said = (
        f"{ours.right} of {ours.labelled} labelled answers are right ({accuracy(ours):.1%}), "
        f"the incumbent's {theirs.right} of {theirs.labelled} ({accuracy(theirs):.1%})"
    )
    return Sickness(Reason.INACCURATE, said)


def _find_error(watch: Watch, bounds: Bounds) -> Sickness | None:
    ours, theirs = watch.labels, watch.incumbent.labels
    if min(ours.answers, theirs.answers) < bounds.min_labels:
        return None
    growth = mean_error(ours) - mean_error(theirs)
    is_allowed = growth <= bounds.largest_error_growth * mean_error(theirs)
    if is_allowed or growth <= CHANCE * stray_of_errors(ours, theirs):
        return None
    said = (
        f"{ours.answers} labelled answers are off by {mean_error(ours):.4g} on average, "
        f"the incumbent's {theirs.answers} by {mean_error(theirs):.4g}"
    )
    return Sickness(Reason.INACCURATE, said)


def _find_growth(watch: Watch, bounds: Bounds) -> Sickness | None:
    if watch.base_bytes is None or len(watch.worker) < SUCCESSIVE_WINDOWS:
        return None
    least = min(watch.worker)
    if least <= watch.base_bytes * (1 + bounds.largest_memory_growth) + bounds.memory_slack_bytes:
        return None
    said = (
        f"its worker has grown from {_mb(watch.base_bytes)} to {_mb(least)} MB "
        f"and more in {SUCCESSIVE_WINDOWS} successive windows"
    )
    return Sickness(Reason.MEMORY_GROWTH, said)


def _find_heat(watch: Watch, bounds: Bounds) -> Sickness | None:
    """Blame the candidate only for a device that was not as hot before."""
    before, limit = watch.incumbent.temperature_c, bounds.largest_temperature_c
    was_hot = before is not None and before > limit
    if was_hot or len(watch.temperatures) < SUCCESSIVE_WINDOWS or min(watch.temperatures) <= limit:
        return None
    was = "" if before is None else f", after {before:.0f} before it"
    said = (
        f"the device is at {min(watch.temperatures):.0f} degrees and more in {SUCCESSIVE_WINDOWS} "
        f"successive windows, and {limit:.0f} are allowed{was}"
    )
    return Sickness(Reason.TOO_HOT, said)


def p50_p99_ms(compute: Histogram) -> tuple[float | None, float | None]:
    return quantile_ms(compute, 0.5), quantile_ms(compute, 0.99)


def _too_many(failed: int, requests: int) -> bool:
    return failed >= FEWEST_ERRORS and failed > LARGEST_ERROR_SHARE * requests


def _sum(some: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    return {name: some.get(name, 0) + more.get(name, 0) for name in some.keys() | more.keys()}


def _known(figure: float | None) -> tuple[float, ...]:
    return () if figure is None else (figure,)


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f}"
