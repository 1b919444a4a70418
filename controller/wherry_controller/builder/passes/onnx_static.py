"""Static int8 as QuantizeLinear and DequantizeLinear, from ranges that were found before."""

from __future__ import annotations

import numpy as np
import onnx
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from wherry.profile import Activation
from wherry_controller.builder.onnx_file import graphs_of
from wherry_controller.builder.passes.base import Operator
from wherry_controller.builder.passes.onnx_fold import drop_unused
from wherry_controller.builder.passes.onnx_prepared import Prepared, copy
from wherry_controller.builder.passes.onnx_ranges import Ranges
from wherry_controller.core.recipe import Recipe

ACTIVATIONS = {Activation.S8: QuantType.QInt8, Activation.U8: QuantType.QUInt8}
KINDS = tuple(sorted({*QDQRegistry, *QLinearOpsRegistry}))
# They take the numbers of what comes before them, quantized or not, and have no say of their own.
PASSING = frozenset(
    {
        "ArgMax",
        "AveragePool",
        "Clip",
        "Flatten",
        "MaxPool",
        "Pad",
        "Relu",
        "Reshape",
        "Resize",
        "Slice",
        "Split",
        "Squeeze",
        "TopK",
        "Transpose",
        "Unsqueeze",
    }
)
REMOVABLE = frozenset({"Clip", "Relu"})
GATHERING = frozenset({"Gather", "GatherElements"})


def static_operators(prepared: Prepared) -> tuple[Operator, ...]:
    """Return the operators whose quantization can be decided on, in graph order."""
    nodes = [node for node in prepared.model.graph.node if _is_decided_on(node, prepared)]
    return tuple(prepared.operator(node) for node in nodes)


def quantize_static(prepared: Prepared, recipe: Recipe, ranges: Ranges) -> onnx.ModelProto:
    """Return the model with int8 weights and activations; operators without ranges stay float."""
    quantizer = QDQQuantizer(
        copy(prepared.model),
        recipe.per_channel,
        recipe.reduced_range,
        QuantType.QInt8,
        ACTIVATIONS[recipe.activation],
        _tensors_data(prepared, recipe, ranges),
        [],
        [*recipe.kept_float, *_unranged(prepared, ranges), *_seen_inside(prepared)],
        KINDS,
        {},
    )
    quantizer.quantize_model()
    model: onnx.ModelProto = quantizer.model.model
    drop_unused(model.graph)
    return model


def _is_decided_on(node: onnx.NodeProto, prepared: Prepared) -> bool:
    if node.op_type not in KINDS or node.op_type in PASSING:
        return False
    if node.op_type in GATHERING:
        return node.input[0] in prepared.constants and node.output[0] in prepared.floats
    return node.output[0] in prepared.floats


def _tensors_data(prepared: Prepared, recipe: Recipe, ranges: Ranges) -> TensorsData:
    """Return the ranges as onnxruntime's calibrators give them; it asks them for no method."""
    dtypes = {
        name: onnx.helper.tensor_dtype_to_np_dtype(kind) for name, kind in prepared.floats.items()
    }
    data = {}
    for name, found in ranges.items():
        low, high = (np.array(bound, dtypes[name]) for bound in found[recipe.calibration])
        data[name] = TensorData(lowest=low, highest=high)
    return TensorsData(CalibrationMethod.MinMax, data)


def _unranged(prepared: Prepared, ranges: Ranges) -> list[str]:
    """Return the names of operators that take or give a float tensor of which no range is known."""
    missing = prepared.floats.keys() - ranges.keys()
    return [
        node.name
        for node in prepared.model.graph.node
        if not missing.isdisjoint((*node.input, *node.output))
    ]


def _seen_inside(prepared: Prepared) -> list[str]:
    """Return the names of activations whose results branches take from outside.

    The quantizer leaves an activation out where the range does its work, and does not see branches.
    """
    graph = prepared.model.graph
    inner = [part for part in graphs_of(graph) if part is not graph]
    taken = {name for part in inner for node in part.node for name in node.input}
    taken |= {output.name for part in inner for output in part.output}
    return [
        node.name
        for node in graph.node
        if node.op_type in REMOVABLE and not taken.isdisjoint(node.output)
    ]
