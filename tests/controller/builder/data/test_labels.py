"""Tests of labels: each metric's own kind, and what misfits is refused by its row."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from tests.builders import a_signature
from tests.controller.builder.data.cards import Array, a_card, the_fault
from wherry.signature import BATCH, Datatype, Tensor
from wherry_controller.builder.data.labels import checked_labels, class_number
from wherry_controller.builder.data.wanted import Where
from wherry_controller.core.card import Card, Data, MetricName, Task
from wherry_controller.core.fault import BuildReason

WHERE = Where("rows.npz", 100)
MISFIT, MALFORMED = BuildReason.LABELS_MISFIT, BuildReason.MALFORMED_DATA


def a_task_card(metric: MetricName, *axes: int | str, labels: tuple[str, ...] = ()) -> Card:
    function = "score.py:score" if metric is MetricName.FUNCTION else None
    task = Task(output="scores", metric=metric, boxes="scores", classes="scores", function=function)
    outputs = (Tensor("scores", Datatype.FP32, (BATCH, *axes)),)
    return a_card(
        Data(evaluation="rows.npz", label="y"),
        signature=a_signature(outputs=outputs),
        task=task,
        labels=labels,
    )


def checked(card: Card, **arrays: Array) -> dict[str, Array]:
    return checked_labels(card, WHERE, arrays)


CLASSIFIER = a_task_card(MetricName.ACCURACY, 3)
TAGGER = a_task_card(MetricName.F1, "words", 3)
SIGNS = a_task_card(MetricName.AUC, 1)
VALUES = a_task_card(MetricName.MAE, 2)
BOXES = a_task_card(MetricName.MAP, 4, labels=("cat", "dog"))


@pytest.mark.parametrize(
    ("card", "labels"),
    [
        (CLASSIFIER, np.array([0, 2, 1], np.uint8)),
        (TAGGER, np.array([[0, 2], [1, -1]])),
        (SIGNS, np.array([True, False])),
        (SIGNS, np.array([0, 1])),
        (VALUES, np.array([[1, 2], [3, 4]])),
        (VALUES, np.array([[0.5, -2]])),
    ],
)
def test_labels_of_the_metric_s_kind_are_kept(card: Card, labels: Array) -> None:
    found = checked(card, y=labels, x=np.zeros(3))
    assert list(found) == ["labels"]
    assert np.array_equal(found["labels"], labels)


@pytest.mark.parametrize(
    ("card", "labels", "reason", "words"),
    [
        (CLASSIFIER, np.array([0, 3]), MISFIT, "row 101 of rows.npz has the label 3"),
        (CLASSIFIER, np.array([-1, 0]), MISFIT, "row 100 of rows.npz has the label -1"),
        (CLASSIFIER, np.array([2**64 - 1], np.uint64), MISFIT, "row 100"),
        (CLASSIFIER, np.array([0.0]), MALFORMED, "float64, not whole numbers"),
        (CLASSIFIER, np.array([[0], [1]]), MISFIT, "shape [2, 1]"),
        (CLASSIFIER, np.array(["cat"]), MISFIT, "'cat'"),
        (TAGGER, np.array([[0, -2]]), MISFIT, "row 100 of rows.npz has the label -2"),
        (SIGNS, np.array([[-1]]), MISFIT, "label -1"),
        (TAGGER, np.array([0, 1]), MISFIT, "wants ['rows', 'words']"),
        (SIGNS, np.array([0, 2]), MISFIT, "row 101 of rows.npz has the label 2"),
        (VALUES, np.array([1.0]), MISFIT, "wants ['rows', 2]"),
        (VALUES, np.array([[1.0, np.nan]]), MALFORMED, "NaN"),
        (VALUES, np.array([["a", "b"]]), MALFORMED, "no numbers"),
    ],
)
def test_labels_that_misfit_are_refused(
    card: Card, labels: Array, reason: BuildReason, words: str
) -> None:
    fault = the_fault(lambda: checked(card, y=labels))
    assert fault.reason is reason
    assert words in fault.sentence


def test_a_label_beyond_the_card_s_is_refused_where_the_output_counts_none() -> None:
    card = a_task_card(MetricName.ACCURACY, "classes", labels=("cat", "dog"))
    assert the_fault(lambda: checked(card, y=np.array([2]))).reason is MISFIT


def test_one_value_a_row_fills_the_output_s_last_axis() -> None:
    card = a_task_card(MetricName.MAE, 1)
    assert checked(card, y=np.array([1.5, 2]))["labels"].tolist() == [[1.5], [2]]


def test_boxes_are_padded_and_have_their_corners_in_order() -> None:
    boxes = np.array([[[0, 0, 2, 2], [-1, -1, -1, -1]]], np.float32)
    found = checked(BOXES, boxes=boxes, classes=np.array([[1, -1]]))
    assert list(found) == ["boxes", "classes"]
    backwards = np.array([[[0, 0, -2, 2], [-1, -1, -1, -1]]], np.float32)
    for given, classes in (
        (backwards, [[1, -1]]),
        (boxes, [[2, -1]]),
        (boxes, [[1, -2]]),
        (boxes, [[1]]),
        (boxes[..., :3], [[1, -1]]),
    ):
        arrays = {"boxes": given, "classes": np.array(classes)}
        assert the_fault(partial(checked, BOXES, **arrays)).reason is MISFIT


def test_a_function_gets_any_numbers_by_their_names() -> None:
    card = a_task_card(MetricName.FUNCTION, 3)
    arrays = {"image": np.zeros((2, 2)), "y": np.array([1, 2]), "weights": np.ones((2, 5))}
    assert list(checked(card, **arrays)) == ["y", "weights"]
    assert the_fault(lambda: checked(card, y=np.array(["a"]))).reason is MALFORMED


def test_a_text_is_a_name_first_and_a_number_only_if_no_name_is_one() -> None:
    named = a_task_card(MetricName.ACCURACY, 3, labels=("cat", "dog", "ant"))
    assert [class_number(named, "line 2", text) for text in ("ant", "1")] == [2, 1]
    digits = a_task_card(MetricName.ACCURACY, 3, labels=("1", "2", "3"))
    assert class_number(digits, "line 2", "1") == 0
    assert "line 2" in the_fault(lambda: class_number(digits, "line 2", "0")).sentence
