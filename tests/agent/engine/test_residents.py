"""What comes up beside what serves, and what is left of it."""

from __future__ import annotations

from tests.agent.engine.stage import ALIAS, PROOF, Stage, a_place, residents
from wherry.messages import SwapPolicy
from wherry.names import DeploymentId
from wherry.reasons import Reason
from wherry_agent.engine.events import Loaded, LoadFailed
from wherry_agent.engine.settings import EngineSettings

A, B, C = a_place("A"), a_place("B"), a_place("C")
D1 = DeploymentId("d-1")
RESOURCE = SwapPolicy.RESOURCE


def test_a_bundle_is_loaded_beside_what_serves_and_what_it_showed_is_told() -> None:
    stage = Stage()
    stage.serve(A)
    stage.load(B)
    stage.runner(B).come_up()
    assert stage.take_events() == [
        Loaded(ALIAS, D1, B.digest, proof=PROOF, policy=SwapPolicy.AVAILABILITY)
    ]
    assert residents(stage) == ["A", "B"]
    stage.load(B)
    assert stage.take_events() == [
        Loaded(ALIAS, D1, B.digest, proof=PROOF, policy=SwapPolicy.AVAILABILITY)
    ]
    assert len(stage.started) == 2


def test_runners_are_told_the_bounds_of_the_settings() -> None:
    stage = Stage(EngineSettings(load_timeout_s=7.0, request_timeout_s=3.0, seen_share=0.02))
    bringing = stage.serve(A).bringing
    assert (bringing.load_timeout_s, bringing.silence_s, bringing.seen_share) == (7.0, 3.0, 0.02)


def test_a_bundle_is_brought_up_at_low_priority_unless_requests_wait_for_it() -> None:
    stage = Stage()
    first = stage.serve(A)
    stage.residents.serve(ALIAS, B)  # While A answers.
    first.die()
    stage.load(C)
    stage.clock.pass_time(0.0)
    niceness = [(runner.place.digest, runner.bringing.niceness) for runner in stage.started]
    assert niceness == [(A.digest, 0), (B.digest, 10), (C.digest, 10), (A.digest, 0)]


def test_a_bundle_that_was_up_is_warmed_up_whole_only_if_it_is_loaded_anew() -> None:
    stage = Stage()
    first = stage.serve(A)
    first.die()
    stage.clock.pass_time(0.0)
    stage.runner(A).come_up()
    stage.serve(B)
    stage.residents.retire(ALIAS)
    stage.load(A)
    proved = [(runner.place.digest, runner.bringing.is_proved) for runner in stage.started]
    assert proved == [(A.digest, False), (A.digest, True), (B.digest, False), (A.digest, False)]


def test_a_bundle_for_which_no_process_can_be_started_fails() -> None:
    stage = Stage()
    stage.serve(A)
    stage.fails_to_start = True
    stage.load(B)
    (failed,) = stage.take_events()
    assert isinstance(failed, LoadFailed)
    assert failed.reason is Reason.LOAD_FAILED
    assert "no more processes" in failed.detail


def test_nothing_is_left_of_bundles_that_came_and_went() -> None:
    stage = Stage()
    for number in range(50):
        place = a_place(f"bundle {number}")
        if number % 2:
            stage.load(place, RESOURCE)
            stage.bury()
            stage.runner(place).come_up()
            stage.residents.serve(ALIAS, place)
        else:
            stage.load(place)
            stage.residents.serve(ALIAS, place)
            stage.residents.retire(ALIAS)
            stage.runner(place).come_up()
        stage.ask(1.0)
        stage.runner(place).answer()
        stage.residents.retire(ALIAS)
        stage.bury()
        stage.runner(place).die()
        stage.bury()
        stage.clock.pass_time(0.0)
        stage.runner(place).come_up()
    slots = stage.slots[ALIAS]
    assert (len(slots.runners), len(slots.proofs)) == (1, 1)
    assert not any(map(len, (slots.leaving, slots.loads, slots.pauses, slots.retired)))
    assert len(slots.restarts) == 1
    assert len(slots.queue.lanes) <= 1
