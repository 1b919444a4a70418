"""LiteRT files opened for their weights.

The one module that touches flatbuffers, which have no types. What the reader gives of a
memoryview are views of it (of a bytearray it copies large tensors), so a weight is changed in
place and the rest of the file stays as it was.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from wherry_controller.builder.onnx_file import Weights

FLOAT32, INT8 = 0, 9  # TensorType in the schema
CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED = 3, 4, 9  # BuiltinOperator
CHANNELS = {CONV_2D: 0, DEPTHWISE_CONV_2D: 3, FULLY_CONNECTED: 0}
TYPES: dict[int, np.dtype[np.generic]] = {FLOAT32: np.dtype(np.float32), INT8: np.dtype(np.int8)}


def weights(file: Path) -> list[Weights]:
    """Return the weights of the model's layers in order."""
    return [Weights(name, view.copy(), axis) for name, view, axis in _views(_buffer(file))]


def with_weights(file: Path, name: str, values: npt.NDArray[np.generic], to: Path) -> Path:
    """Write the model in `file` to `to` with other values for one of its weights."""
    buffer = _buffer(file)
    view = next(view for known, view, _ in _views(buffer) if known == name)
    view[...] = values
    to.write_bytes(buffer)
    return to


def _buffer(file: Path) -> bytearray:
    return bytearray(file.read_bytes())


def _views(buffer: bytearray) -> list[tuple[str, npt.NDArray[np.generic], int]]:
    # LiteRT is an extra of its own, so only a LiteRT profile imports it.
    from ai_edge_quantizer.utils.tfl_flatbuffer_utils import read_model

    model = read_model(memoryview(buffer))
    graph = model.subgraphs[0]
    found = []
    for operator in graph.operators:
        kind = model.operatorCodes[operator.opcodeIndex].builtinCode
        if kind not in CHANNELS:
            continue
        tensor = graph.tensors[operator.inputs[1]]
        data = model.buffers[tensor.buffer].data
        if data is not None and tensor.type in TYPES:
            view = np.frombuffer(data, TYPES[tensor.type]).reshape(tensor.shape)
            found.append((tensor.name.decode(), view, CHANNELS[kind]))
    return found
