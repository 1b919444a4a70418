"""The passes on LiteRT files: a float export made into each candidate, by ai-edge-quantizer.

A pass that changes nothing reports success, and one that the quantizer cannot do everywhere leaves
the rest in float without a word. So what the file stores is looked at after each, and
`float_operators` says what stayed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path

import numpy as np
from ai_edge_litert.schema_py_generated import Model, SignatureDefT, TensorT, TensorType
from ai_edge_quantizer.calibrator import CalibrationMode, Calibrator
from ai_edge_quantizer.model_modifier import ModelModifier
from ai_edge_quantizer.params_generator import ParamsGenerator
from ai_edge_quantizer.qtyping import QSV
from ai_edge_quantizer.recipe_manager import RecipeManager
from ai_edge_quantizer.utils import calibration_utils, qsv_utils

from wherry.manifest import Binding
from wherry.profile import Precision
from wherry.signature import Datatype, Signature, Tensor
from wherry_controller.builder.data.rows import Tensors
from wherry_controller.builder.faults import refuse, refusing
from wherry_controller.builder.passes.base import Operator
from wherry_controller.builder.passes.litert_graph import (
    LiteGraph,
    Step,
    onnx_kind,
    opened,
    units,
)
from wherry_controller.builder.passes.litert_plan import plan, quantized_units
from wherry_controller.core.fault import BuildReason
from wherry_controller.core.recipe import Graph, Recipe

LARGEST_FLOAT_SHARE = 0.9  # Of the weights' bytes, left by a recipe that keeps none in float.
WIDEST = 1e6
ROWS_AT_ONCE = 100
EXPORT = "export_sha256"  # Among the facts of a file of ranges.
CASTS = frozenset({"QUANTIZE", "DEQUANTIZE"})
DATATYPES = {
    TensorType.BOOL: Datatype.BOOL,
    TensorType.UINT8: Datatype.UINT8,
    TensorType.INT8: Datatype.INT8,
    TensorType.INT32: Datatype.INT32,
    TensorType.INT64: Datatype.INT64,
    TensorType.FLOAT16: Datatype.FP16,
    TensorType.FLOAT32: Datatype.FP32,
    TensorType.FLOAT64: Datatype.FP64,
}
FLOATS = frozenset({TensorType.FLOAT32, TensorType.FLOAT64})
SMALL = frozenset({TensorType.FLOAT16, TensorType.INT8, TensorType.UINT8, TensorType.INT4})


class _Streamed:
    """Rows that the calibrator takes one after the other.

    It first makes a list of them to draw a bar; that list would hold every row, so it is empty.
    """

    def __init__(self, rows: Iterator[Tensors]) -> None:
        self._given: list[Iterator[Tensors]] = [rows, iter(())]

    def __iter__(self) -> Iterator[Tensors]:
        return self._given.pop()


def graph_of(file: Path) -> Graph:
    """Count the operators, and the bytes of weights by operator, in ONNX's words."""
    operators, weights = Counter[str](), Counter[str]()
    for step in opened(file).steps:
        operators[onnx_kind(step.kind)] += 1
        weights[onnx_kind(step.kind)] += step.weight_bytes
    return Graph(dict(operators), {kind: size for kind, size in weights.items() if size})


def finish_float(file: Path, recipe: Recipe, to: Path) -> None:
    """Write the float export as the fp32 candidate."""
    del recipe  # A LiteRT file has no versions to be brought down to.
    _refuse_quantized(file)
    to.write_bytes(file.read_bytes())


def operators_of(file: Path, recipe: Recipe) -> tuple[Operator, ...]:
    """Return the units of operators that the recipe quantizes, in the order of the graph."""
    if not recipe.is_quantized and recipe.precision is not Precision.FP16:
        return ()
    found = quantized_units(opened(file), recipe)
    return tuple(_operator(name, steps) for name, steps in found.items())


def float_operators(file: Path) -> tuple[Operator, ...]:
    """Return the units of a made file that compute and store in float only."""
    graph = opened(file)
    tensors = enumerate(graph.tree.subgraphs[0].tensors)
    small = {index for index, tensor in tensors if tensor.type in SMALL}
    # What is unpacked before each run is stored small, though it is computed with in float.
    small |= {one for step in graph.steps if _is_unpacking(step) for one in step.writes}
    found = {
        name: tuple(step for step in steps if step.kind not in CASTS)
        for name, steps in units(graph).items()
    }
    return tuple(
        _operator(name, steps)
        for name, steps in found.items()
        if not all(step.is_mover for step in steps)
        and all(small.isdisjoint(_tensors(graph, step)) for step in steps)
    )


def is_quantized(file: Path) -> bool:
    """Say whether the file stores or computes anything in less than float."""
    graph = opened(file).tree.subgraphs[0]
    return any(_scales(tensor) or tensor.type == TensorType.FLOAT16 for tensor in graph.tensors)


def calibrate(file: Path, recipe: Recipe, rows: Iterable[Tensors], to: Path) -> Path:
    """Write to `to` the range of each tensor over the rows, which are taken one after the other.

    Minima and maxima over all rows: the quantizer's own moving average depends on their order.
    """
    _refuse_quantized(file)
    graph = opened(file)
    manager = plan(graph, recipe)
    key, arguments = _arguments(graph)
    content, left = file.read_bytes(), _named(rows, arguments)
    known: dict[str, QSV] = {}
    with refusing(BuildReason.CONVERTER_CRASHED, "LiteRT cannot calibrate the net"):
        for row in left:
            some = {key: _Streamed(chain([row], islice(left, ROWS_AT_ONCE - 1)))}
            known = _widened(content, known, some, manager)
    if not known:
        refuse(BuildReason.CALIBRATION_MISSING, "no row was given to take ranges from")
    facts = {"model_qsvs": known, "metadata": {EXPORT: graph.digest}}
    to.write_text(json.dumps(facts, cls=calibration_utils.NumpyEncoder))
    return to


def make(file: Path, recipe: Recipe, ranges: Path | None, to: Path) -> None:
    """Write to `to` the candidate that the recipe makes of the float file.

    Raises `BuildRefused` where nothing changed, the file is no float export, or the quantizer
    fails. The same file, recipe and ranges give the same bytes.
    """
    if recipe.precision is Precision.FP32:
        finish_float(file, recipe, to)
        return
    _refuse_quantized(file)
    graph = opened(file)
    known = _ranges(graph, recipe, ranges)
    manager = plan(graph, recipe, _unbounded(graph, known))
    with refusing(BuildReason.CONVERTER_CRASHED, "ai-edge-quantizer cannot quantize the net"):
        parameters = ParamsGenerator(graph.tree).generate_quantization_parameters(
            manager, known, enable_progress_bar=False
        )
        made = ModelModifier(graph.tree).modify_model(parameters, enable_progress_bar=False)
    _refuse_unchanged(file.read_bytes(), bytes(made), recipe)
    to.write_bytes(made)


def bindings_of(
    file: Path, signature: Signature
) -> tuple[tuple[Binding, ...], tuple[Binding, ...], int | None]:
    """Return how the file's inputs and outputs stand for the signature's, and its fixed batch.

    litert-torch numbers the net's arguments and results in order, where the net does not name its
    results itself; their tensors have other names.
    """
    graph = opened(file)
    entry = _entry(graph)
    tensors = graph.tree.subgraphs[0].tensors
    inputs = {item.name.decode(): tensors[item.tensorIndex] for item in entry.inputs}
    outputs = {item.name.decode(): tensors[item.tensorIndex] for item in entry.outputs}
    return (
        tuple(_bind(one, inputs, f"args_{i}") for i, one in enumerate(signature.inputs)),
        tuple(_bind(one, outputs, f"output_{i}") for i, one in enumerate(signature.outputs)),
        int(inputs["args_0"].shape[0]),
    )


def _operator(name: str, steps: tuple[Step, ...]) -> Operator:
    first = next((step for step in steps if not step.is_mover), steps[0])
    size = sum(step.weight_bytes for step in steps)
    return Operator(name, onnx_kind(first.kind), first.layer, size)


def _is_unpacking(step: Step) -> bool:
    return step.kind == "DEQUANTIZE" and not step.reads


def _tensors(graph: LiteGraph, step: Step) -> set[int]:
    return {*graph.tree.subgraphs[0].operators[step.index].inputs, *step.writes}


def _scales(tensor: TensorT) -> bool:
    return tensor.quantization is not None and tensor.quantization.scale is not None


def _refuse_quantized(file: Path) -> None:
    if is_quantized(file):
        refuse(BuildReason.ALREADY_QUANTIZED, "the LiteRT file is quantized already")


def _entry(graph: LiteGraph) -> SignatureDefT:
    entries = graph.tree.signatureDefs or []
    if len(entries) != 1:
        problem = f"the LiteRT file has {len(entries)} signatures where one is wanted"
        refuse(BuildReason.NOT_EXPORTABLE, problem)
    return entries[0]


def _arguments(graph: LiteGraph) -> tuple[str, dict[str, str]]:
    """Return the name of the file's signature, and its arguments by the names of their tensors."""
    entry = _entry(graph)
    named = {graph.name_of(item.tensorIndex): item.name.decode() for item in entry.inputs}
    return entry.signatureKey.decode(), named


def _widened(
    content: bytes, known: dict[str, QSV], rows: dict[str, _Streamed], manager: RecipeManager
) -> dict[str, QSV]:
    """Return the known ranges, widened by the rows.

    The interpreter keeps some KB of each run that it watches, and gives them back at its end.
    """
    calibrator = Calibrator(
        content,
        num_threads=1,
        mode=CalibrationMode.CALIBRATION_PROFILER_BASED,
        qsv_update_func=qsv_utils.min_max_update,
    )
    calibrator.load_model_qsvs(known)
    calibrator.calibrate(rows, manager)
    found: dict[str, QSV] = calibrator.get_model_qsvs()
    return found


def _named(rows: Iterable[Tensors], arguments: dict[str, str]) -> Iterator[Tensors]:
    for row in rows:
        yield {arguments.get(name, name): array for name, array in row.items()}


def _ranges(graph: LiteGraph, recipe: Recipe, ranges: Path | None) -> dict[str, QSV] | None:
    if not recipe.is_calibrated:
        return None
    if ranges is None:
        refuse(BuildReason.CALIBRATION_MISSING, f"{recipe.name} takes ranges from calibration")
    found, facts = _loaded(ranges, ranges.stat().st_mtime_ns)
    if facts.get(EXPORT) != graph.digest:
        refuse(BuildReason.CALIBRATION_MISSING, "the ranges are those of another export")
    return found


@lru_cache(maxsize=2)
def _loaded(ranges: Path, _time: int) -> tuple[dict[str, QSV], dict[str, object]]:
    found, facts = calibration_utils.load_calibration_results(str(ranges))
    return found, facts


def _unbounded(graph: LiteGraph, known: dict[str, QSV] | None) -> frozenset[int]:
    """Return the tensors whose range is a mask's: a scale for it would leave nothing of the rest.

    Masks are minus infinity, which some kernels clamp to the lowest float, or minus 1e9.
    """
    names = {name for name, range_ in (known or {}).items() if not _is_bounded(range_)}
    tensors = enumerate(graph.tree.subgraphs[0].tensors) if names else ()
    return frozenset(index for index, _ in tensors if graph.name_of(index) in names)


def _is_bounded(range_: QSV) -> bool:
    return all(np.all(np.abs(range_[side]) < WIDEST) for side in ("min", "max") if side in range_)


def _refuse_unchanged(before: bytes, after: bytes, recipe: Recipe) -> None:
    was, now = _stored(before), _stored(after)
    floats_before, floats_after = (sum(one[kind] for kind in FLOATS) for one in (was, now))
    problem = ""
    if not any(kind in now for kind in SMALL):
        problem = "left every operator in float"
    elif not recipe.kept_float and floats_after > LARGEST_FLOAT_SHARE * floats_before:
        problem = f"left {floats_after} of {floats_before} bytes of weights in float"
    elif not recipe.is_calibrated and len(after) >= len(before):
        problem = f"left {len(after)} of {len(before)} bytes"
    if problem:
        refuse(BuildReason.PASS_CHANGED_NOTHING, f"{recipe.name} {problem}")


def _stored(content: bytes) -> Counter[int]:
    """Return by type how many bytes of constants stand in the file.

    It reads the packed file, since an object of each of its parts costs as much as the pass.
    """
    model, found = Model.GetRootAs(content), Counter[int]()
    graph = model.Subgraphs(0)
    for tensor in map(graph.Tensors, range(graph.TensorsLength())):
        found[tensor.Type()] += sum(_lengths(model, tensor.Buffer()))
    return found


def _lengths(model: Model, index: int) -> Iterator[int]:
    buffer = model.Buffers(index)
    yield buffer.DataLength()
    yield buffer.Size()


def _bind(tensor: Tensor, found: dict[str, TensorT], argument: str) -> Binding:
    given = found.get(argument) or found.get(tensor.name)
    datatype = DATATYPES.get(given.type) if given is not None else None
    if given is None or datatype is None:
        refuse(BuildReason.NOT_EXPORTABLE, f"the LiteRT model has nothing for {tensor.name!r}")
    return Binding(
        name=tensor.name,
        runtime_name=given.name.decode(),
        datatype=datatype,
        scale=float(given.quantization.scale[0]) if _scales(given) else None,
        zero_point=int(given.quantization.zeroPoint[0]) if _scales(given) else 0,
    )
