"""ONNX files opened for their weights: tests look at how they are stored, and change them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from wherry_controller.builder.onnx_file import nodes_of

# Which input holds a layer's weights, and the axis of its output channels there.
WEIGHTS = {
    "Conv": (1, 0),
    "ConvInteger": (1, 0),
    "ConvTranspose": (1, 1),
    "MatMul": (1, -1),
    "MatMulInteger": (1, -1),
    "LSTM": (1, 1),
    "GRU": (1, 1),
    "RNN": (1, 1),
    "DynamicQuantizeLSTM": (1, 2),
    # Its weights are packed and stand for themselves minus a zero point; its scales can be zeroed.
    "MatMulNBits": (2, 0),
}
UNCHANGED_AXES = frozenset({"DequantizeLinear", "Cast", "Identity"})


@dataclass(frozen=True, slots=True)
class Weights:
    """A layer's weights by their name in the file; `axis` is that of the output channels.

    Zero is zero, also where the values are integers.
    """

    name: str
    values: npt.NDArray[np.generic]
    axis: int


def operators(file: Path) -> Counter[str]:
    """Return how many nodes of each operator the model has."""
    return Counter(node.op_type for node in nodes_of(onnx.load(file)))


def weights(file: Path) -> list[Weights]:
    """Return the weights of the model's layers in order, quantized ones as they are stored."""
    graph = onnx.load(file).graph
    sources = {
        node.output[0]: node.input[0] for node in graph.node if node.op_type in UNCHANGED_AXES
    }
    constants = {constant.name: constant for constant in graph.initializer}
    found: dict[str, Weights] = {}
    for node in graph.node:
        place = _weights_of(node)
        if place is not None and place[0] < len(node.input):
            name = _source(node.input[place[0]], sources)
            if name in constants:
                values = numpy_helper.to_array(constants[name])
                found.setdefault(name, Weights(name, values, place[1]))
    return list(found.values())


def with_weights(file: Path, name: str, values: npt.NDArray[np.generic], to: Path) -> Path:
    """Write the model in `file` to `to` with other values for one of its weights."""
    model = onnx.load(file)
    constant = next(constant for constant in model.graph.initializer if constant.name == name)
    constant.CopyFrom(numpy_helper.from_array(values, name))
    to.write_bytes(model.SerializeToString(deterministic=True))
    return to


def _source(name: str, sources: dict[str, str]) -> str:
    while name in sources:
        name = sources[name]
    return name


def _weights_of(node: onnx.NodeProto) -> tuple[int, int] | None:
    """Return which input holds the node's weights and their axis of channels, or None."""
    if node.op_type == "Gemm":
        turned = any(entry.name == "transB" and entry.i for entry in node.attribute)
        return (1, 0 if turned else 1)
    return WEIGHTS.get(node.op_type)
