"""A split: who answers which requests, how it begins, ends, and bears a side that dies."""

from __future__ import annotations

from collections import Counter

from tests.agent.engine.stage import ALIAS, FakeRunner, Stage, a_place, residents
from wherry.messages import Split
from wherry_agent.asking import RunnerState
from wherry_agent.engine.events import Flipped, WorkerDied
from wherry_agent.engine.settings import EngineSettings
from wherry_agent.frames import Fault

A, B, C = a_place("A"), a_place("B"), a_place("C")


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


def test_neither_side_waits_longer_than_the_other_for_the_one_that_answers_for_both() -> None:
    stage, a, b = a_split_stage(0.5)
    for number in range(40):
        stage.ask(float(number))
    b.die()
    begun = len(stage.answers())
    answer_all(a)
    order = [value for _, (value,) in stage.answers()[begun:]]
    assert order[4:] == sorted(order[4:])  # The first were asked of one of them before.


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
