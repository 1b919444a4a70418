"""Weights stored in eight or four bits, with the activations' ranges found at each run or never.

Convolutions are left out: with ranges found at each run they are several times slower.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantizationMode, QuantType
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer

from wherry_controller.builder.onnx_file import graphs_of
from wherry_controller.builder.passes.base import Operator
from wherry_controller.builder.passes.onnx_fold import drop_unused
from wherry_controller.builder.passes.onnx_prepared import Prepared, copy
from wherry_controller.core.recipe import Recipe

# Which input of an operator holds the weights that are quantized.
DYNAMIC = {"Attention": 1, "Gather": 0, "LSTM": 1, "MatMul": 1, "Gemm": 1}
PACKED = {"MatMul": 1, "Gemm": 1}
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
    kept = frozenset(recipe.kept_float)
    quantizer = ONNXQuantizer(
        _with_products(copy(prepared.model), kept),
        recipe.per_channel,
        recipe.reduced_range,
        QuantizationMode.IntegerOps,
        False,
        QuantType.QInt8,
        QuantType.QUInt8,
        None,
        [],
        [*kept, *(name + MADE_OF_GEMM for name in kept)],
        tuple(DYNAMIC),
        {"MatMulConstBOnly": True, "EnableSubgraph": True},
    )
    quantizer.quantize_model()
    model: onnx.ModelProto = quantizer.model.model
    return model


def pack(prepared: Prepared, recipe: Recipe) -> onnx.ModelProto:
    """Return the model with the weights of its products in four bits."""
    kept = frozenset(recipe.kept_float)
    quantizer = _packer()(
        _with_products(copy(prepared.model), kept),
        bits=4,
        block_size=BLOCK,
        is_symmetric=True,
        accuracy_level=ACCURACY_LEVEL,
        nodes_to_exclude=list(kept),
        op_types_to_quantize=("MatMul",),
    )
    quantizer.process()
    model: onnx.ModelProto = quantizer.model.model
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
    """Return the operators with constant float weights at their place."""
    found = []
    for graph in graphs_of(prepared.model.graph):
        for node in graph.node:
            place = places.get(node.op_type)
            if place is not None and _is_float(prepared, node.input[place]):
                found.append(prepared.operator(node))
    return tuple(found)


def _is_float(prepared: Prepared, name: str) -> bool:
    constant = prepared.constants.get(name)
    is_matrix = constant is not None and len(constant.dims) > 1
    return constant is not None and is_matrix and constant.data_type == onnx.TensorProto.FLOAT


def _with_products(model: onnx.ModelProto, kept: frozenset[str]) -> onnx.ModelProto:
    """Make a MatMul and an Add of each Gemm with constant weights that is not kept."""
    for graph in graphs_of(model.graph):
        constants = {constant.name: constant for constant in graph.initializer}
        nodes = []
        for node in graph.node:
            is_turned = node.op_type == "Gemm" and node.name not in kept
            nodes.extend(_product(node, graph, constants) if is_turned else [node])
        del graph.node[:]
        graph.node.extend(nodes)
        drop_unused(graph)
    return model


def _product(
    node: onnx.NodeProto, graph: onnx.GraphProto, constants: dict[str, onnx.TensorProto]
) -> list[onnx.NodeProto]:
    facts = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    bias = node.input[2] if len(node.input) > 2 else ""
    scaled = (name for name, key in ((bias, "beta"),) if name and facts.get(key, 1.0) != 1.0)
    if facts.get("transA") or node.input[1] not in constants or any(scaled):
        return [node]
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
