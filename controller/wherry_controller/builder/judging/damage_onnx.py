"""ONNX files hurt on purpose: output channels zeroed, ranges of activations made wrong.

Weights are found behind what stands between them and their layer (DequantizeLinear, Cast,
Transpose), in the branches of a graph too. A quantized channel is zeroed at its zero point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from wherry_controller.builder.data.rows import Array, Indices
from wherry_controller.builder.judging.layer import Floats, Layer

# The input that holds the weights, the output channels' axis in it, the input with its zero point.
WEIGHTS = {
    "Conv": (1, 0, None),
    "ConvTranspose": (1, 1, None),
    "MatMul": (1, -1, None),
    "Gemm": (1, -1, None),
    "LSTM": (1, 1, None),
    "GRU": (1, 1, None),
    "RNN": (1, 1, None),
    "MatMulNBits": (2, 0, None),  # Its weights are packed, so their scales are zeroed.
    "ConvInteger": (1, 0, 3),
    "MatMulInteger": (1, -1, 3),
    "DynamicQuantizeMatMul": (1, -1, 3),
    "MatMulIntegerToFloat": (1, -1, 5),
    "DynamicQuantizeLSTM": (1, -1, 9),
    "QLinearConv": (3, 0, 5),
    "QLinearMatMul": (3, -1, 5),
}
# The weights of scikit-learn's operators stand in attributes.
ATTRIBUTES = {
    "LinearClassifier": "coefficients",
    "LinearRegressor": "coefficients",
    "SVMClassifier": "coefficients",
    "SVMRegressor": "coefficients",
    "TreeEnsembleClassifier": "class_weights",
    "TreeEnsembleRegressor": "target_weights",
}
QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear"})
PASSED = frozenset({"DequantizeLinear", "Cast", "Transpose", "Identity"})
PACKED = "MatMulNBits"


@dataclass(frozen=True, slots=True)
class Graph:
    """All nodes and constants of a model, those of its branches too."""

    nodes: tuple[NodeProto, ...]
    constants: Mapping[str, TensorProto]
    sources: Mapping[str, NodeProto]

    def array(self, name: str) -> Array | None:
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None


@dataclass(frozen=True, slots=True)
class Weights:
    """A constant and the axis of its output channels; `along` is that of `scale` and `zero`.

    Where there is no scale or no zero point, they are empty names.
    """

    name: str
    axis: int
    scale: str = ""
    zero: str = ""
    along: int = 0
    columns: int | None = None
    is_recurrent: bool = False


def layers_of(file: Path) -> list[Layer]:
    """Return the layers with weights, in the order of the graph."""
    graph = _graph(onnx.load(file))
    found: list[Layer] = []
    for index, node in enumerate(graph.nodes):
        weights, name = _weights(graph, node), node.name or node.op_type
        if weights is not None:
            strengths = partial(_strengths, graph, weights)
            found.append(Layer(name, strengths, partial(_write_zeroed, file, weights)))
        elif node.op_type in ATTRIBUTES:
            strengths = partial(_attribute_strengths, node)
            found.append(Layer(name, strengths, partial(_write_attribute_zeroed, file, index)))
    return found


def ranges_of(file: Path) -> Callable[[float, Path], None] | None:
    """Return what writes a copy with all activations' ranges times a factor, None without any."""
    graph = _graph(onnx.load(file))
    return partial(_write_scaled, file) if _activation_scales(graph) else None


def _write_zeroed(file: Path, weights: Weights, channels: Indices, to: Path) -> None:
    model = onnx.load(file)
    graph = _graph(model)
    values = _values(graph, weights).copy()
    zero = np.broadcast_to(_parameter(graph, weights, weights.zero, values), values.shape)
    places = (slice(None),) * weights.axis + (channels,)
    values[places] = zero[places].astype(values.dtype)
    constant = graph.constants[weights.name]
    hurt = values.reshape(tuple(constant.dims))
    constant.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(hurt), constant.name))
    _write(model, to)


def _write_attribute_zeroed(file: Path, index: int, channels: Indices, to: Path) -> None:
    model = onnx.load(file)
    node = _graph(model).nodes[index]
    attribute = next(one for one in node.attribute if one.name == ATTRIBUTES[node.op_type])
    for channel in channels:
        attribute.floats[channel] = 0.0
    _write(model, to)


def _write_scaled(file: Path, factor: float, to: Path) -> None:
    """Write the model as if calibrated on rows of another scale; biases keep their values."""
    model = onnx.load(file)
    graph = _graph(model)
    biases = list(_dequantized_biases(graph))
    for name in _activation_scales(graph) | {node.input[1] for node in biases}:
        _replace(graph, name, lambda values: values * factor)
    for name in {node.input[0] for node in biases}:
        _replace(graph, name, lambda values: np.rint(values / factor))
    _write(model, to)


def _replace(graph: Graph, name: str, change: Callable[[Floats], Floats]) -> None:
    constant = graph.constants[name]
    values = numpy_helper.to_array(constant)
    changed = change(values.astype(np.float64)).astype(values.dtype)
    constant.CopyFrom(numpy_helper.from_array(changed, constant.name))


def _activation_scales(graph: Graph) -> set[str]:
    """Return the constants by which something that is no constant is quantized or back."""
    return {
        node.input[1]
        for node in graph.nodes
        if node.op_type in QUANTIZED
        and node.input[0] not in graph.constants
        and node.input[1] in graph.constants
    }


def _dequantized_biases(graph: Graph) -> Iterator[NodeProto]:
    for node in graph.nodes:
        if node.op_type == "DequantizeLinear" and node.input[0] in graph.constants:
            is_bias = graph.constants[node.input[0]].data_type == TensorProto.INT32
            if is_bias and node.input[1] in graph.constants:
                yield node


def _weights(graph: Graph, node: NodeProto) -> Weights | None:
    if node.op_type not in WEIGHTS:
        return None
    position, axis, zero_at = WEIGHTS[node.op_type]
    if node.op_type == "Gemm" and _attribute(node, "transB", 0):
        axis = 0
    found = _behind(graph, node.input[position], axis)
    if found is None:
        return None
    if node.op_type == PACKED:
        return replace(found, columns=_attribute(node, "N", 1))
    if zero_at is not None and zero_at < len(node.input):
        is_recurrent = node.op_type == "DynamicQuantizeLSTM"
        return replace(found, zero=node.input[zero_at], along=found.axis, is_recurrent=is_recurrent)
    return found


def _behind(graph: Graph, name: str, axis: int) -> Weights | None:
    """Return the constant that a value is made of; `axis` is followed through transposes."""
    scale, zero, along = "", "", 0
    while name not in graph.constants:
        node = graph.sources.get(name)
        if node is None or node.op_type not in PASSED:
            return None
        if node.op_type == "Transpose":
            order = next((list(one.ints) for one in node.attribute if one.name == "perm"), None)
            axis = order[axis] if order else -1 - axis
        elif node.op_type == "DequantizeLinear":
            scale, zero = node.input[1], node.input[2] if len(node.input) > 2 else ""
            along = _attribute(node, "axis", 1)
        name = node.input[0]
    dimensions = len(graph.constants[name].dims)
    if not dimensions:
        return None
    return Weights(name, axis % dimensions, scale, zero, along % dimensions)


def _strengths(graph: Graph, weights: Weights) -> Floats:
    """Return the sum of the real weights' sizes for each output channel."""
    values = _values(graph, weights)
    zero = _parameter(graph, weights, weights.zero, values)
    scale = _parameter(graph, weights, weights.scale, values) if weights.scale else np.ones(1)
    sizes = np.abs((values.astype(np.float64) - zero) * scale)
    channels: Floats = np.moveaxis(sizes, weights.axis, 0)
    return np.asarray(channels.reshape(len(channels), -1).sum(axis=1), np.float64)


def _attribute_strengths(node: NodeProto) -> Floats:
    found = next(one.floats for one in node.attribute if one.name == ATTRIBUTES[node.op_type])
    return np.abs(np.array(found, np.float64))


def _values(graph: Graph, weights: Weights) -> Array:
    values = numpy_helper.to_array(graph.constants[weights.name])
    return values if weights.columns is None else values.reshape(weights.columns, -1)


def _parameter(graph: Graph, weights: Weights, name: str, values: Array) -> Floats:
    """Return a scale or zero point so that it spreads over the values; 0 where there is none."""
    found = graph.array(name)
    if found is None or not found.size:
        return np.zeros(1)
    wide = found.astype(np.float64)
    if wide.size == 1:
        return wide.reshape(1)
    if weights.is_recurrent:  # One for each direction, or for each direction and channel.
        return wide.reshape(len(values), 1, -1)
    if wide.ndim > 1:  # In blocks along the axis.
        return np.repeat(
            wide, values.shape[weights.along] // wide.shape[weights.along], weights.along
        )
    shape = [1] * values.ndim
    shape[weights.along] = -1
    return wide.reshape(shape)


def _attribute(node: NodeProto, name: str, otherwise: int) -> int:
    return next((int(one.i) for one in node.attribute if one.name == name), otherwise)


def _graph(model: ModelProto) -> Graph:
    nodes: list[NodeProto] = []
    constants: dict[str, TensorProto] = {}
    for graph in _graphs(model.graph):
        constants.update((one.name, one) for one in graph.initializer)
        nodes.extend(graph.node)
    for node in nodes:
        for one in node.attribute:
            if node.op_type == "Constant" and one.name == "value":
                constants[node.output[0]] = one.t
    return Graph(tuple(nodes), constants, {name: node for node in nodes for name in node.output})


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for one in node.attribute:
            for branch in (*one.graphs, *([one.g] if one.HasField("g") else [])):
                yield from _graphs(branch)


def _write(model: ModelProto, to: Path) -> None:
    to.write_bytes(model.SerializeToString(deterministic=True))
