"""LiteRT files hurt on purpose: output channels zeroed, ranges of activations made wrong.

The one module here that touches flatbuffers, which have no types. What the reader gives of a
memoryview are views of it, so values are changed in place and the rest of the file stays as it
was. Tensors that an operator only moves have one scale on both its sides, and some operators fix
the scale of their output: the runtime refuses a file that says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wherry_controller.builder.data.rows import Array, Indices
from wherry_controller.builder.judging.layer import Floats, Layer

# TensorType and BuiltinOperator in the schema.
TYPES: dict[int, np.dtype[np.generic]] = {
    0: np.dtype(np.float32),
    1: np.dtype(np.float16),
    9: np.dtype(np.int8),
}
INT32, INT8, INT16 = 2, 9, 7
DEQUANTIZE, CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED = 6, 3, 4, 9
TRANSPOSE_CONV, CONV_3D, BATCH_MATMUL, SEQUENCE_LSTM = 67, 132, 126, 44
# The input that holds the weights, and the axis of the output channels in it.
WEIGHTS = {
    CONV_2D: (1, 0),
    DEPTHWISE_CONV_2D: (1, 3),
    FULLY_CONNECTED: (1, 0),
    TRANSPOSE_CONV: (1, 0),
    CONV_3D: (1, 4),
    BATCH_MATMUL: (1, -1),
    SEQUENCE_LSTM: (2, 0),
}
BIASED = {CONV_2D: (0, 2), DEPTHWISE_CONV_2D: (0, 2), FULLY_CONNECTED: (0, 2)}
BIASED |= {TRANSPOSE_CONV: (2, 3), CONV_3D: (0, 2)}
# Reshapes, pools, pads, slices, gathers, splits, packs, selections of the larger or smaller.
MOVING = {1, 2, 5, 17, 19, 20, 21, 22, 23, 26, 34, 36, 37, 38, 39, 43, 45, 49, 55, 57, 60, 61, 64}
MOVING |= {65, 69, 70, 83, 88, 97, 98, 100, 102, 105, 107, 123, 130, 151, 152}
# Softmax, logistic, tanh, normalisation; recurrent layers compute by scales of their own.
FIXING = {11, 14, 16, 25, 28, SEQUENCE_LSTM, 50, 52}


def layers_of(file: Path) -> list[Layer]:
    """Return the layers with weights, in the order of the graph."""
    model = _read(bytearray(file.read_bytes()))
    return [
        Layer(name, partial(_strengths, file, index), partial(_write_zeroed, file, index))
        for index, name, _, _ in _weights(model)
    ]


def ranges_of(file: Path) -> Callable[[float, Path], None] | None:
    """Return what writes a copy with the inner ranges times a factor, None without any."""
    model = _read(bytearray(file.read_bytes()))
    return partial(_write_scaled, file) if _inner(model) else None


def _write_zeroed(file: Path, index: int, channels: Indices, to: Path) -> None:
    buffer = bytearray(file.read_bytes())
    _, view, axis = _weights_at(buffer, index)
    places = (slice(None),) * axis + (channels,)
    view[places] = 0  # Quantized weights are symmetric: their zero point is 0.
    to.write_bytes(buffer)


def _write_scaled(file: Path, factor: float, to: Path) -> None:
    """Write the model as if calibrated on rows of another scale; biases keep their values."""
    buffer = bytearray(file.read_bytes())
    model = _read(buffer)
    graph, scaled = model.subgraphs[0], _inner(model)
    for index in scaled:
        graph.tensors[index].quantization.scale[...] *= np.float32(factor)
    for index in {bias for taken, bias in _biased(model) if taken in scaled}:
        bias = graph.tensors[index]
        bias.quantization.scale[...] *= np.float32(factor)
        values = np.frombuffer(model.buffers[bias.buffer].data, np.int32)
        values[...] = np.rint(values / factor).astype(np.int32)
    to.write_bytes(buffer)


def _strengths(file: Path, index: int) -> Floats:
    tensor, view, axis = _weights_at(bytearray(file.read_bytes()), index)
    sizes = np.moveaxis(np.abs(view.astype(np.float64)), axis, 0)
    strengths = sizes.reshape(len(sizes), -1).sum(axis=1)
    scale = tensor.quantization.scale if tensor.quantization is not None else None
    if scale is not None and len(scale) == len(strengths):
        strengths = strengths * scale
    return np.asarray(strengths, np.float64)


def _weights_at(buffer: bytearray, index: int) -> tuple[Any, Array, int]:
    model = _read(buffer)
    found = next(entry for entry in _weights(model) if entry[0] == index)
    _, _, tensor, axis = found
    view: Array = np.frombuffer(model.buffers[tensor.buffer].data, TYPES[int(tensor.type)])
    return tensor, view.reshape(tensor.shape), axis


def _weights(model: Any) -> Iterator[tuple[int, str, Any, int]]:  # noqa: ANN401
    """Yield each operator with constant weights: its index, its name, their tensor, their axis."""
    graph = model.subgraphs[0]
    for index, operator in enumerate(graph.operators):
        kind = _kind(model, operator)
        if kind not in WEIGHTS:
            continue
        position, axis = WEIGHTS[kind]
        if kind == BATCH_MATMUL and operator.builtinOptions.adjY:
            axis = -2
        tensor = graph.tensors[_behind_half(model, operator.inputs[position])]
        if model.buffers[tensor.buffer].data is not None and tensor.type in TYPES:
            name = graph.tensors[operator.outputs[0]].name.decode()
            yield index, name, tensor, axis % len(tensor.shape)


def _behind_half(model: Any, index: int) -> int:  # noqa: ANN401
    """Return the constant in half precision that a tensor is made of, or the tensor itself."""
    for operator in model.subgraphs[0].operators:
        if _kind(model, operator) == DEQUANTIZE and operator.outputs[0] == index:
            return int(operator.inputs[0])
    return int(index)


def _inner(model: Any) -> set[int]:  # noqa: ANN401
    """Return the quantized tensors of which the scale is free: neither input nor output.

    Where every one is bound to an input or output by operators that only move, the outputs are
    taken: what reads them goes by the manifest.
    """
    graph = model.subgraphs[0]
    group = _groups(model)
    quantized = {index for index in range(len(graph.tensors)) if _is_activation(model, index)}
    fixing = (operator for operator in graph.operators if _kind(model, operator) in FIXING)
    fixed = {group[index] for operator in fixing for index in operator.outputs}
    taken, given = ({group[index] for index in side} for side in (graph.inputs, graph.outputs))
    free = {index for index in quantized if group[index] not in fixed | taken | given}
    return free or {index for index in quantized if group[index] not in fixed | taken}


def _groups(model: Any) -> list[int]:  # noqa: ANN401
    """Return for each tensor the first of those that must have its scale."""
    graph = model.subgraphs[0]
    group = list(range(len(graph.tensors)))
    for operator in graph.operators:
        if _kind(model, operator) not in MOVING:
            continue
        sides = (*operator.inputs, *operator.outputs)
        ends = {group[index] for index in sides if _is_activation(model, index)}
        group = [min(ends) if one in ends else one for one in group]
    return group


def _is_activation(model: Any, index: int) -> bool:  # noqa: ANN401
    if index < 0:
        return False
    tensor = model.subgraphs[0].tensors[index]
    scale = tensor.quantization.scale if tensor.quantization is not None else None
    is_integer = tensor.type in (INT8, INT16) and scale is not None and len(scale) == 1
    return is_integer and model.buffers[tensor.buffer].data is None


def _biased(model: Any) -> Iterator[tuple[int, int]]:  # noqa: ANN401
    """Yield the input and the integer bias of each operator that has one."""
    graph = model.subgraphs[0]
    for operator in graph.operators:
        taken, bias = BIASED.get(_kind(model, operator), (0, len(operator.inputs)))
        if bias < len(operator.inputs) and operator.inputs[bias] >= 0:
            tensor = graph.tensors[operator.inputs[bias]]
            if tensor.type == INT32 and model.buffers[tensor.buffer].data is not None:
                yield int(operator.inputs[taken]), int(operator.inputs[bias])


def _kind(model: Any, operator: Any) -> int:  # noqa: ANN401
    code = model.operatorCodes[operator.opcodeIndex]
    return max(int(code.builtinCode), int(code.deprecatedBuiltinCode))


def _read(buffer: bytearray) -> Any:  # noqa: ANN401
    from ai_edge_quantizer.utils.tfl_flatbuffer_utils import read_model

    return read_model(memoryview(buffer))
