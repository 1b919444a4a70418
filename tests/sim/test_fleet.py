"""Stories of whole fleets: whatever befalls them, they come to what the rollout says.

Laws that must hold at every step are the simulator's own (`BrokenLaw`); here stand the ends.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from wherry.messages import Shadow, Split
from wherry.reasons import Status
from wherry_controller.core.rollout import RolloutStatus, StoppedBy
from wherry_sim.bundles import Behaviour
from wherry_sim.fleet import GATE, Outcome, Scenario, Span, device_name, run
from wherry_sim.network import Faults

STORM = Faults(loss=0.3, duplicates=0.1, slowest_s=2.0)
RAIN = Faults(loss=0.1, duplicates=0.05)
SEEDS = range(2)

WRONG_LABELS = Behaviour(accuracy=0.05)
SLOW = Behaviour(median_ms=5.0)
SHADOW = Shadow(share=1.0, for_s=20.0, min_requests=200, deadline_s=300.0, min_agreement=0.9)
SPLIT = Split(share=0.5)
CANARIES = {device_name(number) for number in range(Scenario().canaries)}

seeds = pytest.mark.parametrize("seed", SEEDS)


def assert_all_serve(outcome: Outcome, version: str) -> None:
    assert set(outcome.versions.values()) == {version}


def assert_everybody_went_back(outcome: Outcome, by: StoppedBy) -> None:
    assert outcome.status is RolloutStatus.REVERTED
    assert outcome.stopped_by is by
    assert outcome.touched <= CANARIES
    assert_all_serve(outcome, "old")


@seeds
def test_a_good_version_reaches_all_through_losses_and_kills(seed: int) -> None:
    outcome = run(Scenario(faults=STORM, kills=2, spoils=0.02, within_s=900.0), seed)
    assert outcome.status is RolloutStatus.SUCCEEDED
    assert_all_serve(outcome, "new")
    assert set(outcome.ended.values()) == {Status.SUCCEEDED}
    assert outcome.kills >= 20 and outcome.lost and outcome.repeated


@seeds
def test_a_first_version_reaches_devices_that_serve_nothing(seed: int) -> None:
    outcome = run(Scenario(old=None, faults=RAIN, kills=1, within_s=900.0), seed)
    assert outcome.status is RolloutStatus.SUCCEEDED
    assert_all_serve(outcome, "new")


@seeds
def test_canaries_that_confirmed_wrong_labels_are_sent_back_by_the_gate(seed: int) -> None:
    outcome = run(Scenario(new=WRONG_LABELS, faults=STORM, kills=1, within_s=600.0), seed)
    assert_everybody_went_back(outcome, StoppedBy.GATE)
    assert "accuracy" in outcome.why
    assert outcome.touched and Status.SUCCEEDED in outcome.ended.values()


@seeds
def test_devices_revert_a_slow_version_by_themselves_in_probation(seed: int) -> None:
    outcome = run(Scenario(new=SLOW, faults=STORM, within_s=600.0), seed)
    assert_everybody_went_back(outcome, StoppedBy.DEVICE)
    assert "slow" in outcome.why
    assert set(outcome.ended.values()) <= {Status.REVERTED, Status.SUPERSEDED}


@pytest.mark.parametrize(
    ("new", "why"),
    [
        (Behaviour(passes_golden=False), "golden_mismatch"),
        (Behaviour(kills_the_device=True), "restarted_too_often"),
        (Behaviour(error_share=0.1), "errors"),
    ],
)
def test_each_sickness_is_stopped_at_the_canaries_by_its_own_reason(
    new: Behaviour, why: str
) -> None:
    outcome = run(Scenario(new=new, faults=RAIN, within_s=600.0), seed=1)
    assert_everybody_went_back(outcome, StoppedBy.DEVICE)
    assert why in outcome.why


@seeds
def test_a_device_that_was_away_during_the_rollout_comes_after(seed: int) -> None:
    patient = msgspec.structs.replace(GATE, largest_silent_share=0.1, deadline_s=200.0)
    away = Span(device=10, from_s=50.0, to_s=480.0)
    outcome = run(Scenario(gate=patient, offline=(away,), faults=RAIN, within_s=900.0), seed)
    assert outcome.status is RolloutStatus.SUCCEEDED
    assert_all_serve(outcome, "new")
    assert outcome.took_s > 400.0


def test_canaries_that_are_away_when_the_gate_halts_go_back_when_they_return() -> None:
    away = tuple(Span(device=number, from_s=125.0, to_s=400.0) for number in range(3))
    outcome = run(Scenario(new=WRONG_LABELS, offline=away, within_s=900.0), seed=1)
    assert_everybody_went_back(outcome, StoppedBy.GATE)
    assert set(outcome.ended.values()) == {Status.SUCCEEDED}
    assert outcome.took_s > 300.0


def test_a_halt_in_the_field_brings_the_canaries_back_too() -> None:
    strict = msgspec.structs.replace(GATE, deadline_s=200.0)
    away = Span(device=10, from_s=50.0, to_s=700.0)
    outcome = run(Scenario(gate=strict, offline=(away,), faults=RAIN, within_s=900.0), seed=1)
    assert outcome.status is RolloutStatus.REVERTED
    assert "device-010" in outcome.why
    assert outcome.touched >= CANARIES
    assert_all_serve(outcome, "old")


@seeds
def test_a_broker_that_loses_everything_costs_only_time(seed: int) -> None:
    restarts = (77.0, 78.5, 85.0, 195.0, 210.0)
    story = Scenario(broker_restarts_s=restarts, faults=RAIN, kills=1, within_s=900.0)
    outcome = run(story, seed)
    assert outcome.status is RolloutStatus.SUCCEEDED
    assert_all_serve(outcome, "new")


@seeds
def test_a_controller_that_dies_between_saving_and_performing_loses_no_order(seed: int) -> None:
    kills = frozenset({1, 3, 7, 12, 13, 25})
    outcome = run(Scenario(controller_kills=kills, faults=STORM, within_s=900.0), seed)
    assert outcome.controller_kills == len(kills)
    assert outcome.status is RolloutStatus.SUCCEEDED
    assert_all_serve(outcome, "new")


def test_a_controller_that_dies_while_it_orders_the_canaries_back_brings_all_back() -> None:
    kills = frozenset({5, 7, 9})  # Its fifth effect is the first way back.
    story = Scenario(new=WRONG_LABELS, controller_kills=kills, faults=STORM, within_s=900.0)
    outcome = run(story, seed=1)
    assert outcome.controller_kills == len(kills)
    assert_everybody_went_back(outcome, StoppedBy.GATE)


@seeds
def test_everything_at_once_costs_only_time(seed: int) -> None:
    story = Scenario(
        faults=STORM,
        spoils=0.1,
        kills=2,
        offline=(Span(1, 77.0, 105.0), Span(5, 190.0, 250.0)),
        broker_restarts_s=(95.0, 260.0),
        controller_kills=frozenset({3, 9, 11}),
        within_s=1200.0,
    )
    outcome = run(story, seed)
    assert outcome.status is RolloutStatus.SUCCEEDED
    assert_all_serve(outcome, "new")


@seeds
def test_a_good_version_that_shadows_and_shares_reaches_all_through_losses_and_kills(
    seed: int,
) -> None:
    story = Scenario(shadow=SHADOW, split=SPLIT, faults=STORM, kills=2, within_s=1800.0)
    outcome = run(story, seed)
    assert outcome.status is RolloutStatus.SUCCEEDED
    assert_all_serve(outcome, "new")
    assert outcome.shared == outcome.versions.keys()
    quick = run(replace(story, shadow=None, split=None), seed)
    assert outcome.took_s > quick.took_s + SHADOW.for_s
    assert not quick.shared


@seeds
def test_a_version_that_disagrees_while_it_shadows_answers_on_no_device(seed: int) -> None:
    story = Scenario(new=WRONG_LABELS, shadow=SHADOW, faults=STORM, kills=1, within_s=900.0)
    outcome = run(story, seed)
    assert_everybody_went_back(outcome, StoppedBy.DEVICE)
    assert "disagrees" in outcome.why
    assert not outcome.touched
    assert set(outcome.ended.values()) <= {Status.FAILED, Status.SUPERSEDED}


@seeds
def test_devices_go_back_from_the_slow_side_of_a_split(seed: int) -> None:
    outcome = run(Scenario(new=SLOW, split=SPLIT, faults=STORM, within_s=600.0), seed)
    assert_everybody_went_back(outcome, StoppedBy.DEVICE)
    assert "slow" in outcome.why
    assert outcome.shared and outcome.shared == outcome.touched


def test_with_nothing_to_be_compared_with_a_first_version_just_serves() -> None:
    story = Scenario(old=None, shadow=SHADOW, split=SPLIT, faults=RAIN, within_s=900.0)
    outcome = run(story, seed=1)
    assert outcome.status is RolloutStatus.SUCCEEDED
    assert_all_serve(outcome, "new")
    assert not outcome.shared


def test_the_same_seed_plays_the_same_story() -> None:
    story = Scenario(devices=6, canaries=2, faults=STORM, kills=1)
    assert run(story, seed=5) == run(story, seed=5)
    assert run(story, seed=5) != run(story, seed=6)


def test_nobody_fetches_a_chunk_twice_on_a_quiet_network() -> None:
    story = Scenario(devices=6, canaries=2)
    outcome = run(story, seed=1)
    assert outcome.chunks_asked == 6 * 11  # Ten of the model, one golden.
    killed = run(replace(story, kills=2), seed=1)
    assert killed.kills > 0
    assert killed.versions == outcome.versions
