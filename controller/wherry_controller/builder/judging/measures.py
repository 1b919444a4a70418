"""Metrics as values with their pulls: how far each unit draws the value to its side.

A unit is what was drawn by itself: a row, or a sequence, whose steps are not independent. The
pulls are the infinitesimal jackknife's (Efron 1982, chapter 6): they add up to zero, and the sum
of their squares is the value's variance. So a difference of two metrics on the same rows has the
differences of their pulls, and every metric has a paired interval in one pass.

Labels below 0 are none: such a position does not count. Where outputs have steps and labels have
none, the last step's answer is the sequence's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wherry_controller.builder.data.rows import Array, Tensors
from wherry_controller.builder.faults import refuse, refusing
from wherry_controller.builder.judging.outputs import pieces
from wherry_controller.core.fault import BuildReason

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric's value; `flip` is how far one answer that turns moves it (0: no bound is known).

    `shares` is the number of independent answers of which the value is the share that is right,
    0 where it is no such share.
    """

    value: float
    pulls: Floats
    flip: float = 0.0
    shares: int = 0

    def __len__(self) -> int:
        return len(self.pulls)


def accuracy(scores: Array, labels: Array, k: int) -> Measure:
    """Return the share of labels among the `k` largest scores; the last axis is the classes."""
    scores = _at_labels(scores, labels)
    _check_classes(scores, labels)
    parts = [_hits(scores[piece], labels[piece], k) for piece in pieces(scores)]
    right, counted = (np.concatenate(side) for side in zip(*parts, strict=True))
    total = float(counted.sum())
    value = float(right.sum()) / total
    shares = int(total) if labels.ndim == 1 else 0
    return Measure(value, (right - value * counted) / total, 1 / total, shares)


def macro_f1(scores: Array, labels: Array) -> Measure:
    """Return the mean F1 of the classes that are labelled or answered (as scikit-learn's macro)."""
    scores = _at_labels(scores, labels)
    _check_classes(scores, labels)
    classes = scores.shape[-1]
    answers = np.concatenate([np.argmax(scores[piece], -1) for piece in pieces(scores)])
    truth = np.asarray(labels, np.int64)
    counted = truth >= 0
    labelled = np.bincount(truth[counted], minlength=classes)
    answered = np.bincount(answers[counted], minlength=classes)
    right = np.bincount(truth[counted & (truth == answers)], minlength=classes)
    sizes = (labelled + answered).astype(np.float64)
    present = sizes > 0
    scale = np.divide(1, sizes, out=np.zeros_like(sizes), where=present) / present.sum()
    each = 2 * right * scale  # Each class's part of the mean.
    loss = each * scale * present.sum()
    pull = np.where(truth == answers, 2 * scale[truth], 0) - loss[truth] - loss[answers]
    value = float(each.sum())
    return Measure(value, _a_unit(np.where(counted, pull, 0)), 1 / float(counted.sum()))


def auc(scores: Array, labels: Array) -> Measure:
    """Return the area under the ROC curve, ties counted by half.

    Its pulls are the structural components of DeLong, DeLong and Clarke-Pearson (1988).
    """
    flat, truth = _positive_scores(scores, labels), np.asarray(labels)
    if not np.isin(truth, (-1, 0, 1)).all() or not ((truth == 1).any() and (truth == 0).any()):
        refuse(BuildReason.LABELS_MISFIT, "auc needs labels 0 and 1, some of each")
    positive, negative = flat[truth == 1], flat[truth == 0]
    above = _placements(positive, negative)
    below = 1 - _placements(negative, positive)
    value = float(above.mean())
    pull = np.zeros(truth.shape)
    pull[truth == 1] = (above - value) / len(positive)
    pull[truth == 0] = (below - value) / len(negative)
    return Measure(value, _a_unit(pull))


def mean_absolute_error(values: Array, labels: Array) -> Measure:
    if values.ndim > 2 and (len(values), *values.shape[2:]) == labels.shape:
        values = values[:, -1]
    if values.size != labels.size or len(values) != len(labels):
        _refuse_shapes(values, labels)
    errors = np.concatenate(
        [
            np.abs(
                values[piece].reshape(labels[piece].shape).astype(np.float64)
                - labels[piece].astype(np.float64)
            )
            .reshape(len(labels[piece]), -1)
            .mean(axis=1)
            for piece in pieces(values, labels)
        ]
    )
    return mean_of(errors)


def own(function: Callable[..., object], name: str, outputs: Tensors, labels: Tensors) -> Measure:
    """Return the mean of what the version's own function gives: one finite number a row."""
    rows = len(next(iter(outputs.values())))
    with refusing(BuildReason.LABELS_MISFIT, f"the metric {name} fails"):
        numbers = np.asarray(function(dict(outputs), dict(labels)))
    if numbers.shape != (rows,) or numbers.dtype.kind not in "biuf":
        problem = f"the metric {name} gives {numbers.dtype} {list(numbers.shape)} for {rows} rows"
        refuse(BuildReason.LABELS_MISFIT, f"{problem}, and one number a row is wanted")
    if not np.isfinite(numbers.astype(np.float64)).all():
        refuse(BuildReason.LABELS_MISFIT, f"the metric {name} gives NaN or infinity")
    return mean_of(numbers.astype(np.float64))


def mean_of(numbers: Floats) -> Measure:
    value = float(numbers.mean())
    return Measure(value, (numbers - value) / len(numbers))


def _a_unit(pulls: Floats) -> Floats:
    return np.asarray(pulls.reshape(len(pulls), -1).sum(axis=1), np.float64)


def _hits(given: Array, labels: Array, k: int) -> tuple[Floats, Floats]:
    """Return how many labels of each row are among the `k` largest, and how many it has."""
    rows = len(labels)
    truth = labels.astype(np.int64)
    counted = truth >= 0
    scores = given.astype(np.float64)
    mine = np.take_along_axis(scores, np.maximum(truth, 0)[..., None], axis=-1)
    # Among equals the first is the answer, as argmax has it.
    earlier = np.arange(scores.shape[-1]) < truth[..., None]
    rank = np.sum((scores > mine) | ((scores == mine) & earlier), axis=-1)
    right = (counted & (rank < k)).reshape(rows, -1).sum(axis=1)
    return right.astype(np.float64), counted.reshape(rows, -1).sum(axis=1).astype(np.float64)


def _placements(ones: Floats, others: Floats) -> Floats:
    """Return for each of `ones` the share of `others` that lie below it, equals by half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, ones, "left") + np.searchsorted(ordered, ones, "right")
    return below / (2 * len(others))


def _positive_scores(scores: Array, labels: Array) -> Floats:
    """Return the positive class's scores: the last of two, or the only one."""
    scores = _at_labels(scores, labels)
    if scores.shape[:-1] == labels.shape and scores.shape[-1] in (1, 2):
        scores = scores[..., -1]
    if scores.shape != labels.shape:
        _refuse_shapes(scores, labels)
    return scores.astype(np.float64)


def _at_labels(scores: Array, labels: Array) -> Array:
    """Return the scores of the last step where only whole sequences have a label."""
    return scores[:, -1] if labels.ndim == 1 and scores.ndim == 3 else scores


def _check_classes(scores: Array, labels: Array) -> None:
    if scores.shape[:-1] != labels.shape or labels.dtype.kind not in "iu":
        _refuse_shapes(scores, labels)
    if scores.shape[-1] < 2:
        refuse(
            BuildReason.LABELS_MISFIT,
            "the output has one score and so no classes; auc or a function can judge it",
        )
    if int(labels.max()) >= scores.shape[-1]:
        problem = f"there is the label {int(labels.max())} and the output has {scores.shape[-1]}"
        refuse(BuildReason.LABELS_MISFIT, f"{problem} classes")
    if int(labels.max()) < 0:
        refuse(BuildReason.LABELS_MISFIT, "no row has a label")


def _refuse_shapes(outputs: Array, labels: Array) -> None:
    problem = (
        f"the labels are {labels.dtype} {list(labels.shape)} and the output is "
        f"{list(outputs.shape)}, which does not fit the metric"
    )
    refuse(BuildReason.LABELS_MISFIT, problem)
