"""What a loaded bundle answers: tensors in, tensors or a fault out, whoever carries them.

A question is computed, a comparison is computed and held to the reference. Arrays are views of
the tensors' bytes as long as nothing has to be converted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from wherry.manifest import Manifest, tolerance_of
from wherry_agent import frames
from wherry_agent.runtimes.base import DTYPES, Array, RunFailed
from wherry_agent.runtimes.variant import NotFinite

Doubles: TypeAlias = NDArray[np.float64]
Truths: TypeAlias = NDArray[np.bool_]

FAILURES = (NotFinite, RunFailed)
LEAST_NORM = 1e-12  # Beside a reference of zeros any other output is far away.


@dataclass(frozen=True, slots=True)
class Agreement:
    """How outputs stand to reference outputs, row by row; as `asking.Compared` counts it."""

    rows: int
    agreed: int
    distance: float
    largest_distance: float


def fault_of(error: Exception) -> frames.Fault:
    """Return the word for one of `FAILURES`."""
    if isinstance(error, NotFinite):
        return frames.Fault.NOT_FINITE
    return frames.Fault.RUNTIME_FAILED


def arrays_of(tensors: Sequence[frames.Tensor]) -> list[Array]:
    """Return `tensors` as arrays on their bytes."""
    return [
        np.frombuffer(tensor.data, DTYPES[tensor.datatype]).reshape(tensor.shape)
        for tensor in tensors
    ]


def tensors_of(manifest: Manifest, outputs: Sequence[Array]) -> tuple[frames.Tensor, ...]:
    """Return the signature's outputs as tensors on the arrays' bytes."""
    return tuple(
        frames.Tensor(
            tensor.name, tensor.datatype, array.shape, array.reshape(-1).view(np.uint8).data
        )
        for tensor, array in zip(manifest.signature.outputs, outputs, strict=True)
    )


def compare(manifest: Manifest, outputs: Sequence[Array], reference: Sequence[Array]) -> Agreement:
    """Hold `outputs` to the `reference` of another bundle for the same inputs.

    A row agrees where the class output has the same class, or where every output lies within its
    golden tolerance if there are no classes. Its distance is the L2 norm of the difference of all
    outputs over that of the reference. Outputs of another shape agree in no row, and are 1 away.
    """
    rows = len(reference[0])
    if [array.shape for array in outputs] != [array.shape for array in reference]:
        return Agreement(rows, 0, float(rows), 1.0)
    ours, theirs = [_rows(array) for array in outputs], [_rows(array) for array in reference]
    distances = _distances(ours, theirs)
    agreed = _classes_agree(manifest, outputs, reference)
    if agreed is None:
        agreed = _values_agree(manifest, ours, theirs)
    return Agreement(
        rows, int(agreed.sum()), float(distances.sum()), float(distances.max(initial=0.0))
    )


def _rows(array: Array) -> Doubles:
    return array.reshape(len(array), -1).astype(np.float64)


def _distances(ours: Sequence[Doubles], theirs: Sequence[Doubles]) -> Doubles:
    """Return the relative L2 distance of each row over all outputs."""
    whole, other = np.concatenate(ours, axis=1), np.concatenate(theirs, axis=1)
    norms = np.maximum(np.linalg.norm(other, axis=1), LEAST_NORM)
    distances: Doubles = np.linalg.norm(whole - other, axis=1) / norms
    return distances


def _classes_agree(
    manifest: Manifest, outputs: Sequence[Array], reference: Sequence[Array]
) -> Truths | None:
    """Say of each row whether its class is the same; None where the model is no classifier."""
    names = [tensor.name for tensor in manifest.signature.outputs]
    if manifest.class_output is None:
        return None
    at = names.index(manifest.class_output)
    same = np.argmax(outputs[at], axis=-1) == np.argmax(reference[at], axis=-1)
    agreed: Truths = same.reshape(len(same), -1).all(axis=1)
    return agreed


def _values_agree(manifest: Manifest, ours: Sequence[Doubles], theirs: Sequence[Doubles]) -> Truths:
    """Say of each row whether all its values lie within the golden tolerances."""
    sides = zip(manifest.signature.outputs, ours, theirs, strict=True)
    close = [
        (np.abs(our - their) <= tolerance_of(manifest.golden, tensor.name)).all(axis=1)
        for tensor, our, their in sides
    ]
    agreed: Truths = np.logical_and.reduce(close)
    return agreed
