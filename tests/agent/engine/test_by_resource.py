"""Swaps by resource: one bundle at a time, requests that wait, and every way back."""

from __future__ import annotations

import pytest

from tests.agent.engine.stage import ALIAS, MIB, PROOF, Stage, a_place, residents
from wherry.messages import SwapPolicy
from wherry.names import DeploymentId
from wherry.reasons import Reason
from wherry_agent.asking import RunnerState
from wherry_agent.engine.events import Flipped, Loaded, LoadFailed
from wherry_agent.engine.settings import EngineSettings
from wherry_agent.engine.slots import Duty
from wherry_agent.frames import Fault

A, B, C = a_place("A"), a_place("B"), a_place("C")
D1 = DeploymentId("d-1")
RESOURCE, AUTO = SwapPolicy.RESOURCE, SwapPolicy.AUTO


def test_by_resource_nothing_is_begun_before_what_serves_is_gone() -> None:
    stage = Stage()
    a = stage.serve(A)
    stage.ask(1.0)
    stage.load(B, RESOURCE)
    assert (a.state, residents(stage)) == (RunnerState.DRAINING, ["A"])
    a.answer()
    assert residents(stage) == ["A"]
    stage.bury()
    assert residents(stage) == ["B"]


def test_requests_wait_for_the_candidate_and_are_answered_by_it() -> None:
    stage = Stage()
    stage.serve(A)
    stage.load(B, RESOURCE)
    stage.ask(1.0)
    stage.bury()
    stage.ask(2.0)
    b = stage.runner(B)
    b.come_up()
    assert stage.take_events() == [Loaded(ALIAS, D1, B.digest, proof=PROOF, policy=RESOURCE)]
    assert not b.asked  # It answers nothing before it is ordered to serve.
    stage.residents.serve(ALIAS, B)
    b.answer()
    b.answer()
    assert stage.answers() == [(B.digest, [1.0]), (B.digest, [2.0])]
    assert stage.take_events() == [Flipped(ALIAS, B.digest, A.digest, 0, policy=RESOURCE)]


def test_requests_that_wait_for_a_candidate_have_their_deadline_all_the_same() -> None:
    stage = Stage(EngineSettings(request_timeout_s=5.0))
    stage.serve(A)
    stage.load(B, RESOURCE)
    stage.bury()
    stage.ask(1.0)
    stage.clock.pass_time(5.0)
    assert stage.faults() == [Fault.TIMED_OUT]


def test_the_incumbent_comes_back_by_itself_when_the_candidate_fails() -> None:
    stage = Stage()
    stage.serve(A)
    stage.load(B, RESOURCE)
    stage.ask(1.0)
    stage.bury()
    stage.runner(B).fail()
    assert stage.take_events() == [
        LoadFailed(ALIAS, D1, B.digest, Reason.GOLDEN_MISMATCH, "off by 1")
    ]
    assert residents(stage) == ["B"]
    stage.bury()
    stage.runner(A).come_up()
    stage.runner(A).answer()
    assert stage.answers() == [(A.digest, [1.0])]


def test_the_incumbent_comes_back_when_the_candidate_is_not_to_serve_after_all() -> None:
    stage = Stage()
    stage.serve(A)
    stage.load(B, RESOURCE)
    stage.bury()
    stage.runner(B).come_up()
    stage.residents.serve(ALIAS, A)
    stage.residents.retire(ALIAS)
    stage.bury()
    stage.runner(A).come_up()
    assert residents(stage) == ["A"]
    stage.ask(1.0)
    stage.runner(A).answer()
    assert stage.answers() == [(A.digest, [1.0])]


def test_a_candidate_that_was_given_up_before_the_incumbent_was_gone_is_never_begun() -> None:
    stage = Stage()
    a = stage.serve(A)
    stage.ask(1.0)
    stage.load(B, RESOURCE)
    stage.residents.serve(ALIAS, A)
    stage.residents.retire(ALIAS)
    (failed,) = stage.take_events()
    assert isinstance(failed, LoadFailed)
    assert failed.bundle == B.digest
    a.answer()
    stage.bury()
    assert [runner.place.digest for runner in stage.started] == [A.digest, A.digest]


def test_a_revert_by_resource_unloads_the_candidate_first() -> None:
    stage = Stage()
    stage.serve(A)
    stage.load(B, RESOURCE)
    stage.bury()
    stage.runner(B).come_up()
    stage.residents.serve(ALIAS, B)
    stage.residents.serve(ALIAS, A)
    stage.residents.retire(ALIAS)
    assert residents(stage) == ["B"]
    stage.ask(1.0)
    stage.bury()
    assert residents(stage) == ["A"]
    stage.runner(A).come_up()
    stage.runner(A).answer()
    assert stage.answers() == [(A.digest, [1.0])]


def test_an_incumbent_that_dies_while_it_is_unloaded_is_not_started_beside_the_candidate() -> None:
    stage = Stage()
    a = stage.serve(A)
    stage.ask(1.0)
    stage.load(B, RESOURCE)
    a.die()
    stage.clock.pass_time(60.0)
    stage.bury()
    assert residents(stage) == ["B"]


@pytest.mark.parametrize(
    ("available_mib", "policy"), [(300, SwapPolicy.AVAILABILITY), (60, SwapPolicy.RESOURCE)]
)
def test_by_itself_the_policy_follows_the_memory_that_is_free(
    available_mib: int, policy: SwapPolicy
) -> None:
    stage = Stage()
    stage.serve(A)
    stage.available_bytes = available_mib * MIB
    stage.load(B, AUTO)
    stage.bury()
    stage.runner(B).come_up()
    assert stage.take_events() == [Loaded(ALIAS, D1, B.digest, proof=PROOF, policy=policy)]


@pytest.mark.parametrize("duty", [Duty.SHARE, Duty.SHADOW])
def test_what_cannot_be_resident_beside_the_incumbent_is_not_compared_with_it(duty: Duty) -> None:
    stage = Stage()
    a = stage.serve(A)
    stage.available_bytes = 0
    stage.load(B, AUTO, duty)
    (failed,) = stage.take_events()
    assert isinstance(failed, LoadFailed)
    assert failed.reason is Reason.OVER_BUDGET
    assert (a.state, residents(stage)) == (RunnerState.READY, ["A"])


def test_an_order_to_load_that_is_repeated_is_decided_once() -> None:
    stage = Stage()
    stage.serve(A)
    stage.load(B, AUTO)
    stage.available_bytes = 0
    stage.load(B, AUTO)
    stage.runner(B).come_up()
    loaded = stage.take_events()
    assert loaded == [Loaded(ALIAS, D1, B.digest, proof=PROOF, policy=SwapPolicy.AVAILABILITY)]


def test_an_order_to_load_that_is_repeated_still_waits_for_the_memory() -> None:
    stage = Stage()
    a = stage.serve(A)
    stage.ask(1.0)
    for available_bytes in (0, 1 << 40):
        stage.available_bytes = available_bytes
        stage.load(B, AUTO)
    assert len(stage.started) == 1
    a.answer()
    stage.bury()
    assert residents(stage) == ["B"]


def test_retiring_a_candidate_alone_brings_the_incumbent_back() -> None:
    stage = Stage()
    stage.serve(A)
    stage.load(B, RESOURCE)
    stage.bury()
    stage.runner(B).come_up()
    stage.residents.retire(ALIAS)
    stage.bury()
    assert residents(stage) == ["A"]


def test_an_order_to_serve_that_is_taken_back_before_its_bundle_was_begun_is_forgotten() -> None:
    stage = Stage()
    stage.serve(A)
    stage.load(B, RESOURCE)
    stage.bury()
    stage.runner(B).come_up()
    stage.residents.serve(ALIAS, B)
    stage.residents.serve(ALIAS, A)  # B drains; A is next.
    stage.residents.serve(ALIAS, B)
    stage.bury()
    assert residents(stage) == ["B"]


def test_nothing_is_begun_by_resource_before_the_last_one_is_gone() -> None:
    stage = Stage()
    stage.serve(C)
    a = stage.serve(A)
    stage.ask(1.0)
    stage.load(B, RESOURCE)
    stage.bury()
    assert residents(stage) == ["A"]
    a.answer()
    stage.bury()
    assert residents(stage) == ["B"]


def test_what_was_swapped_in_by_resource_is_started_again_when_it_dies() -> None:
    stage = Stage()
    stage.serve(A)
    stage.load(B, RESOURCE)
    stage.bury()
    stage.runner(B).come_up()
    stage.residents.serve(ALIAS, B)
    for _ in range(2):
        stage.runner(B).die()
        stage.bury()
        stage.clock.pass_time(0.1)
        assert residents(stage) == ["B"]
        stage.runner(B).come_up()
    stage.runner(B).die()
    stage.clock.pass_time(1.0)
    stage.bury()
    stage.runner(B).fail()
    stage.ask(1.0)
    assert stage.faults() == [Fault.WORKER_DIED]  # Nobody waits: no swap is under way.


def test_an_incumbent_that_waits_for_its_restart_gives_way_to_a_candidate() -> None:
    stage = Stage()
    stage.serve(A).die()
    stage.bury()
    stage.load(B, RESOURCE)
    stage.clock.pass_time(60.0)
    assert residents(stage) == ["B"]
    assert stage.runner(B).state is RunnerState.STARTING
    stage.runner(B).fail()
    stage.bury()
    assert residents(stage) == ["A"]


def test_requests_wait_for_the_way_back_though_the_candidate_failed_before() -> None:
    stage = Stage()
    stage.serve(A)
    stage.load(B, RESOURCE)
    stage.bury()
    stage.runner(B).come_up()
    stage.residents.serve(ALIAS, B)
    stage.runner(B).die()
    stage.bury()
    stage.clock.pass_time(0.0)
    stage.runner(B).fail()
    stage.residents.serve(ALIAS, A)
    stage.ask(1.0)
    stage.bury()
    stage.runner(A).come_up()
    stage.runner(A).answer()
    assert stage.answers() == [(A.digest, [1.0])]


def test_a_way_back_that_is_taken_back_before_it_was_begun_is_forgotten() -> None:
    stage = Stage()
    stage.serve(A)
    stage.load(B, RESOURCE)
    stage.bury()
    stage.runner(B).come_up()
    stage.residents.serve(ALIAS, B)
    stage.residents.serve(ALIAS, A)
    stage.residents.serve(ALIAS, None)
    stage.bury()
    assert residents(stage) == []


def test_requests_wait_for_a_candidate_though_the_incumbent_failed_before() -> None:
    stage = Stage()
    stage.serve(A).die()
    stage.clock.pass_time(0.0)
    stage.runner(A).fail()
    stage.bury()
    stage.load(B, RESOURCE)
    stage.ask(1.0)
    assert stage.faults() == []


def test_an_incumbent_that_came_back_once_comes_back_for_a_candidate_too() -> None:
    stage = Stage()
    stage.serve(A).die()
    stage.clock.pass_time(0.0)
    stage.runner(A).come_up()
    stage.load(B, RESOURCE)
    stage.bury()
    stage.runner(B).fail()
    stage.bury()
    assert residents(stage) == ["A"]


def test_a_candidate_that_gives_way_while_it_loads_is_told_as_failed() -> None:
    stage = Stage()
    stage.serve(A)
    stage.load(B, RESOURCE)
    stage.bury()
    stage.residents.serve(ALIAS, C)
    (failed,) = stage.take_events()
    assert isinstance(failed, LoadFailed)
    assert (failed.bundle, failed.reason) == (B.digest, Reason.LOAD_FAILED)
    stage.bury()
    assert residents(stage) == ["C"]


def test_a_candidate_that_waits_for_memory_is_never_begun_once_all_is_retired() -> None:
    stage = Stage()
    a = stage.serve(A)
    stage.ask(1.0)
    stage.load(B, RESOURCE)
    stage.residents.serve(ALIAS, None)
    stage.residents.retire(ALIAS)
    a.answer()
    stage.bury()
    assert [type(event) for event in stage.take_events()] == [LoadFailed]
    assert residents(stage) == []


def test_retiring_does_not_stop_what_is_on_its_way_to_serve() -> None:
    stage = Stage()
    stage.serve(A)
    stage.load(B, RESOURCE)
    stage.bury()
    stage.runner(B).fail()  # A is to come back once B is gone.
    stage.residents.retire(ALIAS)
    stage.bury()
    assert residents(stage) == ["A"]


def test_serving_nothing_any_more_does_not_keep_a_candidate_from_loading() -> None:
    stage = Stage()
    a = stage.serve(A)
    stage.ask(1.0)
    stage.load(B, RESOURCE)
    stage.residents.serve(ALIAS, None)
    a.answer()
    stage.bury()
    stage.runner(B).come_up()
    assert isinstance(stage.take_events()[-1], Loaded)


def test_a_bundle_that_is_loaded_again_is_not_retired_at_the_next_flip() -> None:
    stage = Stage()
    stage.serve(A)
    stage.residents.serve(ALIAS, B)
    stage.residents.retire(ALIAS)
    stage.load(A)
    stage.runner(B).come_up()
    assert stage.runner(A).state is RunnerState.READY


def test_a_candidate_that_waits_for_memory_gives_way_to_the_next_and_is_told_so() -> None:
    stage = Stage()
    stage.serve(A)
    stage.ask(1.0)
    stage.load(B, RESOURCE)
    stage.load(C, RESOURCE)
    (gone,) = stage.take_events()
    assert isinstance(gone, LoadFailed)
    assert (gone.bundle, gone.reason) == (B.digest, Reason.LOAD_FAILED)


def test_what_is_resident_already_is_loaded_beside_others_whatever_came_before() -> None:
    stage = Stage()
    stage.serve(A)
    stage.load(B, RESOURCE)
    stage.bury()
    stage.runner(B).come_up()
    stage.residents.serve(ALIAS, B)
    stage.take_events()
    stage.load(B)
    (again,) = stage.take_events()
    assert isinstance(again, Loaded)
    assert again.policy is SwapPolicy.AVAILABILITY


def test_a_restart_that_a_load_was_sooner_than_is_none() -> None:
    stage = Stage()
    stage.serve(A).die()
    stage.load(A)
    stage.clock.pass_time(60.0)
    assert len(stage.started) == 2
    assert ("restarted", A.digest) not in stage.notes.said
