"""LiteRT files opened for their weights: tests look at how they are stored, and change them.

What the reader gives of a memoryview are views of it (of a bytearray it copies large tensors), so
a weight is changed in place and the rest of the file stays as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from tests.controller.builder.passes.onnx_weights import Weights

if TYPE_CHECKING:
    from ai_edge_litert.schema_py_generated import ModelT, OperatorT, TensorT

Values: TypeAlias = npt.NDArray[np.generic]

# BuiltinOperator and TensorType in the schema
CONV_2D, DEPTHWISE_CONV_2D, DEQUANTIZE, EMBEDDING_LOOKUP, FULLY_CONNECTED = 3, 4, 6, 7, 9
GATHER, UNIDIRECTIONAL_SEQUENCE_LSTM, TRANSPOSE_CONV, BATCH_MATMUL, CONV_3D = 36, 44, 67, 126, 132
FLOAT32, FLOAT16, INT8, INT4 = 0, 1, 9, 17

# Where an operator has weights among its inputs, and on which of their axes its channels lie.
WEIGHTS: dict[int, tuple[range, int]] = {
    CONV_2D: (range(1, 2), 0),
    CONV_3D: (range(1, 2), 4),
    DEPTHWISE_CONV_2D: (range(1, 2), 3),
    TRANSPOSE_CONV: (range(1, 2), 0),
    FULLY_CONNECTED: (range(1, 2), 0),
    BATCH_MATMUL: (range(1, 2), -1),
    EMBEDDING_LOOKUP: (range(1, 2), 1),
    GATHER: (range(1), -1),
    UNIDIRECTIONAL_SEQUENCE_LSTM: (range(1, 9), 0),
}
TYPES: dict[int, np.dtype[np.generic]] = {
    FLOAT32: np.dtype(np.float32),
    FLOAT16: np.dtype(np.float16),
    INT8: np.dtype(np.int8),
    INT4: np.dtype(np.uint8),  # Two values a byte.
}


def weights(file: Path) -> list[Weights]:
    """Return the weights of the model's layers in order, quantized ones as they are stored."""
    model = _read(memoryview(file.read_bytes()))
    return [Weights(_name(tensor), _values(model, tensor), axis) for tensor, axis in _found(model)]


def with_weights(file: Path, name: str, values: Values, to: Path) -> Path:
    """Write the model in `file` to `to` with other values for one of its weights."""
    buffer = bytearray(file.read_bytes())
    model = _read(memoryview(buffer))
    tensor = next(tensor for tensor, _ in _found(model) if _name(tensor) == name)
    stored = _pack(values) if tensor.type == INT4 else values.reshape(-1)
    _view(model, tensor)[...] = stored
    to.write_bytes(buffer)
    return to


def _read(content: memoryview) -> ModelT:
    # LiteRT is an extra of its own, so only a LiteRT profile imports it.
    from ai_edge_quantizer.utils.tfl_flatbuffer_utils import read_model

    return read_model(content)


def _found(model: ModelT) -> Iterator[tuple[TensorT, int]]:
    """Yield each weight once, though unrolled layers share it, with its axis of channels."""
    graph, seen = model.subgraphs[0], set[int]()
    codes = [max(one.builtinCode, one.deprecatedBuiltinCode) for one in model.operatorCodes]
    makers = {tensor: one for one in graph.operators for tensor in one.outputs}
    for operator in graph.operators:
        places, axis = WEIGHTS.get(codes[operator.opcodeIndex], (range(0), 0))
        if codes[operator.opcodeIndex] == BATCH_MATMUL and _is_turned(operator):
            axis = -2
        for index in (operator.inputs[place] for place in places if place < len(operator.inputs)):
            tensor = graph.tensors[_stored(index, makers, codes)]
            if index >= 0 and _is_weight(model, tensor) and tensor.buffer not in seen:
                seen.add(tensor.buffer)
                yield tensor, axis


def _stored(index: int, makers: dict[int, OperatorT], codes: list[int]) -> int:
    """Follow a weight to where it is stored, if it is unpacked to float before each use."""
    maker = makers.get(index)
    is_unpacked = maker is not None and codes[maker.opcodeIndex] == DEQUANTIZE
    return int(maker.inputs[0]) if maker is not None and is_unpacked else index


def _is_turned(operator: OperatorT) -> bool:
    return bool(operator.builtinOptions is not None and operator.builtinOptions.adjY)


def _is_weight(model: ModelT, tensor: TensorT) -> bool:
    is_matrix = tensor.shape is not None and len(tensor.shape) > 1
    return is_matrix and tensor.type in TYPES and model.buffers[tensor.buffer].data is not None


def _name(tensor: TensorT) -> str:
    return str(tensor.name.decode())


def _view(model: ModelT, tensor: TensorT) -> Values:
    return np.frombuffer(model.buffers[tensor.buffer].data, TYPES[tensor.type])


def _values(model: ModelT, tensor: TensorT) -> Values:
    view = _view(model, tensor)
    whole = _unpack(view) if tensor.type == INT4 else view
    return whole[: int(np.prod(tensor.shape))].reshape(tensor.shape).copy()


def _unpack(packed: Values) -> npt.NDArray[np.int8]:
    """Return int4 values, the lower half of each byte first, as int8."""
    low, high = (packed.view(np.int8) << 4) >> 4, packed.view(np.int8) >> 4
    return np.stack([low, high], axis=1).reshape(-1)


def _pack(values: Values) -> npt.NDArray[np.uint8]:
    flat = values.reshape(-1).astype(np.int8).view(np.uint8) & np.uint8(0x0F)
    even = np.append(flat, np.zeros(len(flat) % 2, np.uint8))
    packed: npt.NDArray[np.uint8] = even[0::2] | (even[1::2] << np.uint8(4))
    return packed
