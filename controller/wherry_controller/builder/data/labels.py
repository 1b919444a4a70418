"""Labels as the card's metric wants them, and how texts become class numbers.

A metric of classes has whole numbers from 0, one wherever the output has a row of scores (-1,
where there are several a row, is none); `auc` has 0 and 1; `mae` has values shaped like the
output; `map` has boxes by their corners and class numbers, filled up with -1; the version's own
function gets any numbers by name. Where rows are sequences, labels are one a row or one a step.
"""

from __future__ import annotations

from typing import NoReturn

import numpy as np
import numpy.typing as npt

from wherry_controller.builder.data.rows import Array, Tensors
from wherry_controller.builder.data.wanted import (
    BOXES,
    CLASSES,
    STEPS,
    Where,
    fits,
    refuse_not_finite,
)
from wherry_controller.builder.faults import refuse
from wherry_controller.core.card import Card, MetricName
from wherry_controller.core.fault import BuildReason

LABELS = "labels"
PAD = -1
LONGEST_NUMBER = 9
Axes = tuple[int | str, ...]
Wholes = npt.NDArray[np.int64]


def checked_labels(card: Card, where: Where, part: Tensors) -> dict[str, Array]:
    """Return the labels among a part's arrays by the metric's names; refuses those that misfit."""
    match card.task.metric:
        case MetricName.FUNCTION:
            inputs = {tensor.name for tensor in card.signature.inputs}
            return {name: _numbers(where, name, part[name]) for name in part if name not in inputs}
        case MetricName.MAP:
            return _boxes(card, where, part)
        case MetricName.MAE:
            return {LABELS: _values(card, where, part[card.data.label])}
        case MetricName.AUC:
            return {LABELS: _signs(card, where, part[card.data.label])}
        case _:
            return {LABELS: _classes(card, where, part[card.data.label])}


def class_number(card: Card, spot: str, text: str) -> int:
    """Return the class number of a text: a label of the card or, if none is a number, a number."""
    if text in card.labels:
        return card.labels.index(text)
    numbers = not any(label.isdecimal() for label in card.labels)
    if not (numbers and text.isascii() and text.isdecimal() and len(text) <= LONGEST_NUMBER):
        _misfit(f"{spot} has the label {text[:100]!r}, which model.toml does not name")
    return int(text)


def classes_of(card: Card) -> int | None:
    """Return how many classes there are, None where neither output nor labels tell."""
    last = output_axes(card)[-1:]
    if card.task.class_output is not None and last and isinstance(last[0], int):
        return last[0]
    return len(card.labels) or None


def output_axes(card: Card) -> Axes:
    """Return the axes of one row of the output that labels are compared with."""
    outputs = {tensor.name: tensor for tensor in card.signature.outputs}
    return outputs[card.task.output].shape[1:]


def _classes(card: Card, where: Where, labels: Array) -> Array:
    _refuse_misshapen(card, where, labels, (output_axes(card)[:-1],))
    whole = _whole(where, card.data.label, _named(card, where, labels))
    _refuse_outside(where, whole, _least(whole), classes_of(card))
    return whole


def _signs(card: Card, where: Where, labels: Array) -> Array:
    axes = output_axes(card)
    _refuse_misshapen(card, where, labels, ((), axes))
    signs = labels.astype(np.int64) if labels.dtype.kind == "b" else labels
    whole = _whole(where, card.data.label, _named(card, where, signs))
    flat = whole[:, 0] if axes == (1,) and whole.shape[1:] == (1,) else whole
    _refuse_outside(where, flat, _least(flat), 2)
    return flat


def _least(whole: Wholes) -> int:
    """Return the smallest label that may stand there: among several a row, some may be none."""
    return 0 if whole.ndim == 1 else PAD


def _values(card: Card, where: Where, labels: Array) -> Array:
    """Return values shaped like the output; axes of length 1 at its end may be left out."""
    axes = output_axes(card)
    short = axes
    while short[-1:] == (1,):
        short = short[:-1]
    _refuse_misshapen(card, where, labels, (axes, short))
    values = _numbers(where, card.data.label, labels).astype(np.float64)
    if _fits_any(card, values, (axes,)):
        return values
    return values.reshape(*values.shape, *(1 for _ in axes[len(short) :]))


def _boxes(card: Card, where: Where, part: Tensors) -> dict[str, Array]:
    boxes, classes = _numbers(where, BOXES, part[BOXES]), _whole(where, CLASSES, part[CLASSES])
    if classes.ndim != 2 or boxes.shape != (*classes.shape, 4):
        shapes = f"{BOXES} {list(boxes.shape)} and {CLASSES} {list(classes.shape)}"
        _misfit(f"{where.file} has {shapes}, not [rows, n, 4] and [rows, n]")
    _refuse_outside(where, classes, PAD, classes_of(card))
    corners = boxes.astype(np.float64)
    wrong = ((corners[..., 2:] < corners[..., :2]).any(axis=-1)) & (classes != PAD)
    if wrong.any():
        row = where.row(int(np.argmax(wrong.any(axis=1))))
        _misfit(f"a box in {row} ends before it begins, so its four numbers are no two corners")
    return {BOXES: corners, CLASSES: classes}


def _refuse_misshapen(card: Card, where: Where, labels: Array, allowed: tuple[Axes, ...]) -> None:
    if not _fits_any(card, labels, allowed):
        want = " or ".join(str(["rows", *axes]) for axes in dict.fromkeys(allowed))
        name, shape = card.data.label, list(labels.shape)
        _misfit(
            f"{name!r} in {where.file} has the shape {shape}, and {card.task.output!r} wants {want}"
        )


def _fits_any(card: Card, labels: Array, allowed: tuple[Axes, ...]) -> bool:
    """Say whether labels have one of the axes after the rows, or after rows and steps."""
    stepped = tuple((STEPS, *axes) for axes in allowed) if card.signature.states else ()
    return any(fits(axes, labels.shape[1:]) for axes in (*allowed, *stepped))


def _refuse_outside(where: Where, whole: Wholes, least: int, classes: int | None) -> None:
    rows = whole.reshape(len(whole), -1)
    most = np.iinfo(np.int64).max if classes is None else classes - 1
    outside = (rows < least) | (rows > most)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        known = f"{classes} classes, counted from 0" if classes else "classes counted from 0"
        _misfit(f"{where.row(int(row))} has the label {rows[row, column]}, and there are {known}")


def _named(card: Card, where: Where, labels: Array) -> Array:
    """Return class numbers for labels that came as texts, one a row."""
    if labels.dtype.kind != "U" or labels.ndim != 1:
        return labels
    texts = enumerate(labels.tolist())
    return np.array([class_number(card, where.row(row), text) for row, text in texts], np.int64)


def _whole(where: Where, name: str, labels: Array) -> Wholes:
    if labels.dtype.kind not in "iu":
        refuse(
            BuildReason.MALFORMED_DATA,
            f"{name!r} in {where.file} is {labels.dtype}, not whole numbers",
        )
    return labels.astype(np.int64)


def _numbers(where: Where, name: str, labels: Array) -> Array:
    if labels.dtype.kind not in "biuf" or not labels.ndim:
        refuse(
            BuildReason.MALFORMED_DATA, f"{name!r} in {where.file} is {labels.dtype}, no numbers"
        )
    refuse_not_finite(where, name, labels)
    return labels


def _misfit(problem: str) -> NoReturn:
    refuse(BuildReason.LABELS_MISFIT, problem)
