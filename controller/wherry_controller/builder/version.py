"""A version loaded, run in float, judged and exported: what all of its profiles share.

    code, weights, data --> net --> outputs for every row --> judge --> float exports, weights

It is done once, in a process that ends afterwards, so that torch's memory goes with it; what is
kept is files. A file that one runtime's exporter refuses is a fault of the profiles that need it,
and of no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from wherry import codec
from wherry.files import write_whole
from wherry.profile import Profile, Runtime
from wherry.signature import Signature, Tensor
from wherry_controller.builder.data.read import Datasets, read_datasets
from wherry_controller.builder.data.rows import (
    NUMPY,
    Array,
    Rows,
    Tensors,
    Writer,
    open_rows,
    write_rows,
)
from wherry_controller.builder.faults import refuse, refuse_if
from wherry_controller.builder.jobs import Say
from wherry_controller.builder.judging import metrics
from wherry_controller.builder.judging.golden import golden_inputs
from wherry_controller.builder.judging.metrics import Measured
from wherry_controller.builder.judging.outputs import refuse_not_finite
from wherry_controller.builder.sources import Source, open_source
from wherry_controller.builder.stages import WEIGHTS
from wherry_controller.core.build import BuildRequest, BuildStep
from wherry_controller.core.card import Card
from wherry_controller.core.choice import is_below
from wherry_controller.core.fault import BuildReason, BuildRefused, Fault

EXPORT_OPSET = 20
SAMPLE_ROWS = 2  # With one row torch.export takes the batch for a constant.
LITE_ROWS = 1
FACTS = "version.json"
ONNX, LITE = "float.onnx", "float.tflite"
GOLDEN = "golden"
REFERENCE = "reference"
STEPS = "steps"
MOST_STEPS = 2000


class VersionFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of a version; a runtime whose export failed has its fault in `refused`."""

    value: float
    refused: dict[Runtime, Fault] = {}


@dataclass(frozen=True, slots=True)
class Loaded:
    """The folder that the version's stage filled, opened."""

    folder: Path
    facts: VersionFacts
    data: Datasets
    golden: Rows
    calibration_steps: Rows | None

    @property
    def calibration(self) -> Rows | None:
        """Return the calibration rows as one call takes them, or None."""
        return self.calibration_steps or self.data.calibration

    def export(self, runtime: Runtime) -> Path:
        """Return the float export for a runtime; raise its refusal where there is none."""
        fault = self.facts.refused.get(runtime)
        if fault is not None:
            raise BuildRefused(fault)
        return self.folder / file_for(runtime)

    def reference(self, part: str) -> Tensors:
        """Return the net's own outputs for the rows of `search` or `final`."""
        return open_rows(self.folder / REFERENCE / part).inputs


def file_for(runtime: Runtime) -> str:
    return ONNX if runtime is Runtime.ONNXRUNTIME else LITE


def load_version(request: BuildRequest, to: Path, say: Say) -> None:
    """Do the version's stage into the folder `to`; refuses a version that may not be built."""
    card, folder = request.card, Path(request.folder)
    say(BuildStep.LOADING)
    data = read_datasets(card, folder, to / "data")
    source = open_source(card, folder)
    final = _run_all(source, card, data.final, to / REFERENCE / "final")
    measured = metrics.measure(card.task, final, data.final.labels, folder)
    _judge(card, measured)
    _run_all(source, card, data.search, to / REFERENCE / "search")
    say(BuildStep.EXPORTING)
    refused = _export(source, card, request.profiles, data.search, to)
    source.to_safetensors(to / WEIGHTS)
    chosen = golden_inputs(data.final, final, card, (to / WEIGHTS).stat().st_size)
    write_rows(to / GOLDEN, chosen, {})
    if card.signature.states and data.calibration is not None:
        _unroll(source, card.signature, data.calibration, to / "data" / STEPS)
    facts = VersionFacts(
        value=measured.value,
        refused=refused,
    )
    write_whole(to / FACTS, codec.encode(facts))


def open_version(folder: Path, card: Card) -> Loaded:
    """Return what an earlier `load_version` left in `folder`."""
    facts = codec.decode(VersionFacts, (folder / FACTS).read_bytes())
    parts = {part.name: open_rows(part) for part in (folder / "data").iterdir()}
    data = Datasets(parts.get("calibration"), parts["search"], parts["final"])
    return Loaded(folder, facts, data, open_rows(folder / GOLDEN), parts.get(STEPS))


def steps_in(signature: Signature, rows: Rows) -> int | None:
    """Return how many steps each row has; None where the signature has no states."""
    if not signature.states:
        return None
    states = {pair.input for pair in signature.states}
    first = next(tensor.name for tensor in signature.inputs if tensor.name not in states)
    return int(rows.inputs[first].shape[1])


def _judge(card: Card, measured: Measured) -> None:
    """Refuse a version that misses its floor, or is not what its card claims."""
    if is_below(measured.value, card.goal.floor, grows=card.task.grows):
        metric, floor = card.task.metric.value, card.goal.floor
        problem = f"in float the {metric} is {measured.value:.4f}, and the floor is {floor}"
        refuse(BuildReason.BELOW_FLOOR, problem)
    refuse_if(metrics.claim_differs(card.task, measured, card.goal.largest_drop))


def _run_all(source: Source, card: Card, rows: Rows, folder: Path) -> Tensors:
    """Write the net's outputs for all rows; sequences step by step, their state carried."""
    writer = Writer(folder)
    for given in _batches(source, card.signature, rows, steps_in(card.signature, rows)):
        writer.append(given, {})
    outputs = writer.finish().inputs
    refuse_not_finite("the net", outputs)
    return outputs


def _batches(
    source: Source, signature: Signature, rows: Rows, steps: int | None
) -> Iterator[Tensors]:
    size = signature.max_batch
    for start in range(0, len(rows), size):
        part = rows.part(slice(start, start + size))
        if steps is None:
            yield source.run(part)
        else:
            yield _sequence(source, signature, part, steps)


def _sequence(source: Source, signature: Signature, part: Tensors, steps: int) -> Tensors:
    """Return the outputs of each step, [rows, steps, ...], the states fed back."""
    states = initial_states(signature, part)
    taken: list[Tensors] = []
    for step in range(steps):
        here = {name: array[:, step] for name, array in part.items() if name not in states}
        given = source.run({**here, **states})
        states = {pair.input: given[pair.output] for pair in signature.states}
        taken.append(given)
    return {name: np.stack([given[name] for given in taken], axis=1) for name in taken[0]}


def _unroll(source: Source, signature: Signature, rows: Rows, to: Path) -> None:
    """Write the steps of sequences as single rows, each with the state that the net had by then."""
    steps = steps_in(signature, rows)
    assert steps is not None
    writer, left = Writer(to), MOST_STEPS
    for start in range(0, len(rows), signature.max_batch):
        part = rows.part(slice(start, start + signature.max_batch))
        states = initial_states(signature, part)
        for step in range(steps):
            if left <= 0:
                break
            here = {name: array[:, step] for name, array in part.items() if name not in states}
            asked = {**here, **states}
            writer.append({name: array[:left] for name, array in asked.items()}, {})
            left -= len(next(iter(asked.values())))
            given = source.run(asked)
            states = {pair.input: np.asarray(given[pair.output]) for pair in signature.states}
    writer.finish()


def initial_states(signature: Signature, part: Tensors) -> dict[str, Array]:
    """Return each state input as the rows give it, and zeros where they do not."""
    tensors = {tensor.name: tensor for tensor in signature.inputs}
    rows = len(next(iter(part.values())))
    return {
        pair.input: part[pair.input] if pair.input in part else _zeros(tensors[pair.input], rows)
        for pair in signature.states
    }


def _zeros(tensor: Tensor, rows: int) -> Array:
    lengths = [axis for axis in tensor.shape[1:] if isinstance(axis, int)]
    varying = [axis for axis in tensor.shape[1:] if isinstance(axis, str)]
    if varying:
        problem = f"nothing says how long {varying[0]!r} of the state {tensor.name!r} is at first"
        refuse(BuildReason.MALFORMED_DATA, problem)
    return np.zeros((rows, *lengths), NUMPY[tensor.datatype])


def _export(
    source: Source, card: Card, profiles: Sequence[Profile], rows: Rows, to: Path
) -> dict[Runtime, Fault]:
    """Export for each kind of runtime among the profiles; return the faults of those that fail."""
    opsets = [one.max_opset for one in profiles if one.runtime is Runtime.ONNXRUNTIME]
    wanted = dict.fromkeys(profile.runtime for profile in profiles)
    faults: dict[str, Fault] = {}
    for name in dict.fromkeys(file_for(runtime) for runtime in wanted):
        try:
            if name == ONNX:
                sample = sample_of(card.signature, rows, SAMPLE_ROWS)
                source.to_onnx(min(EXPORT_OPSET, *opsets), sample, to / name)
            else:
                source.to_lite(sample_of(card.signature, rows, LITE_ROWS), to / name)
        except BuildRefused as refusal:
            faults[name] = refusal.fault
    return {runtime: faults[file_for(runtime)] for runtime in wanted if file_for(runtime) in faults}


def sample_of(signature: Signature, rows: Rows, count: int) -> Tensors:
    """Return rows as one call takes them: of sequences the first step, with its initial state."""
    part = rows.part(np.arange(count) % len(rows))
    if not signature.states:
        return part
    states = initial_states(signature, part)
    return {**{name: array[:, 0] for name, array in part.items() if name not in states}, **states}
