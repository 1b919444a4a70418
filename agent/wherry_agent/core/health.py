"""What probation concludes: whether the bundle under watch is sick, and by which sign.

It judges what this device measured of this bundle, against the incumbent on this same device:
the compute time of requests (`latency`), the share of requests that failed, and answers that
are no numbers. Labels come later than a probation lasts, as a rule; the gate judges by them.
"""

from __future__ import annotations

import msgspec

from wherry.histogram import Histogram
from wherry.latency import LatencyRule, compare
from wherry.reasons import Reason

NOT_FINITE = "not_finite"

PROBATION_LATENCY = LatencyRule(window_requests=100)
LARGEST_ERROR_SHARE = 0.02
FEWEST_ERRORS = 5


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured since the flip: compute times in the order of windows."""

    incumbent: Histogram = Histogram()
    compute: tuple[Histogram, ...] = ()
    requests: int = 0
    errors: dict[str, int] = {}


class Sickness(msgspec.Struct, frozen=True):
    reason: Reason
    detail: str


def observe(watch: Watch, *, requests: int, errors: dict[str, int], compute: Histogram) -> Watch:
    """Return the watch with one more window of the candidate."""
    classes = watch.errors.keys() | errors.keys()
    return Watch(
        incumbent=watch.incumbent,
        compute=(*watch.compute, compute),
        requests=watch.requests + requests,
        errors={name: watch.errors.get(name, 0) + errors.get(name, 0) for name in classes},
    )


def diagnose(watch: Watch, rule: LatencyRule = PROBATION_LATENCY) -> Sickness | None:
    """Return why the candidate is sick, or None while nothing speaks against it."""
    strange = watch.errors.get(NOT_FINITE, 0)
    if _too_many(strange, watch.requests):
        said = f"{strange} of {watch.requests} answers are not finite"
        return Sickness(Reason.NOT_FINITE, said)
    failed = sum(watch.errors.values())
    if _too_many(failed, watch.requests):
        worst = max(watch.errors, key=lambda name: watch.errors[name])
        return Sickness(Reason.ERRORS, f"{failed} of {watch.requests} requests failed ({worst})")
    found = compare(watch.compute, watch.incumbent, rule)
    if found.is_slow:
        said = (
            f"median {found.candidate_ms:.2f} ms, the incumbent's {found.incumbent_ms:.2f} ms, "
            f"in {rule.successive_windows} successive windows"
        )
        return Sickness(Reason.SLOW, said)
    return None


def _too_many(failed: int, requests: int) -> bool:
    return failed >= FEWEST_ERRORS and failed > LARGEST_ERROR_SHARE * requests
