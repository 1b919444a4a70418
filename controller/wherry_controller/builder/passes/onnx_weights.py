"""Weights stored in eight or four bits, with the activations' ranges found at each run or never.

Convolutions are left out: with ranges found at each run they are several times slower.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantizationMode, QuantType
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer

from wherry_controller.builder.onnx_file import nodes_of
from wherry_controller.builder.passes.base import Operator
from wherry_controller.builder.passes.onnx_fold import drop_unused
from wherry_controller.builder.passes.onnx_prepared import Prepared, copy
from wherry_controller.core.recipe import Recipe

# Which input of an operator holds the weights that are quantized.
PACKED = {"Gemm": 1, "MatMul": 1}
DYNAMIC = {"Attention": 1, "Gather": 0, "LSTM": 1, **PACKED}
BLOCK = 32
ACCURACY_LEVEL = 4  # Activations go to eight bits a block: the fast kernel on every processor.
MADE_OF_GEMM = "_MatMul"  # What onnxruntime's quantizer names the product that it makes of a Gemm.


def dynamic_operators(prepared: Prepared) -> tuple[Operator, ...]:
    """Return the operators that dynamic int8 changes, in graph order."""
    return _with_weights(prepared, DYNAMIC)


def packed_operators(prepared: Prepared) -> tuple[Operator, ...]:
    """Return the operators whose weights int4 packs, in graph order."""
    return _with_weights(prepared, PACKED)


def quantize_dynamic(prepared: Prepared, recipe: Recipe) -> onnx.ModelProto:
    """Return the model with int8 weights in products, recurrent layers and embeddings."""
    wanted = _wanted(dynamic_operators(prepared), recipe)
    excluded = _others(prepared, wanted)
    quantizer = ONNXQuantizer(
        _with_products(copy(prepared.model), wanted),
        recipe.per_channel,
        recipe.reduced_range,
        QuantizationMode.IntegerOps,
        False,
        QuantType.QInt8,
        QuantType.QUInt8,
        None,
        [],
        [*excluded, *(name + MADE_OF_GEMM for name in excluded)],
        tuple(DYNAMIC),
        {"MatMulConstBOnly": True},
    )
    quantizer.quantize_model()
    model: onnx.ModelProto = quantizer.model.model
    drop_unused(model.graph)
    return model


def pack(prepared: Prepared, recipe: Recipe) -> onnx.ModelProto:
    """Return the model with the weights of its products in four bits."""
    wanted = _wanted(packed_operators(prepared), recipe)
    quantizer = _packer()(
        _with_products(copy(prepared.model), wanted),
        bits=4,
        block_size=BLOCK,
        is_symmetric=True,
        accuracy_level=ACCURACY_LEVEL,
        nodes_to_exclude=_others(prepared, wanted),
        op_types_to_quantize=("MatMul",),
    )
    quantizer.process()
    model: onnx.ModelProto = quantizer.model.model
    # Weights that two products share are packed twice under one name.
    constants = {constant.name: constant for constant in model.graph.initializer}
    single = [constants[name] for name in constants]
    del model.graph.initializer[:]
    model.graph.initializer.extend(single)
    return model


@functools.cache
def _packer() -> Callable[..., Any]:
    """Return onnxruntime's class, whose module sets up the process's logging when imported."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    module = importlib.import_module("onnxruntime.quantization.matmul_nbits_quantizer")
    root.handlers[:] = handlers
    root.setLevel(level)
    packer: Callable[..., Any] = module.MatMulNBitsQuantizer
    return packer


def _with_weights(prepared: Prepared, places: dict[str, int]) -> tuple[Operator, ...]:
    """Return the main graph's operators with constant float weights at their place."""
    graph = prepared.model.graph
    uses = Counter(name for node in nodes_of(prepared.model) for name in node.input)
    return tuple(
        prepared.operator(node)
        for node in graph.node
        if node.op_type in places and _can_change(node, places[node.op_type], prepared, uses)
    )


def _can_change(
    node: onnx.NodeProto, place: int, prepared: Prepared, uses: Mapping[str, int]
) -> bool:
    weights = prepared.constants.get(node.input[place])
    if weights is None or weights.data_type != onnx.TensorProto.FLOAT or len(weights.dims) < 2:
        return False
    if node.op_type == "LSTM":  # onnxruntime's quantizer ruins weights that two of them share.
        return all(name in prepared.constants and uses[name] == 1 for name in node.input[1:3])
    return node.op_type != "Gemm" or _is_product(node)


def _is_product(node: onnx.NodeProto) -> bool:
    """Say whether a Gemm is the same as a MatMul and an Add."""
    facts = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    return not facts.get("transA") and facts.get("beta", 1.0) == 1.0


def _wanted(operators: Iterable[Operator], recipe: Recipe) -> frozenset[str]:
    return frozenset(operator.name for operator in operators) - frozenset(recipe.kept_float)


def _others(prepared: Prepared, wanted: frozenset[str]) -> list[str]:
    """Return the names of all nodes that stay as they are."""
    return [node.name for node in nodes_of(prepared.model) if node.name not in wanted]


def _with_products(model: onnx.ModelProto, wanted: frozenset[str]) -> onnx.ModelProto:
    """Make a MatMul and an Add of each Gemm that is wanted."""
    graph = model.graph
    constants = {constant.name: constant for constant in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        is_turned = node.op_type == "Gemm" and node.name in wanted
        nodes.extend(_product(node, graph, constants) if is_turned else [node])
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused(graph)
    _forget_shapes_of_weights(graph)
    return model


def _forget_shapes_of_weights(graph: onnx.GraphProto) -> None:
    """Drop what the file says of weights' shapes: onnxruntime turns those of a Gemm in place."""
    weights = {constant.name for constant in graph.initializer}
    kept = [value for value in graph.value_info if value.name not in weights]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _product(
    node: onnx.NodeProto, graph: onnx.GraphProto, constants: Mapping[str, onnx.TensorProto]
) -> list[onnx.NodeProto]:
    facts = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    bias = node.input[2] if len(node.input) > 2 else ""
    weights = numpy_helper.to_array(constants[node.input[1]])
    weights = weights.T if facts.get("transB") else weights
    name = f"{node.input[1]}_of_{node.name}"
    values = np.ascontiguousarray(weights * weights.dtype.type(facts.get("alpha", 1.0)))
    graph.initializer.append(numpy_helper.from_array(values, name))
    result = f"{node.output[0]}_product" if bias else node.output[0]
    product = helper.make_node("MatMul", [node.input[0], name], [result], name=node.name)
    if not bias:
        return [product]
    total = helper.make_node("Add", [result, bias], [node.output[0]], name=f"{node.name}_bias")
    return [product, total]
