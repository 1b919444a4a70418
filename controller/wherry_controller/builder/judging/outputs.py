"""Outputs held against one another, in pieces of rows: they may be larger than the memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from wherry_controller.builder.data.rows import Array, Tensors
from wherry_controller.builder.faults import refuse
from wherry_controller.core.fault import BuildReason

PIECE_BYTES = 16 << 20
SMALLEST_RANGE = 1e-6


def pieces(*arrays: Array) -> Iterator[slice]:
    """Yield slices of the rows, each of some megabytes of all the arrays together."""
    rows = len(arrays[0])
    row_bytes = sum(array.nbytes for array in arrays) // max(rows, 1)
    step = max(1, PIECE_BYTES // max(row_bytes, 1))
    yield from (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def refuse_not_finite(what: str, outputs: Tensors) -> None:
    for name, array in outputs.items():
        sick = sum(_count_sick(array[piece]) for piece in pieces(array))
        if sick:
            problem = f"{what} gives NaN or infinity in {name!r} for {sick} rows"
            refuse(BuildReason.OUTPUT_NOT_FINITE, problem)


def farthest_of(left: Array, right: Array) -> float:
    """Return the largest difference of two arrays of one shape; NaN where either holds one."""
    distances = (np.abs(_wide(left[piece]) - _wide(right[piece])) for piece in pieces(left, right))
    return float(np.max([np.max(distance, initial=0) for distance in distances], initial=0))


def range_of(array: Array) -> float:
    """Return the range of the values and zero, by which an array is quantized."""
    lows = [np.min(array[piece], initial=0) for piece in pieces(array)]
    highs = [np.max(array[piece], initial=0) for piece in pieces(array)]
    return float(np.max(highs, initial=0)) - float(np.min(lows, initial=0))


def agreement_of(reference: Array, given: Array) -> float:
    """Return the share of rows (or positions) of which the largest value is the same class."""
    same = sum(
        int(np.sum(np.argmax(reference[piece], -1) == np.argmax(given[piece], -1)))
        for piece in pieces(reference, given)
    )
    return same / (math.prod(reference.shape[:-1]) or 1)


def output_error_of(reference: Tensors, given: Tensors) -> float:
    """Return the root mean square of the difference from `reference`, as a share of its spread.

    Each output is measured by its own standard deviation, and all of them count alike.
    """
    errors = [_error_of(reference[name], array) for name, array in given.items()]
    return float(np.sqrt(np.mean(np.square(errors))))


def _error_of(reference: Array, given: Array) -> float:
    first = float(np.mean(_wide(reference[:1])))  # Sums near zero keep their digits.
    total = square = off = 0.0
    for piece in pieces(reference, given):
        expected = _wide(reference[piece])
        total += float(np.sum(expected - first))
        square += float(np.sum(np.square(expected - first)))
        off += float(np.sum(np.square(_wide(given[piece]) - expected)))
    variance = square / reference.size - (total / reference.size) ** 2
    # A constant output has no spread; then its own size is the measure.
    spread = np.sqrt(variance) if variance > 1e-12 * first**2 else abs(first)
    return float(np.sqrt(off / reference.size) / max(float(spread), SMALLEST_RANGE))


def _wide(array: Array) -> npt.NDArray[np.float64]:
    return array.astype(np.float64)


def _count_sick(array: Array) -> int:
    if array.dtype.kind != "f":
        return 0
    finite = np.isfinite(array.astype(np.float64))
    return int(np.sum(~finite.reshape(len(array), -1).all(axis=1)))
