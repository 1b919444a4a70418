"""Weights and arithmetic in fp16, with inputs and outputs as they were.

It starts from the net before it was optimised: onnxruntime optimises fp16 nets in other ways.
"""

from __future__ import annotations

import onnx
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from wherry_controller.builder.passes.base import Operator
from wherry_controller.builder.passes.onnx_fold import drop_unused
from wherry_controller.builder.passes.onnx_prepared import Prepared, copy
from wherry_controller.core.recipe import Recipe

# Sums and powers leave the range of fp16, or lose what is small in it.
OVERFLOWING = frozenset(
    {
        "Exp",
        "InstanceNormalization",
        "LayerNormalization",
        "Log",
        "LogSoftmax",
        "Pow",
        "ReduceL2",
        "ReduceLogSumExp",
        "ReduceMean",
        "ReduceSum",
        "ReduceSumSquare",
        "Softmax",
        "Softplus",
    }
)
BLOCKED = frozenset({*DEFAULT_OP_BLOCK_LIST, *OVERFLOWING})


def half_operators(prepared: Prepared) -> tuple[Operator, ...]:
    """Return the operators that compute in fp16, in graph order."""
    nodes = [
        node
        for node in prepared.plain.graph.node
        if node.op_type not in BLOCKED and not prepared.floats.keys().isdisjoint(node.output)
    ]
    return tuple(prepared.operator(node) for node in nodes)


def halve(prepared: Prepared, recipe: Recipe) -> onnx.ModelProto:
    """Return the model in fp16 but for what overflows and what the recipe keeps."""
    model: onnx.ModelProto = convert_float_to_float16(
        copy(prepared.plain),
        keep_io_types=True,
        op_block_list=sorted(BLOCKED),
        node_block_list=list(recipe.kept_float),
    )
    _drop_twins(model.graph)
    drop_unused(model.graph)
    return model


def _drop_twins(graph: onnx.GraphProto) -> None:
    """Drop casts that the converter made twice, for a node that takes one tensor twice."""
    made: set[str] = set()
    kept = []
    for node in graph.node:
        if made.isdisjoint(node.output):
            kept.append(node)
            made.update(name for name in node.output if name)
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)
