"""Copies of live requests: after the answer, within the budget, else counted by cause."""

from __future__ import annotations

from itertools import pairwise

import pytest
from msgspec.structs import replace

from tests.agent.engine.stage import (
    ALIAS,
    MIB,
    FakeRunner,
    Stage,
    a_place,
    of_signature,
    rows,
    scores_of,
    values_of,
)
from tests.builders import a_digest, a_signature, a_tensor
from wherry.messages import Shadow
from wherry.signature import BATCH, Signature
from wherry_agent.asking import Answer, BundlePlace, Compared, Comparison, Unanswered
from wherry_agent.engine.events import WorkerDied
from wherry_agent.engine.settings import EngineSettings
from wherry_agent.engine.waiting import Asking
from wherry_agent.frames import Fault

A, B = a_place("A"), a_place("B")
ALL = Shadow(share=1.0, core_share=1.0)
MS = 1_000_000


def a_shadowing_stage(
    shadow: Shadow = ALL, candidate: BundlePlace = B, settings: EngineSettings | None = None
) -> tuple[Stage, FakeRunner, FakeRunner]:
    stage = Stage(settings)
    a, b = stage.serve(A), stage.bring_up(candidate)
    stage.residents.shadow(ALIAS, candidate, shadow)
    return stage, a, b


def compared(compute_ns: int = MS) -> Compared:
    return Compared(
        B.digest, rows=1, agreed=1, distance=0.1, largest_distance=0.1, compute_ns=compute_ns
    )


def test_a_request_is_copied_with_its_answer_and_never_before_it() -> None:
    stage, a, b = a_shadowing_stage()
    copied_when_told: list[int] = []

    def done(outcome: Answer | Unanswered) -> None:
        copied_when_told.append(len(b.asked))

    stage.requests.ask(Asking(ALIAS, (rows(7.0),), done))
    assert not b.asked
    a.answer()
    assert copied_when_told == [0]
    (copy,) = b.asked
    assert isinstance(copy, Comparison)
    assert values_of(copy) == [7.0]
    assert copy.reference == (scores_of(rows(7.0)),)


def test_what_came_of_a_copy_is_counted_beside_the_incumbents_time() -> None:
    stage, a, b = a_shadowing_stage()
    stage.ask(7.0)
    a.answer()
    b.settle(compared())
    assert stage.notes.compared == [(compared(), 1000)]


def test_a_candidate_without_outputs_is_counted_by_its_class_of_error() -> None:
    stage, a, b = a_shadowing_stage()
    stage.ask(7.0)
    a.answer()
    b.refuse(Fault.NOT_FINITE)
    assert stage.notes.said == [("not_finite", B.digest)]


def test_what_a_caller_may_take_back_is_copied_before_it_is_told() -> None:
    stage, a, b = a_shadowing_stage()
    buffer = bytearray(rows(7.0).data)

    def done(outcome: Answer | Unanswered) -> None:
        buffer[:] = bytes(len(buffer))  # As a connection reads its next request into it.

    mine = replace(rows(7.0), data=memoryview(buffer).toreadonly())
    stage.requests.ask(Asking(ALIAS, (mine,), done))
    a.answer()
    assert values_of(b.asked[0]) == [7.0]


def test_a_share_of_the_requests_is_copied_evenly() -> None:
    stage, a, b = a_shadowing_stage(Shadow(share=0.1, core_share=1.0))
    copied = []
    for number in range(1000):
        stage.ask(float(number))
        a.answer()
        if b.asked:
            copied.append(number)
            b.settle(compared(0))
    assert 95 <= len(copied) <= 105
    gaps = [later - sooner for sooner, later in pairwise(copied)]
    assert max(gaps) <= 20


def test_only_what_the_incumbent_itself_answered_is_copied() -> None:
    stage, a, b = a_shadowing_stage()
    stage.ask(1.0)
    a.refuse(Fault.RUNTIME_FAILED)
    assert not b.asked
    assert stage.notes.said == []


def test_what_another_bundle_answered_in_the_incumbents_place_is_not_copied() -> None:
    stage = Stage()
    before, a, b = stage.serve(a_place("C")), stage.serve(A), stage.bring_up(B)
    stage.residents.shadow(ALIAS, B, ALL)
    a.die()
    stage.ask(1.0)
    before.answer()
    assert not b.asked
    assert stage.notes.said == []


def test_the_candidate_gets_one_copy_at_a_time() -> None:
    stage, a, b = a_shadowing_stage()
    for number in range(3):
        stage.ask(float(number))
        a.answer()
    assert len(b.asked) == 1
    assert stage.notes.said == [("busy", B.digest)] * 2


def test_computing_stays_within_its_share_of_a_core() -> None:
    stage, a, b = a_shadowing_stage(Shadow(share=1.0, core_share=0.1))
    for _ in range(1000):  # 10 seconds of requests, each copy of 5 ms.
        stage.ask(1.0)
        a.answer()
        if b.asked:
            b.settle(compared(5 * MS))
        stage.clock.pass_time(0.01)
    computed_s = 0.005 * len(stage.notes.compared)
    assert 0.9 <= computed_s <= 1.01
    assert stage.notes.said == [("over_cpu", B.digest)] * (1000 - len(stage.notes.compared))


def test_a_pause_buys_no_burst() -> None:
    stage, a, b = a_shadowing_stage(Shadow(share=1.0, core_share=0.1))
    stage.clock.pass_time(3600.0)
    for _ in range(100):
        stage.ask(1.0)
        a.answer()
        if b.asked:
            b.settle(compared(30 * MS))
    assert len(stage.notes.compared) == 4  # 100 ms were saved; the fourth began before 0.


def test_a_copy_that_failed_costs_as_much_as_may_be_saved() -> None:
    stage, a, b = a_shadowing_stage(Shadow(share=1.0, core_share=0.5))
    for _ in range(2):
        stage.ask(1.0)
        a.answer()
        if b.asked:
            b.refuse(Fault.TIMED_OUT)
    assert stage.notes.said == [("timed_out", B.digest), ("over_cpu", B.digest)]


def test_nothing_is_copied_while_the_device_is_too_hot() -> None:
    stage, a, b = a_shadowing_stage(Shadow(share=1.0, core_share=1.0, largest_temperature_c=70.0))
    stage.temperature_c = 71.0
    stage.ask(1.0)
    a.answer()
    assert stage.notes.said == [("too_hot", B.digest)]
    stage.temperature_c = None  # It cannot tell.
    stage.clock.pass_time(1.0)
    stage.ask(1.0)
    a.answer()
    assert len(b.asked) == 1


def test_temperature_and_memory_are_looked_at_once_a_second() -> None:
    stage, a, b = a_shadowing_stage(Shadow(share=1.0, core_share=1.0, memory_bytes=60 * MIB))
    stage.ask(1.0)
    a.answer()
    b.settle(compared(0))
    stage.temperature_c, b.measured_bytes = 100.0, 1000 * MIB
    stage.ask(1.0)
    a.answer()
    b.settle(compared(0))
    stage.clock.pass_time(1.0)
    stage.ask(1.0)
    a.answer()
    stage.temperature_c = 40.0
    stage.clock.pass_time(1.0)
    stage.ask(1.0)
    a.answer()
    assert stage.notes.said == [("too_hot", B.digest), ("over_memory", B.digest)]


@pytest.mark.parametrize(
    "signature",
    [
        a_signature(inputs=(a_tensor("image", (BATCH, "length")),)),
        a_signature(outputs=(a_tensor("scores", (BATCH, "classes")),)),
        a_signature(max_batch=1),
    ],
    ids=["inputs", "outputs", "batch"],
)
def test_a_candidate_that_cannot_be_asked_the_same_gets_no_copy(signature: Signature) -> None:
    stage, a, b = a_shadowing_stage(candidate=of_signature(signature, "B"))
    stage.ask(1.0, 2.0)
    a.answer()
    assert not b.asked
    assert stage.notes.said == [("unlike", B.digest)]


def test_a_shadow_that_dies_is_told_and_started_again() -> None:
    stage, a, b = a_shadowing_stage()
    stage.ask(1.0)
    a.answer()
    b.die("it was ended by SIGKILL")
    assert stage.take_events() == [WorkerDied(ALIAS, B.digest, "it was ended by SIGKILL")]
    stage.clock.pass_time(2.0)
    stage.ask(1.0)
    a.answer()
    stage.runner(B).come_up()
    stage.ask(2.0)
    a.answer()
    assert [word for word, _ in stage.notes.said] == ["worker_died", "restarted", "not_up"]
    assert values_of(stage.runner(B).asked[0]) == [2.0]
    assert stage.answers()[-1] == (A.digest, [2.0])


def test_a_shadow_never_answers_a_request() -> None:
    stage, a, b = a_shadowing_stage()
    a.die()
    stage.ask(1.0)
    assert not b.asked


def test_shadowing_ends_on_order_and_with_a_flip() -> None:
    for end in ("order", "flip"):
        stage, a, b = a_shadowing_stage()
        if end == "order":
            stage.residents.shadow(ALIAS, B, None)
        else:
            stage.residents.serve(ALIAS, B)
        stage.ask(1.0)
        (a if end == "order" else b).answer()
        assert not any(isinstance(asked, Comparison) for asked in b.asked)


def test_an_order_to_shadow_that_is_repeated_begins_nothing_anew() -> None:
    stage, _, _ = a_shadowing_stage()
    before = stage.slots[ALIAS].shadowing
    stage.residents.shadow(ALIAS, B, ALL)
    assert stage.slots[ALIAS].shadowing is before
    stage.residents.shadow(ALIAS, B, Shadow(share=0.5))
    assert stage.slots[ALIAS].shadowing is not before


def test_each_request_of_a_batch_is_copied_with_its_own_answer() -> None:
    stage, a, b = a_shadowing_stage(settings=EngineSettings(batch_rows=4))
    for value in range(4):
        stage.ask(float(value))
    for _ in range(2):
        a.answer()
    b.settle(compared(0))
    a.answer()  # Two requests at once; the first is copied.
    (copy,) = b.asked
    assert isinstance(copy, Comparison)
    assert (values_of(copy), copy.reference) == ([2.0], (scores_of(rows(2.0)),))


def test_what_a_runner_saw_goes_to_the_recorder() -> None:
    stage = Stage()
    stage.serve(A).see((), ())
    assert stage.notes.said == [("saw", a_digest("A"))]
