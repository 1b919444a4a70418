"""An ONNX graph in the terms of a signature, with nothing left to decide when it runs.

    constants become weights --> names, shapes and the batch first --> fold what is constant now

Folding takes the branches of an `If` whose condition is known into the graph, and computes
weights that are put together at run time, so that quantization sees every operator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir
import onnx_ir.passes.common as passes
from onnxscript.optimizer import optimize_ir

from wherry_controller.builder.faults import refuse, refusing
from wherry_controller.builder.sources.onnx_axes import Place, Places, datatype_in
from wherry_controller.core.card import Constant
from wherry_controller.core.fault import BuildReason

DEFAULT_DOMAIN = ""
LOWEST_OPSET = 13  # From here on a scale a channel can be written.
FOLDING_ROUNDS = 8
LARGEST_FILL = 4096  # Of elements: a larger tensor of one value stays an operator.
LARGEST_FOLDED = 1 << 26
ANY_SIZE = 1 << 62


def rewrite(model: onnx_ir.Model, places: Places, constants: Mapping[str, Constant]) -> None:
    """Put the graph into the signature's terms, in place."""
    graph = model.graph
    passes.RemoveInitializersFromInputsPass()(model)
    for value in [value for value in graph.inputs if value.name in constants]:
        _fix(graph, value, constants[str(value.name)])
    names = [str(value.name) for value in graph.outputs]
    _set_inputs(graph, places.inputs, places.static_batch)
    outputs = dict(zip(names, graph.outputs, strict=True))
    _set_outputs(graph, places.outputs, outputs, places.static_batch)
    _fold(model)
    for place, value in zip(places.outputs, graph.outputs, strict=True):
        value.shape = _shape(place, places.static_batch)


def with_opset(model: onnx.ModelProto, highest: int) -> onnx.ModelProto:
    """Return the model with an opset that quantization knows and the profile takes."""
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    opset = max(versions, default=highest)
    wanted = min(max(opset, LOWEST_OPSET), highest)
    if wanted == opset:
        return model
    what = f"the file has opset {opset}, and its operators are not all known to opset {wanted}"
    with refusing(BuildReason.NO_RECIPE, what):
        return onnx.version_converter.convert_version(model, wanted)


def constant_array(value: onnx_ir.Value, constant: Constant) -> np.ndarray:
    """Return a constant of the card in the type of the input that it feeds."""
    if value.dtype is None or datatype_in(value) is None:
        refuse(BuildReason.SIGNATURE_MISFIT, f"the input {value.name!r} takes no number")
    return np.asarray(constant, value.dtype.numpy())


def _fix(graph: onnx_ir.Graph, value: onnx_ir.Value, constant: Constant) -> None:
    array = constant_array(value, constant)
    graph.inputs.remove(value)
    value.const_value = onnx_ir.tensor(array, name=value.name)
    value.shape = onnx_ir.Shape(array.shape)
    graph.register_initializer(value)


def _set_inputs(graph: onnx_ir.Graph, places: Sequence[Place], static: int | None) -> None:
    by_name = {str(value.name): value for value in graph.inputs}
    fresh: list[onnx_ir.Value] = []
    for place in places:
        inner = by_name[place.name]
        outer = onnx_ir.val(place.tensor.name, shape=_shape(place, static), type=inner.type)
        inner.name, fresh = _inner_name(place), [*fresh, outer]
        used = outer
        if place.batch_axis:
            turned = _turned(outer, _from_front(place))
            graph.insert_before(graph[0], turned)
            used = turned.outputs[0]
        onnx_ir.convenience.replace_all_uses_with(inner, used, replace_graph_outputs=True)
    graph.inputs[:] = fresh


def _set_outputs(
    graph: onnx_ir.Graph,
    places: Sequence[Place],
    given: Mapping[str, onnx_ir.Value],
    static: int | None,
) -> None:
    fresh = []
    for place in places:
        inner = given[place.name]
        node = _turned(inner, _to_front(place)) if place.batch_axis else _same(inner)
        outer = node.outputs[0]
        outer.type, outer.shape = inner.type, _shape(place, static)
        if inner.name == place.tensor.name and not inner.is_graph_input():
            inner.name = _inner_name(place)
        outer.name = place.tensor.name
        graph.append(node)
        fresh.append(outer)
    graph.outputs[:] = fresh


def _shape(place: Place, static: int | None) -> onnx_ir.Shape:
    batch, *others = place.tensor.shape
    return onnx_ir.Shape([batch if static is None else static, *others])


def _from_front(place: Place) -> list[int]:
    axes = list(range(1, len(place.tensor.shape)))
    return [*axes[: place.batch_axis], 0, *axes[place.batch_axis :]]


def _to_front(place: Place) -> list[int]:
    axes = range(len(place.tensor.shape))
    return [place.batch_axis, *(axis for axis in axes if axis != place.batch_axis)]


def _turned(value: onnx_ir.Value, permutation: list[int]) -> onnx_ir.Node:
    attributes = [onnx_ir.AttrInt64s("perm", permutation)]
    return onnx_ir.Node(DEFAULT_DOMAIN, "Transpose", [value], attributes)


def _same(value: onnx_ir.Value) -> onnx_ir.Node:
    return onnx_ir.Node(DEFAULT_DOMAIN, "Identity", [value])


def _inner_name(place: Place) -> str:
    return f"{place.name}_in_the_file"


def _fold(model: onnx_ir.Model) -> None:
    with refusing(BuildReason.NOT_EXPORTABLE, "the graph cannot be simplified"):
        optimize_ir(
            model,
            num_iterations=FOLDING_ROUNDS,
            input_size_limit=ANY_SIZE,
            output_size_limit=LARGEST_FOLDED,
            should_fold=_is_small_fill,
        )
    _drop_unused(model.graph)


def _is_small_fill(node: onnx_ir.Node) -> bool | None:
    """Say that a small tensor of one value is to be computed; None leaves it to the rules."""
    shape = node.inputs[0].const_value if node.inputs and node.inputs[0] is not None else None
    if node.op_type != "ConstantOfShape" or shape is None:
        return None
    return math.prod(shape.numpy().tolist()) <= LARGEST_FILL or None


def _drop_unused(graph: onnx_ir.Graph) -> None:
    """Drop the weights that only folded operators used; they still count those as users."""
    taken = [value for node in graph.all_nodes() for value in node.inputs]
    used = {value.name for value in (*taken, *graph.outputs) if value is not None}
    for name in [name for name in graph.initializers if name not in used]:
        del graph.initializers[name]
