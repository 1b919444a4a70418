"""The golden set: a few real requests, and what the variant answers to them on its runtime.

Golden outputs are the variant's own: they prove that a device runs it faithfully, not that it is
good. The inputs are picked once for a version, from the float reference, so that all its bundles
share their blobs. Of a version with states each input is one step with the state that a real
sequence had by then, and the next state is among the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wherry.manifest import Binding
from wherry.profile import CPU_PROVIDER, Precision, Profile, Runtime
from wherry.signature import Signature
from wherry_controller.builder.data.rows import NUMPY, Array, Indices, Rows, Tensors
from wherry_controller.builder.judging.outputs import SMALLEST_RANGE, farthest_of, pieces, range_of
from wherry_controller.core.card import Card, MetricName

MOST_ROWS = 32
SPREAD_ROWS = 16  # Where there are no classes to take one each of.
LONGEST_WAY = 64  # Steps; by then a state is what it is.
MODEL_SHARE = 0.05
FEWEST_BYTES = 1_000_000

FLOAT = 2e-5  # Between ARM and x86 fp32 was within 5e-6 of the range; four times that has room.
HALF = 5e-3  # A processor with half-precision arithmetic adds up in it, the others do not.
STEP = 1 / 255
DYNAMIC = 1e-2  # Each range is found anew, so a rounding error moves a whole tensor's steps.
ROOM = 1.01  # A step is allowed, and a rounding error on top.

# How far a faithful device may stray, as a share of the output's range. The integers of a static
# int8 variant were the same everywhere; float operators between them can move one by a step.
ON_CPU = {
    Precision.FP32: FLOAT,
    Precision.FP16: HALF,
    Precision.INT8: ROOM * STEP,
    Precision.INT8_DYNAMIC: DYNAMIC,
    Precision.INT8_WEIGHTS: FLOAT,
    Precision.INT4: DYNAMIC,  # Some processors round the activations to int8 for it.
}
# Other providers (TF32, kernels chosen by timing) were never run here: wide, and unverified.
ELSEWHERE = {precision: max(share, 2e-2) for precision, share in ON_CPU.items()}
TOLERANCES: Mapping[tuple[Runtime, bool, Precision], float] = {
    **{(runtime, True, kind): share for runtime in Runtime for kind, share in ON_CPU.items()},
    **{(runtime, False, kind): share for runtime in Runtime for kind, share in ELSEWHERE.items()},
    # LiteRT stores such weights in half precision and may compute in it.
    (Runtime.LITERT, True, Precision.INT8_WEIGHTS): HALF,
}


@dataclass(frozen=True, slots=True)
class Golden:
    """Inputs with the outputs that they must give again, each to within its tolerance."""

    inputs: Tensors
    outputs: Tensors
    tolerances: Mapping[str, float]

    @property
    def tolerance(self) -> float:
        """Return the widest, by which agents judge that know of one only."""
        return max(self.tolerances.values())


@dataclass(frozen=True, slots=True)
class Picked:
    """Rows, and for sequences the step of each; without states every step is 0."""

    rows: Indices
    steps: Indices


def golden_inputs(rows: Rows, outputs: Tensors, card: Card, model_bytes: int) -> dict[str, Array]:
    """Return the golden inputs of a version; `outputs` are the float reference's for `rows`."""
    return inputs_at(rows, outputs, card.signature, pick(rows, outputs, card, model_bytes))


def pick(rows: Rows, outputs: Tensors, card: Card, model_bytes: int) -> Picked:
    """Return the golden rows: one a class, which the reference answers right if it can.

    Without classes they are spread over the quantiles of the output. Inputs and outputs together
    take 5 % of the model's bytes or 1 MB, whichever is more, but one row there always is.
    """
    budget = max(MODEL_SHARE * model_bytes, FEWEST_BYTES)
    row_bytes = _row_bytes(card.signature, rows, outputs)
    count = max(1, min(MOST_ROWS, int(budget // row_bytes)))
    if card.signature.states:
        steps = next(iter(outputs.values())).shape[1]
        return _along_sequences(_by_quantile(outputs[card.task.output]), steps, count)
    order = _by_class(rows, outputs, card)
    if order is None:
        order, count = _by_quantile(outputs[card.task.output]), min(count, SPREAD_ROWS)
    chosen = np.unique(order[_evenly(len(order), count)])
    return Picked(chosen, np.zeros_like(chosen))


def inputs_at(
    rows: Rows, outputs: Tensors, signature: Signature, picked: Picked
) -> dict[str, Array]:
    """Return the picked requests; a state is the one that the step before gave."""
    part = rows.part(picked.rows)
    if not signature.states:
        return dict(part)
    given = {pair.input: outputs[pair.output] for pair in signature.states}
    here = np.arange(len(picked.rows))
    found = {name: array[here, picked.steps] for name, array in part.items() if name not in given}
    for name, array in given.items():
        before = np.array(array[picked.rows, np.maximum(picked.steps - 1, 0)])
        before[picked.steps == 0] = part[name][picked.steps == 0] if name in part else 0
        found[name] = before
    return {
        tensor.name: np.ascontiguousarray(found[tensor.name], NUMPY[tensor.datatype])
        for tensor in signature.inputs
    }


def golden_of(
    inputs: Tensors,
    outputs: Tensors,
    profile: Profile,
    precision: Precision,
    bindings: Sequence[Binding],
) -> Golden:
    """Return the golden set with the tolerance of each output; `bindings` are the outputs'."""
    share = TOLERANCES[profile.runtime, profile.provider == CPU_PROVIDER, precision]
    scales = {binding.name: binding.scale for binding in bindings}
    tolerances = {
        name: _tolerance(share, scales.get(name), array) for name, array in outputs.items()
    }
    return Golden(inputs, outputs, tolerances)


def agrees(golden: Golden, outputs: Tensors) -> bool:
    """Say whether every output is within its tolerance; NaN is not."""
    return all(
        outputs[name].shape == array.shape
        and farthest_of(outputs[name], array) <= golden.tolerances[name]
        for name, array in golden.outputs.items()
    )


def is_same(golden: Golden, outputs: Tensors) -> bool:
    """Say whether the outputs are the golden ones to the last bit."""
    return all(np.array_equal(outputs[name], array) for name, array in golden.outputs.items())


def _tolerance(share: float, scale: float | None, outputs: Array) -> float:
    """Return the absolute tolerance; an output that is stored in integers may be off by a step."""
    width = max(range_of(outputs), SMALLEST_RANGE)
    return share * width if scale is None else max(ROOM * scale, FLOAT * width)


def _row_bytes(signature: Signature, rows: Rows, outputs: Tensors) -> int:
    """Return the bytes of one request and its answer."""
    given = {pair.input for pair in signature.states}
    arrays = [array for name, array in rows.inputs.items() if name not in given]
    arrays.extend(outputs.values())
    # A state is taken and given.
    arrays.extend(outputs[pair.output] for pair in signature.states)
    steps = next(iter(outputs.values())).shape[1] if signature.states else 1
    return max(1, sum(array.nbytes // (len(array) * steps) for array in arrays))


def _by_class(rows: Rows, outputs: Tensors, card: Card) -> Indices | None:
    """Return one row for each class that has a label, in the order of the classes."""
    if card.task.metric is MetricName.MAP:
        return _first_rows(rows.labels["classes"], None)
    if card.task.class_output is None:
        return None
    scores = outputs[card.task.class_output]
    answers = np.concatenate([np.argmax(scores[piece], -1) for piece in pieces(scores)])
    return _first_rows(rows.labels["labels"], answers)


def _first_rows(labels: Array, answers: Array | None) -> Indices:
    truth = np.asarray(labels).astype(np.int64)
    positions = truth.size // len(truth)
    firsts = _firsts(truth.ravel(), truth.ravel() >= 0)
    if answers is not None:
        firsts |= _firsts(truth.ravel(), (answers == truth).ravel() & (truth.ravel() >= 0))
    return np.array([firsts[number] // positions for number in sorted(firsts)], np.int64)


def _firsts(classes: Indices, wanted: Array) -> dict[int, int]:
    """Return the first wanted position of each class."""
    places = np.flatnonzero(wanted)
    numbers, first = np.unique(classes[places], return_index=True)
    return dict(zip(numbers.tolist(), places[first].tolist(), strict=True))


def _by_quantile(output: Array) -> Indices:
    """Return all rows in the order of their output, or of its mean where it has many values."""
    means = [
        output[piece].astype(np.float64).reshape(piece.stop - piece.start, -1).mean(axis=1)
        for piece in pieces(output)
    ]
    return np.argsort(np.concatenate(means), kind="stable").astype(np.int64)


def _along_sequences(order: Indices, steps: int, count: int) -> Picked:
    most = min(count, SPREAD_ROWS, len(order) * min(steps, LONGEST_WAY))
    rows = order[_evenly(len(order), most)]
    return Picked(rows, _evenly(min(steps, LONGEST_WAY), most))


def _evenly(length: int, count: int) -> Indices:
    """Return `count` places from the first to the last, some twice where there are fewer."""
    return np.rint(np.linspace(0, length - 1, count)).astype(np.int64)
