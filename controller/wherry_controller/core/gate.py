"""The judgement that ends a stage: promote, wait or halt, and on what evidence.

The unit of evidence is the device, since requests of one device are not independent: each
device's candidate is compared with that device's own incumbent. What speaks against the
version is looked at first, so a failure halts before a success can promote.

    failures > accuracy > agreement > latency
             > deadline > (not done, soaking, too little evidence) > promote
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import msgspec

from wherry.histogram import Histogram, merge, quantile_ms
from wherry.latency import Comparison, LatencyRule, compare
from wherry.measures import Feedback, ShadowCounts
from wherry.names import DeviceId
from wherry.reasons import Reason, Status
from wherry_controller.core.card import Share

MOST_NAMED = 5  # Devices in one sentence; the findings have them all.


class Gate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a stage must show. Shares (0 to 1) are of all devices of the stage.

    `min_devices` 0 means every device that is not silent. `min_labels` 0 leaves accuracy out,
    `latency.window_requests` 0 leaves latency out: for fleets without labels or traffic.
    `min_agreement` is of a rollout that shadows: how often candidates must have answered as the
    devices' incumbents did, None leaves it out.
    """

    min_devices: Annotated[int, msgspec.Meta(ge=0)] = 0
    largest_failed_share: Share = 0.0
    largest_silent_share: Share = 0.0
    min_labels: Annotated[int, msgspec.Meta(ge=0)] = 200
    largest_accuracy_drop: Share = 0.05
    min_agreement: Share | None = None
    latency: LatencyRule = LatencyRule(window_requests=500)
    soak_s: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    deadline_s: Annotated[float, msgspec.Meta(gt=0)] = 3600.0


class Decision(StrEnum):
    PROMOTE = "promote"
    WAIT = "wait"
    HALT = "halt"


class GateReason(StrEnum):
    PASSED = "passed"
    DEVICES_FAILED = "devices_failed"
    ACCURACY_DROP = "accuracy_drop"
    DISAGREES = "disagrees"
    SLOW = "slow"
    DEADLINE = "deadline"
    IN_PROGRESS = "in_progress"
    SOAKING = "soaking"
    TOO_FEW_LABELS = "too_few_labels"
    TOO_FEW_COMPARED = "too_few_compared"
    TOO_FEW_REQUESTS = "too_few_requests"


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """What one bundle did on one device: labels, and compute times in the order of windows.

    `shadow` is what came of the requests that it got copies of before it answered any.
    """

    feedback: Feedback = Feedback()
    compute: tuple[Histogram, ...] = ()
    shadow: ShadowCounts = ShadowCounts()


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one device in a stage; `incumbent` is None where nothing served before.

    `ended_s` is when the deployment ended, by the controller's clock.
    """

    device: DeviceId
    status: Status
    reason: Reason | None = None
    ended_s: float | None = None
    candidate: Side = Side()
    incumbent: Side | None = None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One device's evidence as a person reads it; accuracies are shares from 0 to 1."""

    device: DeviceId
    status: Status
    reason: Reason | None
    labels: int
    accuracy: float | None
    incumbent_accuracy: float | None
    requests: int
    median_ms: float | None
    incumbent_median_ms: float | None
    compared: int = 0
    agreement: float | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    decision: Decision
    reason: GateReason
    sentence: str
    findings: tuple[Finding, ...] = ()


def judge(gate: Gate, evidence: Sequence[Evidence], *, since_s: float, now_s: float) -> Verdict:
    """Judge a stage that began at `since_s` by what its devices show at `now_s`."""
    findings = tuple(_finding(one) for one in evidence)

    def verdict(decision: Decision, reason: GateReason, sentence: str) -> Verdict:
        return Verdict(decision=decision, reason=reason, sentence=sentence, findings=findings)

    against = _against(gate, evidence)
    if against is not None:
        return verdict(Decision.HALT, *against)
    missing = _missing(gate, evidence, is_late=now_s - since_s >= gate.deadline_s, now_s=now_s)
    if missing is None:
        return verdict(Decision.PROMOTE, GateReason.PASSED, _praise(evidence))
    if now_s - since_s >= gate.deadline_s:
        late = f"the stage's {gate.deadline_s:g} s are over and {missing[1]}"
        return verdict(Decision.HALT, GateReason.DEADLINE, late)
    return verdict(Decision.WAIT, *missing)


def _against(gate: Gate, evidence: Sequence[Evidence]) -> tuple[GateReason, str] | None:
    failed = [one for one in evidence if _has_failed(one)]
    if len(failed) > gate.largest_failed_share * len(evidence):
        sentence = f"{len(failed)} of {len(evidence)} devices did not keep it: {_named(failed)}"
        return GateReason.DEVICES_FAILED, sentence
    drop = _mean_drop(gate, evidence)
    if drop is not None and drop > gate.largest_accuracy_drop:
        sentence = (
            f"live accuracy fell by {drop:.3f} against the devices' incumbents "
            f"({gate.largest_accuracy_drop:.3f} is allowed)"
        )
        return GateReason.ACCURACY_DROP, sentence
    agreement = _mean_agreement(gate, evidence)
    if agreement is not None and agreement < (gate.min_agreement or 0.0):
        sentence = (
            f"shadowing, it agreed with the devices' incumbents on {agreement:.3f} of the rows "
            f"({gate.min_agreement:.3f} is needed)"
        )
        return GateReason.DISAGREES, sentence
    for one in evidence:
        latency = _latency(gate, one)
        if latency is not None and latency.is_slow:
            sentence = (
                f"{one.device} answers in {latency.candidate_ms:.2f} ms, "
                f"its incumbent in {latency.incumbent_ms:.2f} ms (medians)"
            )
            return GateReason.SLOW, sentence
    return None


def _missing(
    gate: Gate, evidence: Sequence[Evidence], *, is_late: bool, now_s: float
) -> tuple[GateReason, str] | None:
    """Return what a promotion still waits for; at the deadline some devices may be silent."""
    confirmed = [one for one in evidence if one.status is Status.SUCCEEDED]
    silent = [one for one in evidence if not one.status.is_final]
    allowed = gate.largest_silent_share * len(evidence) if is_late else 0
    enough = len(confirmed) >= gate.min_devices if gate.min_devices else len(silent) <= allowed
    if not enough or not confirmed:
        sentence = f"{len(silent)} of {len(evidence)} devices are not done: {_named(silent)}"
        return GateReason.IN_PROGRESS, sentence
    last_s = max(one.ended_s or 0.0 for one in confirmed)
    if now_s - last_s < gate.soak_s:
        return GateReason.SOAKING, f"{gate.soak_s - (now_s - last_s):.0f} s of soaking are left"
    for one in confirmed:
        if one.incumbent is not None and not _is_comparable(gate, one):
            have = min(one.candidate.feedback.labelled, one.incumbent.feedback.labelled)
            sentence = f"{one.device} has {have} of {gate.min_labels} labelled answers a side"
            return GateReason.TOO_FEW_LABELS, sentence
        if _is_to_agree(gate, one) and not one.candidate.shadow.rows:
            sentence = f"nothing is known yet of how {one.device} compared it with its incumbent"
            return GateReason.TOO_FEW_COMPARED, sentence
        latency = _latency(gate, one)
        if latency is not None and not _is_measured(gate, latency):
            sentence = f"{one.device} has answered too few requests to compare its latency"
            return GateReason.TOO_FEW_REQUESTS, sentence
    return None


def _named(devices: Sequence[Evidence]) -> str:
    """Name the first devices and their reasons, and count the others."""
    names = [
        f"{one.device} ({one.reason.value})" if one.reason else one.device
        for one in devices[:MOST_NAMED]
    ]
    others = len(devices) - len(names)
    return ", ".join(names) + (f" and {others} more" if others else "")


def _has_failed(one: Evidence) -> bool:
    return one.status.is_final and one.status not in (Status.SUCCEEDED, Status.SUPERSEDED)


def _is_comparable(gate: Gate, one: Evidence) -> bool:
    return one.incumbent is not None and all(
        side.feedback.labelled >= gate.min_labels for side in (one.candidate, one.incumbent)
    )


def _mean_drop(gate: Gate, evidence: Sequence[Evidence]) -> float | None:
    """Return the mean of the devices' own drops in accuracy, each device counting once."""
    drops = [
        (_accuracy(one.incumbent) or 0.0) - (_accuracy(one.candidate) or 0.0)
        for one in evidence
        if gate.min_labels and one.incumbent is not None and _is_comparable(gate, one)
    ]
    return sum(drops) / len(drops) if drops else None


def _is_to_agree(gate: Gate, one: Evidence) -> bool:
    """Say whether agreement is judged by this device: it must have had something to compare."""
    is_confirmed = one.status is Status.SUCCEEDED and one.reason is not Reason.SERVES_ALREADY
    return gate.min_agreement is not None and is_confirmed and one.incumbent is not None


def _mean_agreement(gate: Gate, evidence: Sequence[Evidence]) -> float | None:
    """Return the mean of the devices' agreement while shadowing, each device counting once."""
    shares = [
        share
        for one in evidence
        if _is_to_agree(gate, one) and (share := _agreement(one.candidate)) is not None
    ]
    return sum(shares) / len(shares) if shares else None


def _agreement(side: Side) -> float | None:
    return side.shadow.agreed / side.shadow.rows if side.shadow.rows else None


def _accuracy(side: Side) -> float | None:
    return side.feedback.right / side.feedback.labelled if side.feedback.labelled else None


def _latency(gate: Gate, one: Evidence) -> Comparison | None:
    if one.incumbent is None or not gate.latency.window_requests:
        return None
    return compare(one.candidate.compute, _whole(one.incumbent), gate.latency)


def _is_measured(gate: Gate, latency: Comparison) -> bool:
    """Say whether both sides have the requests that the rule takes to compare them."""
    enough = latency.windows >= gate.latency.successive_windows
    return enough and latency.incumbent_ms is not None


def _whole(side: Side) -> Histogram:
    return merge(side.compute)


def _finding(one: Evidence) -> Finding:
    incumbent = one.incumbent
    return Finding(
        device=one.device,
        status=one.status,
        reason=one.reason,
        labels=one.candidate.feedback.labelled,
        accuracy=_accuracy(one.candidate),
        incumbent_accuracy=_accuracy(incumbent) if incumbent else None,
        requests=_whole(one.candidate).total,
        median_ms=quantile_ms(_whole(one.candidate), 0.5),
        incumbent_median_ms=quantile_ms(_whole(incumbent), 0.5) if incumbent else None,
        compared=one.candidate.shadow.rows,
        agreement=_agreement(one.candidate),
    )


def _praise(evidence: Sequence[Evidence]) -> str:
    confirmed = sum(one.status is Status.SUCCEEDED for one in evidence)
    compared = sum(one.incumbent is not None for one in evidence)
    return f"{confirmed} of {len(evidence)} devices confirmed it, {compared} beside an incumbent"
