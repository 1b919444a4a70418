"""What comes up, flips, drains and comes back, by both policies."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.agent.engine.stage import ALIAS, MIB, PROOF, FakeRunner, Stage, a_place
from wherry.messages import Split, SwapPolicy
from wherry.names import DeploymentId
from wherry.reasons import Reason
from wherry_agent.asking import RunnerState
from wherry_agent.core.restarts import Bounds
from wherry_agent.engine.events import Flipped, Loaded, LoadFailed, Unservable, WorkerDied
from wherry_agent.engine.settings import EngineSettings
from wherry_agent.engine.slots import Duty
from wherry_agent.frames import Fault

A, B, C = a_place("A"), a_place("B"), a_place("C")
D1 = DeploymentId("d-1")
RESOURCE, AUTO = SwapPolicy.RESOURCE, SwapPolicy.AUTO


def residents(stage: Stage) -> list[str]:
    """Return the names of what is resident or on its way, gone processes apart."""
    names = {A.digest: "A", B.digest: "B", C.digest: "C"}
    slots = stage.slots[ALIAS]
    runners = [*slots.runners.values(), *slots.leaving]
    return sorted(names[runner.place.digest] for runner in runners)


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


def test_a_candidate_that_shadows_is_brought_up_as_one_that_will_answer() -> None:
    stage = Stage()
    stage.serve(A)
    stage.load(B, duty=Duty.SHADOW)
    assert not stage.runner(B).bringing.stays_nice  # It could not take that back.


def test_a_bundle_for_which_no_process_can_be_started_fails() -> None:
    stage = Stage()
    stage.serve(A)
    stage.fails_to_start = True
    stage.load(B)
    (failed,) = stage.take_events()
    assert isinstance(failed, LoadFailed)
    assert failed.reason is Reason.LOAD_FAILED
    assert "no more processes" in failed.detail


# By resource: one at a time


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


# What dies


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


# A split


def a_split_stage(share: float = 0.5) -> tuple[Stage, FakeRunner, FakeRunner]:
    stage = Stage(EngineSettings(queue_requests=1000))
    a, b = stage.serve(A), stage.bring_up(B)
    stage.residents.share(ALIAS, B, Split(share=share))
    return stage, a, b


def answer_all(*runners: FakeRunner) -> None:
    while any(runner.asked for runner in runners):
        for runner in runners:
            if runner.asked:
                runner.answer()


def test_a_split_is_told_with_its_share() -> None:
    stage, _, _ = a_split_stage(0.25)
    assert stage.take_events() == [Flipped(ALIAS, B.digest, A.digest, 0, share=0.25)]
    stage.residents.share(ALIAS, B, Split(share=0.25))
    assert stage.take_events() == []


def test_a_split_gives_the_candidate_its_share_and_the_same_keys_always() -> None:
    stage, a, b = a_split_stage(0.25)
    for number in range(400):
        stage.ask(float(number), key=f"customer-{number % 100}")
        answer_all(a, b)
    sides: dict[int, set[str]] = {}
    for bundle, (value,) in stage.answers():
        sides.setdefault(int(value) % 100, set()).add(bundle)
    assert all(len(bundles) == 1 for bundles in sides.values())
    shared = sum(bundles == {B.digest} for bundles in sides.values())
    assert 15 <= shared <= 35


def test_requests_without_a_key_are_split_too() -> None:
    stage, a, b = a_split_stage(0.5)
    for number in range(200):
        stage.ask(float(number))
        answer_all(a, b)
    shared = sum(bundle == B.digest for bundle, _ in stage.answers())
    assert 70 <= shared <= 130


def test_a_side_that_is_busy_keeps_only_its_own_requests_waiting() -> None:
    stage, _, b = a_split_stage(0.5)
    for number in range(100):
        stage.ask(float(number))
        while b.asked:
            b.answer()
    assert {bundle for bundle, _ in stage.answers()} == {B.digest}
    assert len(stage.answers()) > 30


def test_the_other_side_answers_for_one_that_died() -> None:
    stage, a, b = a_split_stage(0.5)
    b.die()
    assert isinstance(stage.take_events()[-1], WorkerDied)
    for number in range(20):
        stage.ask(float(number))
        answer_all(a)
    assert len(stage.answers()) == 20
    stage.clock.pass_time(0.0)
    again = stage.runner(B)
    again.come_up()
    a.die()
    stage.ask(1.0)
    stage.ask(2.0)
    assert len(again.asked) == 2


def test_a_split_ends_with_the_candidate_serving_wholly() -> None:
    stage, _, b = a_split_stage(0.5)
    stage.take_events()
    stage.residents.serve(ALIAS, B)
    stage.residents.retire(ALIAS)
    stage.bury()
    assert stage.take_events() == [Flipped(ALIAS, B.digest, A.digest, 0)]
    assert residents(stage) == ["B"]
    stage.ask(1.0)
    stage.ask(2.0)
    assert len(b.asked) == 2


def test_a_split_ends_with_the_incumbent_serving_wholly_again() -> None:
    stage, a, b = a_split_stage(0.5)
    stage.take_events()
    for number in range(40):
        stage.ask(float(number))
    waiting = len(b.asked)
    stage.residents.serve(ALIAS, A)
    stage.residents.retire(ALIAS)
    assert stage.take_events() == [Flipped(ALIAS, A.digest, B.digest, waiting)]
    answer_all(a, b)
    stage.bury()
    answered = Counter(bundle for bundle, _ in stage.answers())
    assert answered == {A.digest: 40 - waiting, B.digest: waiting}
    assert residents(stage) == ["A"]


def test_what_waited_for_a_side_goes_to_the_other_once_the_split_has_ended() -> None:
    stage, a, b = a_split_stage(0.5)
    for number in range(40):
        stage.ask(float(number))
    stage.residents.serve(ALIAS, A)  # B stays resident, and is asked nothing more.
    answer_all(a, b)
    answered = Counter(bundle for bundle, _ in stage.answers())
    assert answered == {A.digest: 38, B.digest: 2}


def test_a_split_ends_at_once_though_the_incumbent_is_being_started_again() -> None:
    stage, a, _ = a_split_stage(0.5)
    a.die()
    stage.take_events()
    stage.residents.serve(ALIAS, A)
    assert stage.take_events() == [Flipped(ALIAS, A.digest, B.digest, 0)]


def test_retiring_while_the_candidate_loads_leaves_the_incumbent_its_side_of_a_split() -> None:
    stage = Stage()
    stage.serve(A)
    stage.residents.serve(ALIAS, B)
    stage.residents.retire(ALIAS)
    stage.residents.share(ALIAS, B, Split(share=0.5))
    stage.runner(B).come_up()
    assert stage.runner(A).state is RunnerState.READY


def test_a_request_of_one_side_and_one_for_that_bundle_only_are_not_computed_together() -> None:
    stage = Stage(EngineSettings(batch_rows=8, queue_requests=1000))
    a, b = stage.serve(A), stage.bring_up(B)
    stage.residents.share(ALIAS, B, Split(share=0.999))
    for number in range(4):
        stage.ask(float(number))
    stage.ask(9.0, bundle=B.digest)
    b.die()
    while a.asked:
        a.answer()
    assert sorted(value for _, (value,) in stage.answers()) == [0.0, 1.0, 2.0, 3.0]
    assert stage.faults() == [Fault.WORKER_DIED]


def test_a_split_survives_retiring_with_both_its_sides() -> None:
    stage, _, _ = a_split_stage(0.5)
    stage.bring_up(C)
    stage.residents.retire(ALIAS)
    stage.residents.share(ALIAS, B, Split(share=0.6))
    stage.bury()
    assert residents(stage) == ["A", "B"]


def test_a_candidate_that_is_not_resident_shares_once_it_is() -> None:
    stage = Stage()
    stage.serve(A)
    stage.residents.share(ALIAS, B, Split(share=0.5))
    assert stage.take_events() == []
    stage.runner(B).come_up()
    assert stage.take_events() == [Flipped(ALIAS, B.digest, A.digest, 0, share=0.5)]


def test_without_an_incumbent_there_is_nothing_to_share() -> None:
    stage = Stage()
    stage.residents.share(ALIAS, B, Split(share=0.5))
    stage.runner(B).come_up()
    assert stage.take_events() == [Flipped(ALIAS, B.digest, None, 0)]


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
