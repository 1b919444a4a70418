"""Tests that 95 % intervals hold what they should as often as they say, by simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.controller.builder.judging.cards import FOLDER, ONE_OUTPUT, a_task, one_hot
from wherry_controller.builder.data.rows import Array
from wherry_controller.builder.judging.metrics import compare
from wherry_controller.core.card import MetricName
from wherry_controller.core.choice import Score

TRIALS = 300
# Of 300 intervals that hold the truth with 95 %, fewer than 276 do so once in 100 runs.
FEWEST, MOST = 0.92, 0.995

Drawn = tuple[Array, Array, Array]
Draw = Callable[[np.random.Generator, int], Drawn]


def scores_of(metric: MetricName, draw: Draw, rows: int) -> list[Score]:
    random = np.random.default_rng(2026)
    found = []
    for _ in range(TRIALS):
        reference, given, labels = draw(random, rows)
        sides = ({"scores": reference}, {"scores": given})
        found.append(compare(a_task(metric), ONE_OUTPUT, *sides, {"labels": labels}, FOLDER))
    return found


def truth_of(metric: MetricName, draw: Draw) -> float:
    reference, given, labels = draw(np.random.default_rng(1), 400_000)
    sides = ({"scores": reference}, {"scores": given})
    return compare(a_task(metric), ONE_OUTPUT, *sides, {"labels": labels}, FOLDER).drop


def coverage(metric: MetricName, draw: Draw, rows: int) -> float:
    truth, found = truth_of(metric, draw), scores_of(metric, draw, rows)
    return float(np.mean([one.drop_low <= truth <= one.drop_high for one in found]))


def answers(random: np.random.Generator, rows: int) -> Drawn:
    """Draw a net that is right in 90 % and a variant that answers 4 % of the rows otherwise."""
    labels = random.choice(4, rows, p=[0.4, 0.3, 0.2, 0.1])
    mine = np.where(random.random(rows) < 0.9, labels, (labels + 1) % 4)
    others = np.where(random.random(rows) < 0.04, random.integers(0, 4, rows), mine)
    return one_hot(mine, 4), one_hot(others, 4), labels


def steps(random: np.random.Generator, rows: int) -> Drawn:
    """Draw sequences of ten steps that are wrong together."""
    count = min(rows, 40_000)
    labels = np.zeros((count, 10), np.int64)
    wrong = random.random((count, 1)) < 0.3
    strayed = wrong & (random.random((count, 10)) < 0.5)
    return one_hot(labels, 2), one_hot(labels + strayed, 2), labels


def values(random: np.random.Generator, rows: int) -> Drawn:
    """Draw errors with a long tail, and a variant that rounds."""
    labels = random.normal(size=rows)
    mine = labels + random.exponential(0.5, rows)
    return mine, mine + random.normal(0.02, 0.1, rows), labels


def certainties(random: np.random.Generator, rows: int) -> Drawn:
    """Draw scores of a rare class, rounded so that some are equal."""
    labels = (random.random(rows) < 0.2).astype(np.int64)
    mine = random.normal(labels * 1.5)
    return np.round(mine, 1), np.round(mine + random.normal(0, 0.4, rows), 1), labels


@pytest.mark.parametrize(
    ("metric", "draw", "rows"),
    [
        (MetricName.ACCURACY, answers, 500),
        (MetricName.F1, answers, 500),
        (MetricName.ACCURACY, steps, 60),
        (MetricName.MAE, values, 100),
        (MetricName.AUC, certainties, 200),
    ],
)
def test_an_interval_holds_the_true_drop_in_95_of_100_cases(
    metric: MetricName, draw: Draw, rows: int
) -> None:
    assert FEWEST <= coverage(metric, draw, rows) <= MOST


def test_with_few_turned_answers_an_interval_is_rather_too_wide() -> None:
    assert coverage(MetricName.ACCURACY, answers, 60) >= FEWEST


def test_steps_of_one_sequence_are_not_independent() -> None:
    random = np.random.default_rng(3)
    reference, given, labels = steps(random, 60)
    whole = compare(
        a_task(), ONE_OUTPUT, {"scores": reference}, {"scores": given}, {"labels": labels}, FOLDER
    )
    loose = compare(
        a_task(),
        ONE_OUTPUT,
        {"scores": reference.reshape(600, 2)},
        {"scores": given.reshape(600, 2)},
        {"labels": labels.reshape(600)},
        FOLDER,
    )
    assert whole.drop == pytest.approx(loose.drop)
    assert whole.drop_high - whole.drop_low > 1.5 * (loose.drop_high - loose.drop_low)
