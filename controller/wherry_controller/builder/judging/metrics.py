"""What a variant is worth on rows with labels, beside float on the same rows.

`compare` gives the score by which candidates are chosen, `measure` the value alone with its
interval. How each metric is counted stands in `measures` and `boxes`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import assert_never

import numpy as np

from wherry.signature import Signature
from wherry_controller.builder.code import load_function
from wherry_controller.builder.data.rows import Array, Tensors
from wherry_controller.builder.faults import refuse
from wherry_controller.builder.judging import boxes, measures
from wherry_controller.builder.judging.measures import Floats, Measure
from wherry_controller.builder.judging.outputs import agreement_of, output_error_of
from wherry_controller.core.card import MetricName, Task
from wherry_controller.core.choice import Score
from wherry_controller.core.fault import BuildReason, Fault

LABELS = "labels"
CONFIDENCE = 0.95
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A metric's value on some rows, with its 95 % interval."""

    value: float
    low: float
    high: float


def compare(
    task: Task,
    signature: Signature,
    reference: Tensors,
    given: Tensors,
    labels: Tensors,
    folder: Path,
) -> Score:
    """Return the variant's score beside the reference's, with a paired interval of the drop.

    `folder` holds the version's own code. Refuses with `LABELS_MISFIT` where the labels do not
    fit the outputs.
    """
    base, mine = (_measure(task, outputs, labels, folder) for outputs in (reference, given))
    sign = 1 if task.grows else -1
    drop = sign * (base.value - mine.value)
    room = _room(base.pulls - mine.pulls, base.flip)
    classes = task.class_output
    names = [tensor.name for tensor in signature.outputs if tensor.name in given]
    outputs = {name: given[name] for name in names if name in reference}
    return Score(
        value=mine.value,
        reference_value=base.value,
        drop=drop,
        drop_low=drop - room,
        drop_high=drop + room,
        agreement=agreement_of(reference[classes], given[classes]) if classes else None,
        output_error=output_error_of(reference, outputs),
        samples=len(given[task.output]),
    )


def value(task: Task, outputs: Tensors, labels: Tensors, folder: Path) -> float:
    """Return the metric of the outputs."""
    return _measure(task, outputs, labels, folder).value


def measure(task: Task, outputs: Tensors, labels: Tensors, folder: Path) -> Measured:
    """Return the metric of the outputs with its interval: Wilson's (1927) for a share of rows."""
    found = _measure(task, outputs, labels, folder)
    if found.shares:
        low, high = wilson(found.value, found.shares)
    else:
        room = _room(found.pulls, found.flip)
        low, high = found.value - room, found.value + room
    return Measured(value=found.value, low=low, high=high)


def claim_differs(task: Task, measured: Measured, largest_drop: float) -> Fault | None:
    """Say that the claimed metric is not the measured one, or None.

    It has to be further off than what a variant may lose, and outside of what so few rows allow.
    """
    claimed = task.claimed
    if claimed is None or abs(claimed - measured.value) <= largest_drop:
        return None
    if measured.low <= claimed <= measured.high:
        return None
    problem = (
        f"model.toml claims {task.metric.value} {claimed:g} and the source has "
        f"{measured.value:.4f} on the evaluation data (from {measured.low:.4f} to "
        f"{measured.high:.4f} with 95 % confidence)"
    )
    return Fault(BuildReason.CLAIM_DIFFERS, problem)


def wilson(share: float, rows: int) -> tuple[float, float]:
    """Return the score interval of a share of `rows` independent rows."""
    scale = 1 + Z**2 / rows
    centre = (share + Z**2 / (2 * rows)) / scale
    room = Z / scale * math.sqrt(share * (1 - share) / rows + (Z / (2 * rows)) ** 2)
    return centre - room, centre + room


def _room(pulls: Floats, flip: float) -> float:
    """Return half the interval's width.

    Two more answers are thought to turn, one each way (Bonett and Price 2012, for pairs of
    shares): where none did, or few, the rows would seem to prove that none can.
    """
    units = len(pulls)
    if units < 2:
        refuse(BuildReason.MALFORMED_DATA, "a single row or sequence says nothing of a drop")
    variance = float(np.sum(np.square(pulls))) * units / (units - 1) + 2 * flip**2
    return _student(units - 1) * math.sqrt(variance)


def _student(freedom: int) -> float:
    """Return Student's two-sided 95 % quantile (Abramowitz and Stegun 26.7.5)."""
    terms = (
        (Z**3 + Z) / 4,
        (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96,
        (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384,
    )
    return float(Z + sum(term / freedom**power for power, term in enumerate(terms, start=1)))


def _measure(task: Task, outputs: Tensors, labels: Tensors, folder: Path) -> Measure:
    given = outputs[task.output]
    match task.metric:
        case MetricName.ACCURACY:
            return measures.accuracy(given, _labels(labels), 1)
        case MetricName.TOP_K:
            return measures.accuracy(given, _labels(labels), task.k)
        case MetricName.F1:
            return measures.macro_f1(given, _labels(labels))
        case MetricName.AUC:
            return measures.auc(given, _labels(labels))
        case MetricName.MAE:
            return measures.mean_absolute_error(given, _labels(labels))
        case MetricName.MAP:
            found = boxes.found_boxes(outputs[task.boxes], outputs[task.classes], given)
            return boxes.mean_average_precision(found, boxes.labelled_boxes(labels))
        case MetricName.FUNCTION:
            name = task.function or ""
            return measures.own(load_function(folder, name), name, outputs, labels)
        case _:
            assert_never(task.metric)


def _labels(labels: Tensors) -> Array:
    return labels[LABELS]
