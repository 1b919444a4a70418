"""The reference that travels with a bundle: how inputs and outputs were distributed.

Rows and the values in them are taken at even distances, so that it costs the same for any number
of rows: 151 values a row were enough to see drift in an input of 150,000. The distance shares no
factor with the tensor's size, or it might fall on one column only. Channels are not told apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from wherry import codec
from wherry.reference import BINS, LARGEST_REFERENCE_BYTES, Distribution, Reference
from wherry.signature import Signature, Tensor
from wherry_controller.builder.data.rows import Array, Rows, Tensors
from wherry_controller.builder.judging.measures import Floats
from wherry_controller.builder.judging.outputs import pieces

VALUES_A_ROW = 151
MOST_ROWS = 10_000
MOST_CLASSES = 1000
DIGITS = 6


def reference_of(
    rows: Rows, outputs: Tensors, signature: Signature, class_output: str | None
) -> bytes:
    """Return the bundle's `REFERENCE_FILE`, JSON of at most 256 KiB."""
    reference = Reference(
        inputs=_distributions(signature.inputs, rows.inputs),
        outputs=_distributions(signature.outputs, outputs),
    )
    if class_output is not None:
        reference = replace(reference, outputs=_classed(reference.outputs, outputs, class_output))
    return _thinned(reference)


def distribution_of(name: str, array: Array) -> Distribution:
    """Return the distribution of a tensor, in bins that are about as full as one another."""
    values, stride = _sample(array)
    finite = values[np.isfinite(values)]
    edges = _edges(finite)
    bins = np.searchsorted(edges, finite, "right")
    return Distribution(
        name=name,
        rows=len(array),
        edges=tuple(edges.tolist()),
        counts=tuple(np.bincount(bins, minlength=len(edges) + 1).tolist()),
        zeros=_share(values == 0),
        not_finite=_share(~np.isfinite(values)),
        stride=stride,
    )


def _distributions(tensors: Sequence[Tensor], arrays: Tensors) -> tuple[Distribution, ...]:
    """Return one for each tensor that has values: a state that nobody gave has none."""
    return tuple(
        distribution_of(tensor.name, arrays[tensor.name])
        for tensor in tensors
        if tensor.name in arrays
    )


def _sample(array: Array) -> tuple[Floats, int]:
    """Return some of the values of some of the rows, and the stride in a row."""
    chosen = array[:: max(1, -(-len(array) // MOST_ROWS))]
    stride = _stride(array[0].size)
    parts = [_strided(chosen[piece], stride) for piece in pieces(chosen)]
    return np.concatenate(parts), stride


def _stride(size: int) -> int:
    largest = max(1, size // VALUES_A_ROW)
    return next(stride for stride in range(largest, 0, -1) if math.gcd(stride, size) == 1)


def _strided(rows: Array, stride: int) -> Floats:
    return rows.reshape(len(rows), -1)[:, ::stride].ravel().astype(np.float64)


def _edges(values: Floats) -> Floats:
    """Return at most 31 edges; fewer where many values are equal."""
    if not values.size:
        return np.empty(0)
    quantiles = np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1])
    return np.unique([float(f"{edge:.{DIGITS}g}") for edge in quantiles])


def _share(flags: Array) -> float:
    return round(float(np.count_nonzero(flags)) / flags.size, DIGITS) if flags.size else 0.0


def _classed(
    found: tuple[Distribution, ...], outputs: Tensors, name: str
) -> tuple[Distribution, ...]:
    scores = outputs[name]
    if scores.shape[-1] > MOST_CLASSES:
        return found
    counts = np.zeros(scores.shape[-1], np.int64)
    for piece in pieces(scores):
        answers = np.argmax(scores[piece], axis=-1).ravel()
        counts += np.bincount(answers, minlength=len(counts))
    shares = tuple(round(float(count / counts.sum()), DIGITS) for count in counts)
    return tuple(replace(one, classes=shares) if one.name == name else one for one in found)


def _thinned(reference: Reference) -> bytes:
    """Return the document; of too many tensors those at the end are left out, outputs last."""
    while len(data := codec.encode(reference)) > LARGEST_REFERENCE_BYTES:
        if reference.inputs:
            kept = reference.inputs[: len(reference.inputs) // 2]
            reference = replace(reference, inputs=kept)
        else:
            kept = reference.outputs[: len(reference.outputs) // 2]
            reference = replace(reference, outputs=kept)
    return data
