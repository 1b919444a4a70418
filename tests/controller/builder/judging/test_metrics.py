"""Tests of the metrics by hand-counted values, and of what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tests.controller.builder.judging.cards import FOLDER, ONE_OUTPUT, a_task, one_hot
from wherry.signature import Signature
from wherry_controller.builder.data.rows import Array, Tensors
from wherry_controller.builder.judging.metrics import (
    Measured,
    claim_differs,
    compare,
    measure,
    value,
    wilson,
)
from wherry_controller.core.card import MetricName, Task
from wherry_controller.core.choice import Score
from wherry_controller.core.fault import BuildReason, BuildRefused

LABELS = np.array([0, 1, 2, 2, 1, 0, 1, 2])
ANSWERS = [0, 2, 2, 1, 1, 0, 0, 2]


def value_of(metric: MetricName, scores: Array, labels: Array, *, k: int = 5) -> float:
    return value(a_task(metric, k=k), {"scores": scores}, {"labels": labels}, FOLDER)


def score_of(task: Task, reference: Array, given: Array, labels: Array) -> Score:
    before, after = {"scores": reference}, {"scores": given}
    return compare(task, ONE_OUTPUT, before, after, {"labels": labels}, FOLDER)


def refusal_of(metric: MetricName, scores: Array, labels: Array) -> str:
    with pytest.raises(BuildRefused) as refusal:
        value_of(metric, scores, labels)
    assert refusal.value.fault.reason is BuildReason.LABELS_MISFIT
    return str(refusal.value)


def test_accuracy_is_the_share_of_rows_whose_largest_score_is_labelled() -> None:
    assert value_of(MetricName.ACCURACY, one_hot(ANSWERS, 3), LABELS) == 5 / 8


def test_the_first_of_equal_scores_is_the_answer() -> None:
    scores = np.zeros((2, 3), np.float32)
    assert value_of(MetricName.ACCURACY, scores, np.array([0, 1])) == 0.5
    assert value_of(MetricName.TOP_K, scores, np.array([1, 2]), k=2) == 0.5


def test_top_k_asks_for_the_label_among_the_first_k() -> None:
    scores = np.array([[4, 3, 2, 1]] * 4, np.float32)
    labels = np.arange(4)
    found = [value_of(MetricName.TOP_K, scores, labels, k=k) for k in (1, 2, 3, 4)]
    assert found == [0.25, 0.5, 0.75, 1.0]


def test_macro_f1_is_that_of_scikit_learn() -> None:
    # f1_score(LABELS, ANSWERS, average="macro") of scikit-learn 1.9.1.
    assert value_of(MetricName.F1, one_hot(ANSWERS, 3), LABELS) == pytest.approx(
        0.6222222222222222, abs=1e-15
    )


def test_a_class_that_is_neither_labelled_nor_answered_has_no_f1() -> None:
    assert value_of(MetricName.F1, one_hot(ANSWERS, 9), LABELS) == pytest.approx(0.62222222222)
    answered = one_hot([0, 0, 3], 4)
    # The answered class 3 counts as 0, as in scikit-learn.
    assert value_of(MetricName.F1, answered, np.array([0, 0, 1])) == pytest.approx(1 / 3)


def test_auc_counts_ties_by_half() -> None:
    scores, labels = np.array([0.1, 0.4, 0.4, 0.8], np.float32), np.array([0, 0, 1, 1])
    assert value_of(MetricName.AUC, scores, labels) == 0.875
    assert value_of(MetricName.AUC, scores[:, None], labels) == 0.875
    both = np.stack([1 - scores, scores], axis=1)
    assert value_of(MetricName.AUC, both, labels) == 0.875
    assert value_of(MetricName.AUC, np.zeros(4), labels) == 0.5


def test_mae_is_the_mean_distance_over_all_values() -> None:
    values = np.array([[1.0, 2.0], [3.0, 5.0]], np.float32)
    assert value_of(MetricName.MAE, values, np.array([[1.0, 1.0], [0.0, 5.0]])) == 1.0
    assert value_of(MetricName.MAE, values[:, :1], np.array([2.0, 3.0])) == 0.5


def test_a_label_a_position_counts_each_position() -> None:
    scores = one_hot([0, 1, 2, 0, 1, 1], 3).reshape(2, 3, 3)
    labels = np.array([[0, 1, 1], [0, 1, 1]])
    assert value_of(MetricName.ACCURACY, scores, labels) == 5 / 6
    assert value_of(MetricName.F1, scores, labels) == pytest.approx((1 + 6 / 7 + 0) / 3)


def test_a_position_without_a_label_does_not_count() -> None:
    scores = one_hot([0, 1, 2, 0, 1, 1], 3).reshape(2, 3, 3)
    labels = np.array([[0, 1, -1], [0, 2, -1]])
    assert value_of(MetricName.ACCURACY, scores, labels) == 3 / 4
    unlabelled = one_hot([1, 0], 3)
    assert value_of(MetricName.ACCURACY, unlabelled, np.array([2, -1])) == 0.0
    assert value_of(MetricName.F1, scores, labels) == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_the_last_step_answers_for_a_sequence_with_one_label() -> None:
    scores = one_hot([0, 1, 2, 0], 3).reshape(2, 2, 3)
    assert value_of(MetricName.ACCURACY, scores, np.array([1, 0])) == 1.0
    certain = np.array([[[0.9], [0.1]], [[0.0], [0.7]]], np.float32)
    assert value_of(MetricName.AUC, certain, np.array([0, 1])) == 1.0
    assert value_of(MetricName.MAE, certain, np.array([[0.1], [0.7]])) == pytest.approx(0, abs=1e-7)


def test_labels_that_do_not_fit_the_output_are_refused() -> None:
    scores = one_hot(ANSWERS, 3)
    assert "the output is [8, 3]" in refusal_of(MetricName.ACCURACY, scores, LABELS[:5])
    assert "the label 2 and the output has 2 classes" in refusal_of(
        MetricName.ACCURACY, scores[:, :2], LABELS
    )
    assert "one score and so no classes" in refusal_of(MetricName.F1, scores[:, :1], LABELS * 0)
    assert "auc needs labels 0 and 1" in refusal_of(MetricName.AUC, scores[:, 0], LABELS * 0)
    assert "does not fit" in refusal_of(MetricName.AUC, scores, LABELS)
    assert "does not fit" in refusal_of(MetricName.MAE, scores, LABELS)


def test_a_drop_is_a_loss_whichever_way_the_metric_counts() -> None:
    worse = score_of(a_task(), one_hot(LABELS, 3), one_hot(ANSWERS, 3), LABELS)
    assert (worse.reference_value, worse.value, worse.drop) == (1.0, 0.625, 0.375)
    assert worse.drop_low < 0.375 < worse.drop_high
    assert (worse.agreement, worse.samples) == (0.625, 8)
    far, near = np.full((8, 1), 3.0, np.float32), np.full((8, 1), 1.0, np.float32)
    labels = np.zeros(8)
    assert score_of(a_task(MetricName.MAE), far, near, labels).drop == -2.0
    assert score_of(a_task(MetricName.MAE), near, far, labels).drop == 2.0


def test_only_an_output_of_classes_has_an_agreement() -> None:
    scores = np.array([[0.1], [0.9]] * 4, np.float32)
    assert score_of(a_task(MetricName.AUC), scores, scores, LABELS % 2).agreement is None


def test_equal_answers_do_not_prove_that_there_is_no_drop() -> None:
    few, many = (
        score_of(a_task(), one_hot(labels, 3), one_hot(labels, 3), labels)
        for labels in (LABELS, np.tile(LABELS, 100))
    )
    assert few.drop == many.drop == 0.0
    assert few.drop_high > 0.3
    assert many.drop_high == pytest.approx(1.963 * math.sqrt(2) / 800, rel=1e-3)


def test_one_row_says_nothing_of_a_drop() -> None:
    with pytest.raises(BuildRefused, match="single row") as refusal:
        score_of(a_task(), one_hot([0], 3), one_hot([1], 3), LABELS[:1])
    assert refusal.value.fault.reason is BuildReason.MALFORMED_DATA


# ---------------------------------------------------------------- the version's own function


def own(folder: Path, body: str, *, grows: bool = True) -> Task:
    (folder / "score.py").write_text(
        f"import numpy as np\n\ndef score(outputs, labels):\n    {body}\n"
    )
    return Task(
        output="scores",
        metric=MetricName.FUNCTION,
        function="score.py:score",
        higher_is_better=grows,
    )


def test_a_version_s_own_function_gives_one_number_a_row(tmp_path: Path) -> None:
    body = "return np.abs(outputs['scores'][:, 0] - labels['wanted'])"
    task = own(tmp_path, body, grows=False)
    labels = {"wanted": np.array([1.0, 2.0])}
    near = {"scores": np.array([[1.0], [3.0]], np.float32)}
    far = {"scores": np.array([[2.0], [4.0]], np.float32)}
    score = compare(task, ONE_OUTPUT, near, far, labels, tmp_path)
    assert (score.reference_value, score.value, score.drop) == (0.5, 1.5, 1.0)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("return 0.5", "gives float64 [] for 2 rows"),
        ("return outputs['scores']", "gives float32 [2, 1] for 2 rows"),
        ("return ['good', 'bad']", "one number a row is wanted"),
        ("return np.array([np.nan, 1])", "gives NaN or infinity"),
        ("return labels['missing']", "the metric score.py:score fails"),
    ],
)
def test_a_function_that_gives_no_numbers_is_refused(
    tmp_path: Path, body: str, problem: str
) -> None:
    task = own(tmp_path, body)
    with pytest.raises(BuildRefused) as refusal:
        value(task, {"scores": np.zeros((2, 1), np.float32)}, {}, tmp_path)
    assert problem in str(refusal.value)
    assert refusal.value.fault.reason is BuildReason.LABELS_MISFIT


# ---------------------------------------------------------------- claims


def claiming(claimed: float | None) -> Task:
    return Task(output="scores", claimed=claimed)


def test_a_share_has_wilsons_interval() -> None:
    # Newcombe 1998, table I: 81 of 263.
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    found = measure(a_task(), {"scores": one_hot(ANSWERS, 3)}, {"labels": LABELS}, FOLDER)
    assert (found.low, found.high) == wilson(5 / 8, 8)


def test_other_metrics_have_the_interval_of_their_pulls() -> None:
    errors = np.arange(8.0)
    found = measure(a_task(MetricName.MAE), {"scores": errors}, {"labels": np.zeros(8)}, FOLDER)
    # Student's 97.5 % quantile at 7 degrees of freedom.
    room = 2.3646 * errors.std(ddof=1) / math.sqrt(8)
    assert (found.value, found.low, found.high) == pytest.approx(
        (3.5, 3.5 - room, 3.5 + room), rel=1e-3
    )


@pytest.mark.parametrize(
    ("claimed", "differs"), [(None, False), (0.9, False), (0.86, False), (0.84, False), (0.5, True)]
)
def test_a_claim_differs_where_neither_goal_nor_chance_explains_it(
    claimed: float | None, differs: bool
) -> None:
    measured = Measured(value=0.9, low=0.85, high=0.94)
    fault = claim_differs(claiming(claimed), measured, largest_drop=0.07)
    assert (fault is not None) is differs
    if fault is not None:
        assert fault.reason is BuildReason.CLAIM_DIFFERS
        assert "claims accuracy 0.5 and the source has 0.9000" in fault.problem


def test_chance_alone_explains_a_claim_within_the_interval() -> None:
    measured = Measured(value=0.9, low=0.7, high=0.98)
    assert claim_differs(claiming(0.75), measured, largest_drop=0.0) is None
    assert claim_differs(claiming(0.65), measured, largest_drop=0.0) is not None


def test_outputs_that_were_not_compared_are_left_out() -> None:
    signature = Signature(
        ONE_OUTPUT.inputs, (*ONE_OUTPUT.outputs, ONE_OUTPUT.inputs[0]), max_batch=1
    )
    sides: Tensors = {"scores": one_hot(ANSWERS, 3)}
    score = compare(a_task(), signature, sides, sides, {"labels": LABELS}, FOLDER)
    assert score.output_error == 0.0
