"""What probation concludes: whether the bundle on trial is sick, and by which sign.

It judges what this device measured of this bundle, against the incumbent on this same device:
the compute time of requests (`latency`), the share of requests that failed, and answers that
are no numbers. Labels come later than a probation lasts, as a rule; the gate judges by them.
"""

from __future__ import annotations

import msgspec

from wherry.histogram import Histogram
from wherry.latency import LatencyRule, compare
from wherry.messages import Reason

NOT_FINITE = "not_finite"

PROBATION_LATENCY = LatencyRule(window_requests=100)
LARGEST_ERROR_SHARE = 0.02
FEWEST_ERRORS = 5


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured since the flip: compute times in the order of windows."""

    incumbent: Histogram = Histogram()
    compute: tuple[Histogram, ...] = ()
    requests: int = 0
    errors: dict[str, int] = {}


class Sickness(msgspec.Struct, frozen=True):
    reason: Reason
    detail: str


def observe(trial: Trial, *, requests: int, errors: dict[str, int], compute: Histogram) -> Trial:
    """Return the trial with one more window of the candidate."""
    classes = trial.errors.keys() | errors.keys()
    return Trial(
        incumbent=trial.incumbent,
        compute=(*trial.compute, compute),
        requests=trial.requests + requests,
        errors={name: trial.errors.get(name, 0) + errors.get(name, 0) for name in classes},
    )


def diagnose(trial: Trial, rule: LatencyRule = PROBATION_LATENCY) -> Sickness | None:
    """Return why the candidate is sick, or None while nothing speaks against it."""
    strange = trial.errors.get(NOT_FINITE, 0)
    if _too_many(strange, trial.requests):
        said = f"{strange} of {trial.requests} answers are not finite"
        return Sickness(Reason.NOT_FINITE, said)
    failed = sum(trial.errors.values())
    if _too_many(failed, trial.requests):
        worst = max(trial.errors, key=lambda name: trial.errors[name])
        return Sickness(Reason.ERRORS, f"{failed} of {trial.requests} requests failed ({worst})")
    found = compare(trial.compute, trial.incumbent, rule)
    if found.is_slow:
        said = (
            f"median {found.candidate_ms:.2f} ms, the incumbent's {found.incumbent_ms:.2f} ms, "
            f"in {rule.successive_windows} successive windows"
        )
        return Sickness(Reason.SLOW, said)
    return None


def _too_many(failed: int, requests: int) -> bool:
    return failed >= FEWEST_ERRORS and failed > LARGEST_ERROR_SHARE * requests
