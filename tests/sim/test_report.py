"""The demo's claims: each fact that they rest on can make one fail, and so the demo."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from wherry_sim.demo.report import (
    Bytes,
    Deltas,
    Facts,
    KillRow,
    RefusalRow,
    Requests,
    Resume,
    RolloutRow,
    ShadowRow,
    Swap,
    VariantRow,
    judge,
)


def a_rollout(
    version: str, status: str = "succeeded", stopped_by: str | None = None, reason: str = ""
) -> RolloutRow:
    return RolloutRow(
        version=version, status=status, stopped_by=stopped_by, reason=reason, stages=[]
    )


VARIANT = VariantRow(
    version="v1",
    profile="x86-onnx-int8",
    runtime="onnxruntime",
    precision="int8",
    size_bytes=1000,
    accuracy=0.95,
    reference_accuracy=0.96,
    p50_ms=0.1,
    measured_on="a test",
)
REQUESTS = Requests(
    sent=5000, failed=0, cut_by_kill=3, inconsistent=0, wrong_fraction={"v2": 0.04, "v3": 0.98}
)
ROLLOUTS = [
    a_rollout("v1"),
    a_rollout("v2"),
    a_rollout("v3", "reverted", "gate", "accuracy_drop"),
    a_rollout("v4", "reverted", "device", "slow"),
]
REFUSALS = [
    RefusalRow(what=what, by="somebody", reason="a reason")
    for what in ("v5", "foreign bundle", "chunk")
]
KILLS = [KillRow(agent="field-1", away_s=1.0), KillRow(agent="field-4", away_s=3.0)]
SWAP = Swap(flips=21, in_flight_at_flips=1, steady_p99_ms=1.0, during_p99_ms=2.0)
SHADOWED = [
    ShadowRow(device="canary-1", rows=40, agreement=0.85),
    ShadowRow(device="field-1", rows=90, agreement=0.99),
]
FACTS = Facts(
    variants=[VARIANT],
    rollouts=ROLLOUTS,
    requests=REQUESTS,
    swap=SWAP,
    reverted_devices=["canary-2"],
    field_devices_touched_by_sick_versions=0,
    bytes=Bytes(bundles=600, deltas=400, controller_sent=1300, received_total=8000),
    deltas=Deltas(rebuilt=2, delta_bytes=999, whole_bytes=1000),
    shadowed=SHADOWED,
    confirmed=20,
    receipts=20,
    resume=Resume(chunks_before_kill=2, chunks_fetched_again=0),
    kills=KILLS,
    refusals=REFUSALS,
    devices_back_on={"canary-1": "v2", "field-1": "v2"},
    seconds=200.0,
)


def test_a_story_that_went_as_told_is_ok() -> None:
    report = judge(FACTS)
    assert [claim.claim for claim in report.claims if not claim.holds] == []
    assert report.ok


@pytest.mark.parametrize(
    ("facts", "claim"),
    [
        (replace(FACTS, rollouts=[a_rollout("v1", "halted"), *ROLLOUTS[1:]]), "v1 and v2"),
        (
            replace(
                FACTS,
                rollouts=[*ROLLOUTS[:2], a_rollout("v3", "reverted", "device"), ROLLOUTS[3]],
            ),
            "v3 was stopped by the gate",
        ),
        (
            replace(FACTS, rollouts=[*ROLLOUTS[:3], a_rollout("v4", "reverted", "gate")]),
            "v4 was stopped by the devices",
        ),
        (replace(FACTS, reverted_devices=[]), "v4 was stopped by the devices"),
        (
            replace(FACTS, rollouts=[*ROLLOUTS[:3], a_rollout("v4", "halted", "device", "slow")]),
            "both sick rollouts",
        ),
        (replace(FACTS, devices_back_on={"canary-1": "v2", "field-1": "v1"}), "every device ends"),
        (replace(FACTS, field_devices_touched_by_sick_versions=1), "no device of field"),
        (replace(FACTS, refusals=REFUSALS[1:]), "the damaged version"),
        (replace(FACTS, requests=replace(REQUESTS, sent=4999)), "at least 5000 requests"),
        (replace(FACTS, requests=replace(REQUESTS, failed=1)), "at least 5000 requests"),
        (replace(FACTS, requests=replace(REQUESTS, inconsistent=1)), "every answer"),
        (replace(FACTS, swap=replace(SWAP, in_flight_at_flips=0)), "requests were in flight"),
        (replace(FACTS, swap=replace(SWAP, flips=0)), "requests were in flight"),
        (replace(FACTS, variants=[replace(VARIANT, accuracy=0.949)]), "int8 is within"),
        (replace(FACTS, variants=[]), "int8 is within"),
        (
            replace(FACTS, requests=replace(REQUESTS, wrong_fraction={"v2": 0.04, "v3": 0.04})),
            "the labels from life",
        ),
        (
            replace(FACTS, bytes=replace(FACTS.bytes, controller_sent=1301)),
            "the controller sent at most",
        ),
        (
            replace(FACTS, bytes=replace(FACTS.bytes, controller_sent=0)),
            "the controller sent at most",
        ),
        (replace(FACTS, deltas=replace(FACTS.deltas, rebuilt=0)), "every device but one"),
        (replace(FACTS, deltas=replace(FACTS.deltas, delta_bytes=1000)), "every device but one"),
        (
            replace(FACTS, resume=Resume(chunks_before_kill=1, chunks_fetched_again=0)),
            "the agent that was killed",
        ),
        (
            replace(FACTS, resume=Resume(chunks_before_kill=2, chunks_fetched_again=1)),
            "the agent that was killed",
        ),
        (
            replace(FACTS, kills=[KILLS[0], KillRow(agent="field-4", away_s=None)]),
            "both killed agents",
        ),
        (replace(FACTS, kills=KILLS[:1]), "both killed agents"),
        (replace(FACTS, shadowed=SHADOWED[:1]), "each device's v2 shadowed"),
        (
            replace(FACTS, shadowed=[SHADOWED[0], replace(SHADOWED[1], rows=39)]),
            "each device's v2 shadowed",
        ),
        (
            replace(FACTS, shadowed=[SHADOWED[0], replace(SHADOWED[1], agreement=0.84)]),
            "each device's v2 shadowed",
        ),
        (replace(FACTS, receipts=19), "each confirmed deployment"),
        (replace(FACTS, receipts=0, confirmed=0), "each confirmed deployment"),
    ],
)
def test_a_fact_that_went_otherwise_is_no_success(facts: Facts, claim: str) -> None:
    report = judge(facts)
    (failed,) = [one.claim for one in report.claims if not one.holds]
    assert failed.startswith(claim)
    assert not report.ok
