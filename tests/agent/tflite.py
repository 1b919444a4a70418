"""A LiteRT file with one dense int8 layer, written by the format's own schema."""

from __future__ import annotations

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

INT8, INT32 = schema.TensorType.INT8, schema.TensorType.INT32


def a_dense_int8_model(
    weights: NDArray[np.float32],
    shift: float,
    *,
    batch: int,
    input_scale: float,
    output_scale: float,
    output_zero_point: int,
) -> bytes:
    """Return a model that takes `x` int8 [batch, 2, 2] and gives `y` int8 [batch, columns].

    `weights` [4, columns] apply to the four values of a row in order; `shift` is added to each.
    """
    weight_scale = float(np.abs(weights).max()) / 127
    matrix = np.round(weights.T / weight_scale).astype(np.int8)
    bias_scale = input_scale * weight_scale
    bias = np.full(len(matrix), round(shift / bias_scale), np.int32)
    graph = schema.SubGraphT()
    graph.tensors = [
        _tensor("x", INT8, (batch, 2, 2), 0, input_scale, 0),
        _tensor("w", INT8, matrix.shape, 1, weight_scale, 0),
        _tensor("b", INT32, bias.shape, 2, bias_scale, 0),
        _tensor("y", INT8, (batch, len(matrix)), 0, output_scale, output_zero_point),
    ]
    graph.inputs, graph.outputs, graph.operators = [0], [3], [_dense()]
    return _file(graph, [b"", matrix.tobytes(), bias.tobytes()])


def _tensor(
    name: str, kind: int, shape: tuple[int, ...], buffer: int, scale: float, zero_point: int
) -> schema.TensorT:
    tensor = schema.TensorT()
    tensor.name, tensor.type, tensor.shape, tensor.buffer = name, kind, list(shape), buffer
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale = [scale]
    tensor.quantization.zeroPoint = [zero_point]
    return tensor


def _dense() -> schema.OperatorT:
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0, 1, 2], [3]
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    return operator


def _file(graph: schema.SubGraphT, buffers: list[bytes]) -> bytes:
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 4  # The first with int8 weights.
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = []
    for data in buffers:
        buffer = schema.BufferT()
        buffer.data = list(data)
        model.buffers.append(buffer)
    return pack(model)


def pack(model: schema.ModelT) -> bytes:
    """Return the file of a model."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
