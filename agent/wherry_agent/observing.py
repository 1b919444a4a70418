"""The observer: what a sample of a model's inputs and outputs held, counted beside the model.

It counts by the edges of the bundle's reference, at the reference's stride, so that a window can
be compared with it; the values themselves go nowhere. Looking takes at most a share of the time
that the model computes: each computation earns it some, a look spends what it took, and there is
none while nothing is left. A bundle without a reference is not looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from wherry.blobs import check_digest
from wherry.errors import REFUSALS
from wherry.manifest import REFERENCE_FILE, Manifest
from wherry.measures import LARGEST_BINS, LARGEST_CLASSES, Seen
from wherry.reference import LARGEST_REFERENCE_BYTES, Distribution, Reference, parse_reference
from wherry.signature import Tensor

MOST_ROWS = 8  # Of one request; rows of one request are alike.
MOST_VALUES = 1024  # Of one row, where its axes are longer than the reference's were.
MOST_COUNTS = 4096  # Of all tensors: what is told must fit into a frame and a window.

Array: TypeAlias = NDArray[np.generic]
Counts: TypeAlias = NDArray[np.int64]


@dataclass(slots=True)
class _Tally:
    """What was seen of the tensor at `at` in the signature."""

    at: int
    reference: Distribution
    edges: NDArray[np.float64]
    counts: Counts
    classes: Counts
    rows: int = 0
    values: int = 0
    zeros: int = 0
    not_finite: int = 0


class Observer:
    """Counts for one bundle; `share` is of the time that it computes, 0 to 1."""

    def __init__(
        self,
        manifest: Manifest,
        reference: Reference | None,
        share: float,
        *,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._share, self._clock_ns = share, clock_ns
        self._left_ns = 0.0
        self._inputs, self._outputs = _tallies(manifest, reference)
        self._looks = bool(self._inputs or self._outputs)

    def will_look(self, compute_ns: int) -> bool:
        """Say whether a request that took so long to compute is looked at when it is noted."""
        return self._looks and self._left_ns + self._share * compute_ns > 0

    def note(self, inputs: Sequence[Array], outputs: Sequence[Array], compute_ns: int) -> None:
        """Look at a request, in the signature's order, if there is time left for it."""
        looks = self.will_look(compute_ns)
        self._left_ns += self._share * compute_ns
        if not looks:
            return
        began_ns = self._clock_ns()
        for tally in self._inputs:
            _count(tally, inputs[tally.at])
        for tally in self._outputs:
            _count(tally, outputs[tally.at])
        self._left_ns -= self._clock_ns() - began_ns

    def take(self) -> tuple[tuple[Seen, ...], tuple[Seen, ...]] | None:
        """Return what was seen of inputs and of outputs since the last call; None: nothing."""
        if not any(tally.rows for tally in (*self._inputs, *self._outputs)):
            return None
        return (
            tuple(_taken(tally) for tally in self._inputs),
            tuple(_taken(tally) for tally in self._outputs),
        )


def reference_of(manifest: Manifest, blobs_folder: Path) -> Reference | None:
    """Return the reference of a bundle on this device; None where it has none that can be read.

    Drift is not worth a refusal: the golden check has said what the model is worth here.
    """
    blob = manifest.files.get(REFERENCE_FILE)
    if blob is None or blob.size_bytes > LARGEST_REFERENCE_BYTES:
        return None
    try:
        data = (blobs_folder / blob.digest).read_bytes()
        return parse_reference(check_digest(data, blob.digest))
    except (*REFUSALS, OSError):
        return None


def _tallies(manifest: Manifest, reference: Reference | None) -> tuple[list[_Tally], list[_Tally]]:
    if reference is None:
        return [], []
    inputs = _matched(manifest.signature.inputs, reference.inputs, None)
    outputs = _matched(manifest.signature.outputs, reference.outputs, manifest.class_output)
    left = MOST_COUNTS
    kept: tuple[list[_Tally], list[_Tally]] = ([], [])
    for side, tallies in zip(kept, (inputs, outputs), strict=True):
        for tally in tallies:
            left -= len(tally.counts) + len(tally.classes)
            if left >= 0:
                side.append(tally)
    return kept


def _matched(
    tensors: Sequence[Tensor], known: Sequence[Distribution], class_output: str | None
) -> list[_Tally]:
    by_name = {one.name: one for one in known if len(one.counts) <= LARGEST_BINS}
    return [
        _tally(at, by_name[tensor.name], of_classes=tensor.name == class_output)
        for at, tensor in enumerate(tensors)
        if tensor.name in by_name
    ]


def _tally(at: int, reference: Distribution, *, of_classes: bool) -> _Tally:
    classes = len(reference.classes) if of_classes else 0
    return _Tally(
        at,
        reference,
        np.array(reference.edges, np.float64),
        np.zeros(len(reference.counts), np.int64),
        np.zeros(classes if classes <= LARGEST_CLASSES else 0, np.int64),
    )


def _count(tally: _Tally, array: Array) -> None:
    rows = array[:: max(1, -(-len(array) // MOST_ROWS))]
    flat = rows.reshape(len(rows), -1)
    stride = tally.reference.stride
    stride *= max(1, -(-flat.shape[1] // (stride * MOST_VALUES)))
    values = flat[:, ::stride].ravel().astype(np.float64)
    finite = values[np.isfinite(values)]
    bins = np.searchsorted(tally.edges, finite, "right")
    tally.counts += np.bincount(bins, minlength=len(tally.counts))
    tally.rows += len(rows)
    tally.values += values.size
    tally.zeros += values.size - int(np.count_nonzero(values))
    tally.not_finite += values.size - finite.size
    if tally.classes.size and rows.shape[-1] == tally.classes.size:
        answers = np.argmax(rows, axis=-1).ravel()
        tally.classes += np.bincount(answers, minlength=tally.classes.size)


def _taken(tally: _Tally) -> Seen:
    """Return what was counted, and begin anew."""
    seen = Seen(
        name=tally.reference.name,
        rows=tally.rows,
        values=tally.values,
        counts=tuple(tally.counts.tolist()),
        zeros=tally.zeros,
        not_finite=tally.not_finite,
        classes=tuple(tally.classes.tolist()),
    )
    tally.counts[:] = 0
    tally.classes[:] = 0
    tally.rows = tally.values = tally.zeros = tally.not_finite = 0
    return seen
