"""The judgement that ends a stage: what halts it, what it waits for, and what promotes it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import a_device_id, a_histogram
from tests.laws import tried
from wherry.histogram import Histogram
from wherry.latency import LatencyRule
from wherry.measures import Feedback, ShadowCounts
from wherry.reasons import Reason, Status
from wherry_controller.core.gate import (
    Decision,
    Evidence,
    Gate,
    GateReason,
    Side,
    Verdict,
    judge,
)

LABELS, REQUESTS = 200, 50
GATE = Gate(
    min_labels=LABELS,
    largest_accuracy_drop=0.05,
    latency=LatencyRule(window_requests=REQUESTS),
    soak_s=60.0,
    deadline_s=600.0,
)
BEGAN_S, ENDED_S, LATE_S = 1000.0, 1100.0, 1600.0
SOAKED_S = ENDED_S + GATE.soak_s


def a_side(
    right: int = 190, *, labelled: int = LABELS, medians_ms: tuple[float, ...] = (1.0, 1.0)
) -> Side:
    windows: tuple[Histogram, ...] = tuple(a_histogram(*[ms] * REQUESTS) for ms in medians_ms)
    return Side(feedback=Feedback(labelled=labelled, right=right), compute=windows)


def a_success(
    name: str = "a", *, candidate: Side | None = None, incumbent: Side | None = None
) -> Evidence:
    return Evidence(
        device=a_device_id(name),
        status=Status.SUCCEEDED,
        reason=Reason.CONFIRMED,
        ended_s=ENDED_S,
        candidate=candidate or a_side(),
        incumbent=incumbent or a_side(),
    )


def a_failure(
    name: str = "f", status: Status = Status.REVERTED, reason: Reason = Reason.SLOW
) -> Evidence:
    device = a_device_id(name)
    return Evidence(
        device=device, status=status, reason=reason, ended_s=ENDED_S, incumbent=a_side()
    )


def a_silence(name: str = "s") -> Evidence:
    return Evidence(device=a_device_id(name), status=Status.IN_PROGRESS, incumbent=a_side())


def verdict_on(*evidence: Evidence, gate: Gate = GATE, now_s: float = SOAKED_S) -> Verdict:
    return judge(gate, evidence, since_s=BEGAN_S, now_s=now_s)


def summary(verdict: Verdict) -> tuple[Decision, GateReason]:
    return verdict.decision, verdict.reason


PROMOTED = (Decision.PROMOTE, GateReason.PASSED)


def gate_with(**facts: object) -> Gate:
    return msgspec.convert({**msgspec.to_builtins(GATE), **facts}, Gate)


def test_sound_devices_with_all_their_evidence_promote() -> None:
    verdict = verdict_on(a_success("a"), a_success("b"))
    assert summary(verdict) == PROMOTED
    assert verdict.sentence == "2 of 2 devices confirmed it, 2 beside an incumbent"


def test_the_findings_show_each_devices_numbers() -> None:
    slower = a_success("b", candidate=a_side(180, medians_ms=(1.2, 1.2)))
    first, second = verdict_on(a_success("a"), slower).findings
    assert (first.device, first.labels, first.accuracy) == ("a", 200, 0.95)
    assert (second.accuracy, second.incumbent_accuracy) == (0.9, 0.95)
    assert second.requests == 2 * REQUESTS
    assert second.median_ms == pytest.approx(1.2, rel=0.07)
    assert second.incumbent_median_ms == pytest.approx(1.0, rel=0.07)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (Status.REVERTED, Reason.SLOW),
        (Status.FAILED, Reason.LOAD_FAILED),
        (Status.REJECTED, Reason.UNSUITABLE_PROFILE),
        (Status.TIMED_OUT, Reason.DEADLINE),
        (Status.CANCELED, Reason.WITHDRAWN),
    ],
)
def test_a_device_that_does_not_keep_it_halts_and_says_why(status: Status, reason: Reason) -> None:
    verdict = verdict_on(a_success(), a_failure(status=status, reason=reason))
    assert summary(verdict) == (Decision.HALT, GateReason.DEVICES_FAILED)
    assert verdict.sentence == f"1 of 2 devices did not keep it: f ({reason.value})"


def test_five_devices_that_did_not_keep_it_are_named_and_the_others_counted() -> None:
    many = [a_failure(f"f{number}") for number in range(7)]
    assert verdict_on(*many).sentence == (
        "7 of 7 devices did not keep it: "
        "f0 (slow), f1 (slow), f2 (slow), f3 (slow), f4 (slow) and 2 more"
    )


def test_a_failure_halts_while_others_are_still_on_their_way() -> None:
    verdict = verdict_on(a_silence(), a_failure(), now_s=BEGAN_S)
    assert verdict.reason is GateReason.DEVICES_FAILED


def test_a_failure_is_looked_at_before_everything_else() -> None:
    wrong = a_success(candidate=a_side(0, medians_ms=(9.0, 9.0)))
    assert verdict_on(wrong, a_failure(), now_s=LATE_S).reason is GateReason.DEVICES_FAILED
    assert verdict_on(wrong, now_s=LATE_S).reason is GateReason.ACCURACY_DROP
    slow = a_success(candidate=a_side(medians_ms=(9.0, 9.0)))
    assert verdict_on(slow, a_silence(), now_s=LATE_S).reason is GateReason.SLOW


def test_an_allowed_share_of_failures_does_not_halt() -> None:
    gate = gate_with(largest_failed_share=0.5)
    assert summary(verdict_on(a_success(), a_failure(), gate=gate)) == PROMOTED
    two = verdict_on(a_success(), a_failure("f"), a_failure("g"), gate=gate)
    assert two.reason is GateReason.DEVICES_FAILED


def test_a_superseded_device_speaks_neither_for_nor_against() -> None:
    superseded = a_failure(status=Status.SUPERSEDED, reason=Reason.NEWER_ORDER)
    assert summary(verdict_on(a_success(), superseded)) == PROMOTED
    assert verdict_on(superseded).decision is Decision.WAIT


def test_an_accuracy_drop_above_the_largest_halts_and_names_both() -> None:
    worse = a_success(candidate=a_side(179), incumbent=a_side(190))
    verdict = verdict_on(worse)
    assert summary(verdict) == (Decision.HALT, GateReason.ACCURACY_DROP)
    assert "0.055" in verdict.sentence and "0.050 is allowed" in verdict.sentence
    as_allowed = a_success(candidate=a_side(100), incumbent=a_side(150))
    gate = gate_with(largest_accuracy_drop=0.25)
    assert summary(verdict_on(as_allowed, gate=gate)) == PROMOTED


def test_a_version_that_is_better_is_no_drop() -> None:
    assert summary(verdict_on(a_success(candidate=a_side(200), incumbent=a_side(0)))) == PROMOTED


def test_each_device_has_one_vote_however_many_labels_it_sends() -> None:
    loud = a_success(
        "a", candidate=a_side(0, labelled=100_000), incumbent=a_side(4_000, labelled=100_000)
    )
    quiet = a_success("b", candidate=a_side(190), incumbent=a_side(190))
    assert summary(verdict_on(loud, quiet)) == PROMOTED  # The mean of 0.04 and 0.
    wrong = a_success("c", candidate=a_side(0), incumbent=a_side(200))
    good = [a_success(name) for name in "defghij"]
    assert verdict_on(wrong, *good).reason is GateReason.ACCURACY_DROP  # The mean is 1/8.


@pytest.mark.parametrize("side", ["candidate", "incumbent"])
def test_too_few_labels_on_either_side_wait_and_are_no_evidence(side: str) -> None:
    short = a_side(0 if side == "candidate" else LABELS - 1, labelled=LABELS - 1)
    one = msgspec.structs.replace(a_success(), **{side: short})
    verdict = verdict_on(one)
    assert summary(verdict) == (Decision.WAIT, GateReason.TOO_FEW_LABELS)
    assert verdict.sentence == "a has 199 of 200 labelled answers a side"
    late = verdict_on(one, now_s=LATE_S)
    assert summary(late) == (Decision.HALT, GateReason.DEADLINE)


def test_a_gate_without_labels_judges_by_the_rest() -> None:
    blind = a_success(candidate=Side(compute=a_side().compute), incumbent=a_side())
    assert summary(verdict_on(blind, gate=gate_with(min_labels=0))) == PROMOTED


def test_one_slow_window_does_not_halt_and_two_do() -> None:
    once = a_success(candidate=a_side(medians_ms=(9.0, 1.0, 9.0)))
    assert summary(verdict_on(once)) == PROMOTED
    twice = a_success("slow-one", candidate=a_side(medians_ms=(1.0, 9.0, 9.0)))
    verdict = verdict_on(a_success(), twice)
    assert summary(verdict) == (Decision.HALT, GateReason.SLOW)
    assert verdict.sentence.startswith("slow-one answers in 9.")


@pytest.mark.parametrize(("candidate", "incumbent"), [(1.9, 1.0), (0.6, 0.2)])
def test_a_ratio_or_a_difference_alone_is_not_slow(candidate: float, incumbent: float) -> None:
    one = a_success(
        candidate=a_side(medians_ms=(candidate,) * 3), incumbent=a_side(medians_ms=(incumbent,) * 2)
    )
    assert summary(verdict_on(one)) == PROMOTED


@pytest.mark.parametrize(
    ("candidate", "incumbent"), [((1.0,), (1.0,)), ((1.0, 1.0), ()), ((), (1.0,))]
)
def test_too_few_requests_on_either_side_wait(
    candidate: tuple[float, ...], incumbent: tuple[float, ...]
) -> None:
    one = a_success(
        "idle-one", candidate=a_side(medians_ms=candidate), incumbent=a_side(medians_ms=incumbent)
    )
    verdict = verdict_on(one)
    assert summary(verdict) == (Decision.WAIT, GateReason.TOO_FEW_REQUESTS)
    assert "idle-one" in verdict.sentence


def test_a_gate_without_traffic_judges_by_the_rest() -> None:
    idle = a_success(candidate=a_side(medians_ms=()), incumbent=a_side(medians_ms=()))
    gate = gate_with(latency={"window_requests": 0})
    assert summary(verdict_on(idle, gate=gate)) == PROMOTED


def test_a_device_that_served_nothing_before_is_compared_with_nothing() -> None:
    fresh = msgspec.structs.replace(a_success(candidate=Side()), incumbent=None)
    verdict = verdict_on(fresh)
    assert summary(verdict) == PROMOTED
    assert verdict.sentence == "1 of 1 devices confirmed it, 0 beside an incumbent"
    assert verdict.findings[0].incumbent_accuracy is None


def test_a_device_on_its_way_is_waited_for_by_name() -> None:
    verdict = verdict_on(a_success(), a_silence("slow-boat"))
    assert summary(verdict) == (Decision.WAIT, GateReason.IN_PROGRESS)
    assert verdict.sentence == "1 of 2 devices are not done: slow-boat"


def test_at_the_deadline_a_device_that_is_not_done_halts() -> None:
    just_before = verdict_on(a_success(), a_silence(), now_s=LATE_S - 0.1)
    assert just_before.decision is Decision.WAIT
    verdict = verdict_on(a_success(), a_silence("slow-boat"), now_s=LATE_S)
    assert summary(verdict) == (Decision.HALT, GateReason.DEADLINE)
    assert verdict.sentence == (
        "the stage's 600 s are over and 1 of 2 devices are not done: slow-boat"
    )


def test_the_silent_may_be_left_behind_at_the_deadline_and_not_before() -> None:
    gate = gate_with(largest_silent_share=0.5)
    stage = (a_success(), a_silence())
    assert verdict_on(*stage, gate=gate, now_s=LATE_S - 0.1).decision is Decision.WAIT
    assert summary(verdict_on(*stage, gate=gate, now_s=LATE_S)) == PROMOTED
    three = (*stage, a_silence("t"))
    assert verdict_on(*three, gate=gate, now_s=LATE_S).reason is GateReason.DEADLINE


def test_a_stage_of_silence_is_never_promoted() -> None:
    gate = gate_with(largest_silent_share=1.0)
    assert verdict_on(a_silence(), gate=gate, now_s=LATE_S).reason is GateReason.DEADLINE


def test_a_smallest_number_of_devices_is_enough_without_the_others() -> None:
    gate = gate_with(min_devices=2)
    assert summary(verdict_on(a_success("a"), a_success("b"), a_silence(), gate=gate)) == PROMOTED
    assert verdict_on(a_success("a"), a_silence(), gate=gate).reason is GateReason.IN_PROGRESS


def test_the_soak_begins_when_the_last_device_confirmed() -> None:
    early = msgspec.structs.replace(a_success("a"), ended_s=ENDED_S - 50)
    verdict = verdict_on(early, a_success("b"), now_s=SOAKED_S - 10)
    assert summary(verdict) == (Decision.WAIT, GateReason.SOAKING)
    assert verdict.sentence == "10 s of soaking are left"
    assert summary(verdict_on(early, a_success("b"), now_s=SOAKED_S)) == PROMOTED


sides = st.builds(
    lambda share, labelled, medians: a_side(
        int(share * labelled), labelled=labelled, medians_ms=medians
    ),
    st.floats(0, 1),
    st.sampled_from([0, LABELS - 1, LABELS, 1000]),
    st.lists(st.sampled_from([1.0, 9.0]), max_size=3).map(tuple),
)
pieces = st.builds(
    Evidence,
    device=st.sampled_from([a_device_id(name) for name in "abcdef"]),
    status=st.sampled_from(list(Status)),
    reason=st.sampled_from([None, *Reason]),
    ended_s=st.one_of(st.none(), st.floats(BEGAN_S, LATE_S)),
    candidate=sides,
    incumbent=st.one_of(st.none(), sides),
)


@tried
@given(st.lists(pieces, max_size=6), st.floats(BEGAN_S, 2 * LATE_S))
def test_the_evidence_decides_and_not_its_order(evidence: list[Evidence], now_s: float) -> None:
    forward = verdict_on(*evidence, now_s=now_s)
    assert verdict_on(*reversed(evidence), now_s=now_s).decision is forward.decision
    assert forward.sentence
    assert [finding.device for finding in forward.findings] == [one.device for one in evidence]


@tried
@given(st.lists(pieces, max_size=6), st.floats(BEGAN_S, 2 * LATE_S))
def test_no_stage_is_promoted_with_a_failure_or_without_a_success(
    evidence: list[Evidence], now_s: float
) -> None:
    verdict = verdict_on(*evidence, now_s=now_s)
    if verdict.decision is Decision.PROMOTE:
        statuses = {one.status for one in evidence}
        assert Status.SUCCEEDED in statuses
        assert statuses <= {Status.SUCCEEDED, Status.SUPERSEDED}
    if now_s >= LATE_S:
        assert verdict.decision is not Decision.WAIT


def a_shadow(agreed: int, rows: int = 100) -> ShadowCounts:
    return ShadowCounts(requests=rows, rows=rows, agreed=agreed)


def shadowed(name: str, agreed: int, rows: int = 100) -> Evidence:
    side = msgspec.structs.replace(a_side(), shadow=a_shadow(agreed, rows))
    return a_success(name, candidate=side)


AGREEING = gate_with(min_agreement=0.9)


def test_candidates_that_answer_otherwise_than_their_incumbents_halt() -> None:
    verdict = verdict_on(shadowed("a", 95), shadowed("b", 80), gate=AGREEING)
    assert summary(verdict) == (Decision.HALT, GateReason.DISAGREES)
    assert verdict.sentence == (
        "shadowing, it agreed with the devices' incumbents on 0.875 of the rows (0.900 is needed)"
    )
    assert [one.agreement for one in verdict.findings] == [0.95, 0.8]
    assert summary(verdict_on(shadowed("a", 80), shadowed("b", 80))) == PROMOTED


def test_each_device_counts_once_however_much_it_compared() -> None:
    verdict = verdict_on(shadowed("a", 10_000, 10_000), shadowed("b", 82), gate=AGREEING)
    assert summary(verdict) == PROMOTED
    assert [one.compared for one in verdict.findings] == [10_000, 100]


def test_agreement_is_waited_for_from_every_device_that_had_something_to_compare() -> None:
    verdict = verdict_on(shadowed("a", 95), a_success("b"), gate=AGREEING)
    assert summary(verdict) == (Decision.WAIT, GateReason.TOO_FEW_COMPARED)
    assert "b compared" in verdict.sentence
    first = msgspec.structs.replace(a_success("b"), incumbent=None)
    assert summary(verdict_on(shadowed("a", 95), first, gate=AGREEING)) == PROMOTED
    same = msgspec.structs.replace(a_success("b"), reason=Reason.SERVES_ALREADY)
    assert summary(verdict_on(shadowed("a", 95), same, gate=AGREEING)) == PROMOTED


def test_agreement_of_a_device_that_is_not_done_halts_nothing() -> None:
    early = msgspec.structs.replace(shadowed("b", 0, 1), status=Status.IN_PROGRESS)
    verdict = verdict_on(shadowed("a", 95), early, gate=AGREEING)
    assert verdict.reason is GateReason.IN_PROGRESS
