"""The way of requests: how they wait, are merged, expire and are asked again."""

from __future__ import annotations

import pytest

from tests.agent.engine.stage import (
    ALIAS,
    FakeRunner,
    Stage,
    a_place,
    of_signature,
    rows,
    values_of,
)
from tests.builders import a_signature, a_tensor
from wherry.signature import BATCH, Datatype
from wherry_agent.asking import DEPTH, Answer, Unanswered
from wherry_agent.engine.settings import EngineSettings
from wherry_agent.engine.waiting import Asking
from wherry_agent.frames import Fault, Tensor

A, B = a_place("A"), a_place("B")


def a_serving_stage(settings: EngineSettings | None = None) -> tuple[Stage, FakeRunner]:
    stage = Stage(settings)
    return stage, stage.serve(A)


def ask_one_by_one(stage: Stage, *values: float) -> None:
    for value in values:
        stage.ask(value)


def test_a_request_goes_to_what_serves_and_its_answer_comes_back() -> None:
    stage, runner = a_serving_stage()
    stage.ask(7.0, 8.0)
    assert runner.timeouts_s == [10.0]
    runner.answer()
    assert stage.answers() == [(A.digest, [7.0, 8.0])]
    assert stage.requests.unanswered == 0


def test_no_more_than_its_depth_is_asked_of_a_runner_and_the_rest_follows_in_order() -> None:
    stage, runner = a_serving_stage()
    ask_one_by_one(stage, *range(5))
    asked = []
    while runner.asked:
        assert len(runner.asked) <= DEPTH
        asked.append(values_of(runner.asked[0]))
        runner.answer()
    assert asked == [[0.0], [1.0], [2.0], [3.0], [4.0]]
    assert len(stage.answers()) == 5


def test_requests_over_the_queue_are_sent_away_at_once() -> None:
    stage, _ = a_serving_stage(EngineSettings(queue_requests=1))
    ask_one_by_one(stage, *range(DEPTH + 2))
    assert stage.outcomes == [
        Unanswered(Fault.OVERLOADED, "1 requests wait already; send fewer at a time", A.digest)
    ]


def test_a_request_that_waited_for_too_long_is_never_computed() -> None:
    stage, runner = a_serving_stage(EngineSettings(request_timeout_s=5.0))
    ask_one_by_one(stage, *range(DEPTH + 1))
    stage.clock.pass_time(5.0)
    assert stage.outcomes == [
        Unanswered(
            Fault.TIMED_OUT,
            "it waited for 5 s and was not computed; send fewer at a time",
            A.digest,
        )
    ]
    runner.answer()
    assert len(runner.asked) == DEPTH - 1


def test_what_a_request_waited_is_taken_from_its_time_at_the_runner() -> None:
    stage, runner = a_serving_stage(EngineSettings(request_timeout_s=5.0))
    ask_one_by_one(stage, *range(DEPTH + 1))
    stage.clock.pass_time(3.0)
    runner.answer()
    assert runner.timeouts_s == [5.0, 5.0, 2.0]


def test_a_late_request_expires_though_the_clock_was_not_looked_at_before() -> None:
    stage, runner = a_serving_stage(EngineSettings(request_timeout_s=5.0))
    ask_one_by_one(stage, *range(DEPTH + 1))
    stage.clock.now_s += 6.0  # A loop that was held up: no timer has been called.
    runner.answer()
    assert stage.faults() == [Fault.TIMED_OUT]
    assert len(runner.asked) == DEPTH - 1


def test_where_nothing_serves_it_is_said_at_once() -> None:
    stage = Stage()
    stage.ask(1.0)
    stage.residents.serve(ALIAS, None)
    stage.ask(1.0)
    detail = "nothing serves under 'default' now; try again in a second"
    assert stage.outcomes == [Unanswered(Fault.WORKER_DIED, detail)] * 2


def test_a_request_whose_runner_ends_is_asked_once_more_and_then_given_up() -> None:
    stage, runner = a_serving_stage()
    stage.ask(1.0)
    runner.die()
    stage.bury()
    stage.clock.pass_time(0.0)
    again = stage.runner(A)
    assert again is not runner
    again.come_up()
    assert values_of(again.asked[0]) == [1.0]
    again.die()
    assert stage.faults() == [Fault.WORKER_DIED]


def test_what_is_asked_again_goes_before_what_came_later() -> None:
    stage, runner = a_serving_stage()
    ask_one_by_one(stage, *range(4))
    runner.die()
    stage.clock.pass_time(0.0)
    again = stage.runner(A)
    again.come_up()
    assert [values_of(question) for question in again.asked] == [[0.0], [1.0]]
    again.answer()
    again.answer()
    assert [values_of(question) for question in again.asked] == [[2.0], [3.0]]


def test_requests_that_came_one_after_another_expire_one_after_another() -> None:
    stage, _ = a_serving_stage(EngineSettings(request_timeout_s=5.0))
    ask_one_by_one(stage, *range(DEPTH + 1))
    stage.clock.pass_time(3.0)
    stage.ask(9.0)
    stage.clock.pass_time(2.0)
    assert len(stage.outcomes) == 1
    stage.clock.pass_time(3.0)
    assert stage.faults() == [Fault.TIMED_OUT] * 2


def test_what_is_to_be_asked_again_expires_too() -> None:
    stage, runner = a_serving_stage()
    stage.ask(1.0)
    runner.die()
    stage.clock.pass_time(10.0)
    assert stage.faults() == [Fault.TIMED_OUT]


def test_requests_wait_while_what_serves_is_started_again_at_once() -> None:
    stage, runner = a_serving_stage()
    runner.die()
    stage.ask(1.0)
    assert stage.slots[ALIAS].is_awaited
    stage.clock.pass_time(0.0)
    stage.runner(A).come_up()
    stage.runner(A).answer()
    assert stage.answers() == [(A.digest, [1.0])]


def test_requests_do_not_wait_for_what_failed_to_come_back() -> None:
    stage, runner = a_serving_stage()
    runner.die()
    stage.ask(1.0)
    stage.clock.pass_time(0.0)
    stage.runner(A).fail()
    stage.ask(2.0)
    assert stage.faults() == [Fault.WORKER_DIED] * 2


def test_requests_do_not_wait_for_a_long_pause() -> None:
    stage, _ = a_serving_stage()
    for pause_s in (0.0, 0.1, 0.2, 0.4):
        stage.runner(A).die()
        stage.clock.pass_time(pause_s)
        stage.runner(A).come_up()
    stage.runner(A).die()  # The next pause is 0.8 s.
    assert stage.slots[ALIAS].is_awaited
    stage.clock.pass_time(0.8)
    stage.runner(A).come_up()
    stage.runner(A).die()
    stage.ask(1.0)
    assert stage.faults() == [Fault.WORKER_DIED]


def test_what_waits_goes_to_the_bundle_that_serves_after_a_flip() -> None:
    stage, old = a_serving_stage()
    new = stage.bring_up(B)
    ask_one_by_one(stage, *range(DEPTH + 1))
    stage.residents.serve(ALIAS, B)
    assert (len(old.asked), len(new.asked)) == (DEPTH, 1)


def test_what_waits_for_another_signature_is_not_asked_of_the_new_bundle() -> None:
    other = of_signature(a_signature(inputs=(a_tensor("image", (BATCH, "length")),)), "B")
    stage, _ = a_serving_stage()
    stage.bring_up(other)
    ask_one_by_one(stage, *range(DEPTH + 1))
    stage.residents.serve(ALIAS, other)
    assert stage.faults() == [Fault.WORKER_DIED]


def test_a_request_with_more_rows_than_the_new_bundle_takes_is_not_asked_of_it() -> None:
    narrow = of_signature(a_signature(max_batch=1), "B")
    stage, _ = a_serving_stage()
    new = stage.bring_up(narrow)
    ask_one_by_one(stage, 0.0, 1.0, 2.0)
    stage.ask(3.0, 4.0)
    stage.residents.serve(ALIAS, narrow)
    assert stage.faults() == [Fault.WORKER_DIED]
    assert [values_of(question) for question in new.asked] == [[2.0]]


# Asked of one bundle only


def test_a_request_may_name_a_bundle_that_is_still_resident() -> None:
    stage, old = a_serving_stage()
    new = stage.serve(B)
    stage.ask(1.0, bundle=A.digest)
    stage.ask(2.0)
    assert (values_of(old.asked[0]), values_of(new.asked[0])) == ([1.0], [2.0])


def test_a_request_that_names_a_bundle_is_answered_by_no_other() -> None:
    stage, old = a_serving_stage()
    stage.serve(B)
    stage.ask(1.0, bundle=A.digest)
    old.die()
    stage.ask(1.0, bundle=A.digest)
    assert [(o.fault, o.bundle) for o in stage.outcomes if isinstance(o, Unanswered)] == [
        (Fault.WORKER_DIED, A.digest)
    ] * 2


def test_a_request_that_names_a_bundle_does_not_wait_for_another_to_come_back() -> None:
    stage, old = a_serving_stage()
    new = stage.serve(B)
    stage.ask(1.0, bundle=A.digest)
    new.die()
    old.die()
    assert stage.faults() == [Fault.WORKER_DIED]


def test_a_request_that_names_what_serves_waits_for_it_to_come_back() -> None:
    stage, runner = a_serving_stage()
    runner.die()
    stage.ask(1.0, bundle=A.digest)
    stage.clock.pass_time(0.0)
    stage.runner(A).come_up()
    stage.runner(A).answer()
    assert stage.answers() == [(A.digest, [1.0])]


# Computed together

BATCHING = EngineSettings(batch_rows=4)


def test_what_waits_is_computed_together_up_to_the_rows_allowed() -> None:
    stage, runner = a_serving_stage(BATCHING)
    ask_one_by_one(stage, *range(7))
    runner.answer()
    assert [values_of(question) for question in runner.asked] == [[1.0], [2.0, 3.0, 4.0, 5.0]]
    while runner.asked:
        runner.answer()
    assert stage.answers() == [(A.digest, [float(value)]) for value in range(7)]


def test_a_batch_is_no_larger_than_the_signature_allows() -> None:
    stage = Stage(BATCHING)
    runner = stage.serve(of_signature(a_signature(max_batch=2)))
    ask_one_by_one(stage, *range(5))
    runner.answer()
    assert values_of(runner.asked[1]) == [2.0, 3.0]


def test_a_request_of_several_rows_is_not_divided() -> None:
    stage, runner = a_serving_stage(BATCHING)
    ask_one_by_one(stage, *range(DEPTH))
    stage.ask(1.0, 2.0, 3.0)
    stage.ask(4.0, 5.0)
    runner.answer()
    assert values_of(runner.asked[1]) == [1.0, 2.0, 3.0]
    runner.answer()
    assert values_of(runner.asked[1]) == [4.0, 5.0]


def test_requests_of_other_shapes_are_not_merged() -> None:
    loose = a_signature(inputs=(a_tensor("image", (BATCH, "length")),))
    stage = Stage(BATCHING)
    runner = stage.serve(of_signature(loose))
    ask_one_by_one(stage, *range(DEPTH + 1))
    long = Tensor("image", Datatype.FP32, (1, 3), bytes(12))
    stage.requests.ask(Asking(ALIAS, (long,), stage.outcomes.append))
    runner.answer()
    assert values_of(runner.asked[1]) == [2.0]


@pytest.mark.parametrize("fault", [Fault.NOT_FINITE, Fault.RUNTIME_FAILED])
def test_one_bad_request_does_not_spoil_those_computed_with_it(fault: Fault) -> None:
    stage, runner = a_serving_stage(BATCHING)
    ask_one_by_one(stage, *range(DEPTH + 3))
    for _ in range(DEPTH):
        runner.answer()
    assert values_of(runner.asked[0]) == [2.0, 3.0, 4.0]
    runner.refuse(fault)
    while runner.asked:
        assert len(values_of(runner.asked[0])) == 1
        if values_of(runner.asked[0]) == [3.0]:
            runner.refuse(fault)
        else:
            runner.answer()
    assert [bundle_values for _, bundle_values in stage.answers()] == [[0.0], [1.0], [2.0], [4.0]]
    assert stage.faults() == [fault]


def test_a_batch_that_took_too_long_is_not_computed_again() -> None:
    stage, runner = a_serving_stage(BATCHING)
    ask_one_by_one(stage, *range(DEPTH + 3))
    for _ in range(DEPTH):
        runner.answer()
    runner.refuse(Fault.TIMED_OUT)
    assert stage.faults() == [Fault.TIMED_OUT] * 3


def test_requests_that_were_computed_together_when_a_runner_ended_are_asked_again_alone() -> None:
    stage, runner = a_serving_stage(BATCHING)
    ask_one_by_one(stage, *range(DEPTH + 3))
    for _ in range(DEPTH):
        runner.answer()
    runner.die()
    stage.clock.pass_time(0.0)
    again = stage.runner(A)
    again.come_up()
    assert [values_of(question) for question in again.asked] == [[2.0], [3.0]]


def test_a_model_that_does_not_give_a_row_for_a_row_is_asked_one_by_one() -> None:
    stage, runner = a_serving_stage(BATCHING)
    ask_one_by_one(stage, *range(DEPTH + 2))
    for _ in range(DEPTH):
        runner.answer()
    one_score = Tensor("scores", Datatype.FP32, (1, 3), bytes(12))
    runner.settle(Answer(A.digest, (one_score,), 5))
    assert [values_of(question) for question in runner.asked] == [[2.0], [3.0]]


def test_a_request_waits_for_others_for_a_while_and_no_longer() -> None:
    stage, runner = a_serving_stage(EngineSettings(batch_rows=4, batch_wait_s=0.01))
    ask_one_by_one(stage, 1.0, 2.0)
    assert not runner.asked
    stage.clock.pass_time(0.009)
    assert not runner.asked
    stage.clock.pass_time(0.001)
    assert values_of(runner.asked[0]) == [1.0, 2.0]


def test_a_full_batch_waits_for_nobody() -> None:
    stage, runner = a_serving_stage(EngineSettings(batch_rows=2, batch_wait_s=0.01))
    ask_one_by_one(stage, 1.0, 2.0)
    assert values_of(runner.asked[0]) == [1.0, 2.0]


def test_who_is_told_may_ask_again_at_once() -> None:
    stage, runner = a_serving_stage()
    asked = []

    def ask_again(outcome: Answer | Unanswered) -> None:
        asked.append(outcome)
        if len(asked) < 50:
            stage.requests.ask(again)

    again = Asking(ALIAS, (rows(1.0),), ask_again)
    for _ in range(3):
        stage.requests.ask(again)
    while runner.asked:
        runner.answer()
    assert len(asked) == 52
    assert stage.requests.unanswered == 0
