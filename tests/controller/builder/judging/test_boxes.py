"""Tests of mean average precision: the numbers of pycocotools 2.0.11, frozen."""

from __future__ import annotations

import numpy as np
import pytest

from tests.controller.builder.judging.cards import FOLDER
from wherry.signature import BATCH, Datatype, Signature, Tensor
from wherry_controller.builder.data.rows import Array, Tensors
from wherry_controller.builder.judging.metrics import compare, value
from wherry_controller.core.card import MetricName, Task
from wherry_controller.core.fault import BuildReason, BuildRefused

IMAGES, FOUND, THERE, CLASSES = 40, 30, 6, 5
TASK = Task(output="scores", metric=MetricName.MAP, boxes="boxes", classes="classes")
DETECTOR = Signature(
    (Tensor("image", Datatype.FP32, (BATCH, 4)),),
    (
        Tensor("boxes", Datatype.FP32, (BATCH, "n", 4)),
        Tensor("classes", Datatype.FP32, (BATCH, "n")),
        Tensor("scores", Datatype.FP32, (BATCH, "n")),
    ),
)


def a_scene(seed: int, stray: float = 3.0) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return what a detector of middling worth finds, scores of two digits, and what is there."""
    random = np.random.default_rng(seed)
    there = {"boxes": np.zeros((IMAGES, THERE, 4)), "classes": np.full((IMAGES, THERE), -1)}
    found = {
        "boxes": np.zeros((IMAGES, FOUND, 4)),
        "classes": np.full((IMAGES, FOUND), -1),
        "scores": np.zeros((IMAGES, FOUND)),
    }
    for image in range(IMAGES):
        count = int(random.integers(0, THERE + 1))
        low, size = random.uniform(0, 60, (count, 2)), random.uniform(8, 40, (count, 2))
        there["boxes"][image, :count] = np.hstack([low, low + size])
        there["classes"][image, :count] = random.integers(0, CLASSES, count)
        for index in range(random.integers(0, FOUND + 1)):
            box, number = _detection(random, there, image, count, stray)
            found["boxes"][image, index] = box
            found["classes"][image, index] = number
            found["scores"][image, index] = np.round(random.random(), 2)
    return found, there


def _detection(
    random: np.random.Generator, there: Tensors, image: int, count: int, stray: float
) -> tuple[Array, int]:
    if not count or random.random() >= 0.6:
        low = random.uniform(0, 60, 2)
        box = np.hstack([low, low + random.uniform(5, 40, 2)])
        return box, int(random.integers(0, CLASSES))
    index = random.integers(0, count)
    box = there["boxes"][image, index] + random.normal(0, stray, 4)
    same = random.random() < 0.85
    number = there["classes"][image, index] if same else random.integers(0, CLASSES)
    box[2:] = np.maximum(box[2:], box[:2] + 1)
    return box, int(number)


# COCOeval(…, "bbox"), stats[0], with the boxes as x, y, width and height.
@pytest.mark.parametrize(
    ("seed", "expected"),
    [(7, 0.053029360823732934), (8, 0.081757410080076), (9, 0.06107099992677776)],
)
def test_the_mean_average_precision_is_that_of_pycocotools(seed: int, expected: float) -> None:
    found, there = a_scene(seed)
    assert value(TASK, found, there, FOLDER) == pytest.approx(expected, abs=1e-12)


def test_perfect_boxes_have_a_precision_of_one() -> None:
    _, there = a_scene(7)
    found = {**there, "scores": np.ones((IMAGES, THERE))}
    assert value(TASK, found, there, FOLDER) == 1.0


def test_a_detector_whose_boxes_stray_further_has_a_drop() -> None:
    (good, there), (bad, same) = a_scene(7, stray=1.0), a_scene(7, stray=4.0)
    assert np.array_equal(there["classes"], same["classes"])
    score = compare(TASK, DETECTOR, good, bad, there, FOLDER)
    assert score.drop > 0.1
    assert 0 < score.drop_low < score.drop < score.drop_high
    assert (score.agreement, score.samples) == (None, IMAGES)
    none = compare(TASK, DETECTOR, good, good, there, FOLDER)
    assert (none.drop_low, none.drop, none.drop_high) == (0.0, 0.0, 0.0)


def test_boxes_that_are_no_four_corners_are_refused() -> None:
    found, there = a_scene(7)
    for sick in ({**found, "boxes": found["boxes"][..., :3]}, {**found, "scores": np.zeros(3)}):
        with pytest.raises(BuildRefused, match="are not") as refusal:
            value(TASK, sick, there, FOLDER)
        assert refusal.value.fault.reason is BuildReason.LABELS_MISFIT
    with pytest.raises(BuildRefused, match="no image has a labelled box"):
        value(TASK, found, {**there, "classes": there["classes"] * 0 - 1}, FOLDER)
