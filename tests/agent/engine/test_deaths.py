"""What dies and is started again: at once, then ever later, and when it is too often."""

from __future__ import annotations

from tests.agent.engine.stage import ALIAS, Stage, a_place, residents
from wherry.reasons import Reason
from wherry_agent.core.restarts import Bounds
from wherry_agent.engine.events import CameBack, Unservable, WorkerDied
from wherry_agent.engine.settings import EngineSettings
from wherry_agent.frames import Fault

A, B = a_place("A"), a_place("B")


def test_a_restart_keeps_its_pause_though_a_candidate_fails_meanwhile() -> None:
    stage = Stage()
    for _ in range(2):
        stage.serve(A).die()
        stage.bury()
        stage.clock.pass_time(0.0)
    assert stage.slots[ALIAS].pauses
    stage.load(B)
    stage.runner(B).fail()
    stage.bury()
    assert residents(stage) == []
    stage.clock.pass_time(0.1)
    assert residents(stage) == ["A"]


def test_what_no_longer_answers_is_not_started_again() -> None:
    stage = Stage()
    for _ in range(2):
        stage.serve(A).die()
        stage.bury()
        stage.clock.pass_time(0.0)
    stage.serve(B)
    stage.clock.pass_time(60.0)
    assert residents(stage) == ["B"]


def test_failures_are_in_a_row_only_while_it_does_not_come_up() -> None:
    stage = Stage(EngineSettings(restarts=Bounds(failures=3)))
    stage.serve(A)
    for _ in range(2):
        stage.runner(A).die()
        for _ in range(2):
            stage.clock.pass_time(30.0)
            stage.runner(A).fail()
        stage.clock.pass_time(30.0)
        stage.runner(A).come_up()
    assert {type(event) for event in stage.take_events()} == {WorkerDied}


def test_a_runner_that_answers_and_dies_is_started_again_at_once_and_then_ever_later() -> None:
    stage = Stage()
    stage.serve(A)
    waited = []
    for _ in range(4):
        stage.runner(A).die()
        began_s, count = stage.clock.now_s, len(stage.started)
        while len(stage.started) == count:
            stage.clock.pass_time(0.1)
        waited.append(round(stage.clock.now_s - began_s, 1))
        stage.runner(A).come_up()
    assert waited == [0.1, 0.1, 0.2, 0.4]  # The first came at once.
    assert stage.notes.said == [("restarted", A.digest)] * 4


def test_a_runner_that_keeps_dying_is_said_to_be_unservable_and_goes_on() -> None:
    stage = Stage(EngineSettings(restarts=Bounds(deaths=3, within_s=60.0)))
    stage.serve(A)
    for _ in range(3):
        stage.runner(A).die()
        stage.clock.pass_time(1.0)
        stage.runner(A).come_up()
    events = stage.take_events()
    assert [type(event) for event in events] == [WorkerDied] * 3 + [Unservable]
    assert events[-1] == Unservable(
        ALIAS,
        A.digest,
        Reason.CRASH_LOOP,
        "it died 3 times within 60 s: it was ended by SIGSEGV",
        is_tried_again=True,
    )
    stage.runner(A).die()
    assert [type(event) for event in stage.take_events()] == [WorkerDied]  # It was told once.


def test_deaths_far_apart_are_no_loop() -> None:
    stage = Stage(EngineSettings(restarts=Bounds(deaths=3, within_s=60.0)))
    stage.serve(A)
    for _ in range(9):
        stage.runner(A).die()
        stage.clock.pass_time(31.0)
        stage.runner(A).come_up()
    assert {type(event) for event in stage.take_events()} == {WorkerDied}


def test_a_runner_that_fails_to_come_back_is_said_to_be_unservable_once() -> None:
    stage = Stage(EngineSettings(restarts=Bounds(failures=2)))
    stage.serve(A).die()
    for _ in range(4):
        stage.clock.pass_time(30.0)
        stage.runner(A).fail(Reason.WRONG_BYTES)
    unservable = [event for event in stage.take_events() if isinstance(event, Unservable)]
    assert [event.reason for event in unservable] == [Reason.WRONG_BYTES]


def test_a_candidate_that_dies_is_not_started_again() -> None:
    stage = Stage()
    stage.serve(A)
    stage.bring_up(B).die()
    stage.bury()
    stage.clock.pass_time(60.0)
    assert residents(stage) == ["A"]
    assert stage.take_events() == []


def test_what_shall_serve_is_tried_again_each_time_for_longer_where_the_reason_may_pass() -> None:
    stage = Stage(EngineSettings(load_timeout_s=60.0, restarts=Bounds(failures=3)))
    stage.residents.serve(ALIAS, A)
    allowed_s = []
    for _ in range(5):
        runner = stage.runner(A)
        allowed_s.append(runner.bringing.load_timeout_s)
        runner.fail(Reason.LOAD_TIMEOUT)
        stage.bury()
        stage.clock.pass_time(30.0)
    assert allowed_s == [60.0, 120.0, 240.0, 480.0, 480.0]
    assert [type(event) for event in stage.take_events()] == [Unservable]  # At the third.
    stage.runner(A).come_up()
    assert stage.slots[ALIAS].serves(A.digest)


def test_what_shall_serve_is_not_tried_again_where_it_would_fail_again() -> None:
    stage = Stage()
    stage.residents.serve(ALIAS, A)
    stage.runner(A).fail(Reason.GOLDEN_MISMATCH)
    assert stage.take_events() == [Unservable(ALIAS, A.digest, Reason.GOLDEN_MISMATCH, "off by 1")]
    stage.bury()
    stage.clock.pass_time(60.0)
    assert residents(stage) == []


def test_what_shall_serve_is_not_tried_again_once_another_one_shall() -> None:
    stage = Stage()
    stage.residents.serve(ALIAS, A)
    for _ in range(2):
        stage.clock.pass_time(0.0)
        stage.runner(A).fail(Reason.LOAD_TIMEOUT)
        stage.bury()
    stage.serve(B)
    stage.clock.pass_time(60.0)
    assert residents(stage) == ["B"]


def test_requests_wait_after_a_start_for_what_shall_serve_unless_it_fails() -> None:
    stage = Stage()
    stage.residents.serve(ALIAS, A)
    stage.ask(1.0)
    assert stage.outcomes == []
    stage.runner(A).come_up()
    stage.runner(A).answer()
    assert stage.answers() == [(A.digest, [1.0])]


def test_requests_that_wait_after_a_start_are_refused_once_it_does_not_come_up() -> None:
    stage = Stage()
    stage.residents.serve(ALIAS, A)
    stage.ask(1.0)
    stage.runner(A).fail(Reason.LOAD_TIMEOUT)
    stage.ask(2.0)
    assert stage.faults() == [Fault.WORKER_DIED] * 2


def test_what_shall_follow_a_bundle_that_answers_is_not_tried_again_by_itself() -> None:
    stage = Stage()
    stage.serve(A)
    stage.residents.serve(ALIAS, B)
    stage.runner(B).fail(Reason.LOAD_TIMEOUT)
    (told,) = stage.take_events()
    assert isinstance(told, Unservable)
    assert not told.is_tried_again
    stage.bury()
    stage.clock.pass_time(60.0)
    assert residents(stage) == ["A"]


def test_what_was_given_up_and_serves_after_all_is_said_to_be_back() -> None:
    stage = Stage(EngineSettings(restarts=Bounds(failures=2)))
    stage.serve(A).die()
    for _ in range(3):
        stage.clock.pass_time(30.0)
        stage.runner(A).fail(Reason.LOAD_TIMEOUT)
    stage.take_events()
    stage.clock.pass_time(30.0)
    stage.runner(A).come_up()
    assert stage.take_events() == [CameBack(ALIAS, A.digest)]
    stage.runner(A).die()
    stage.clock.pass_time(30.0)
    stage.runner(A).come_up()
    assert [type(event) for event in stage.take_events()] == [WorkerDied]
