"""Writes the models that runtimes are probed with: `python -m tests.vectors.probes`.

Each computes what is known without it (`wherry_agent.probe`), by the kernels in which runtimes use
what a processor has or lacks: convolution and products, in float and in int8.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.agent.tflite import a_dense_int8_model
from wherry_agent import probe

CHANNELS = 8


def an_onnx_model() -> bytes:
    """Return a model that answers the mean of each row's values, in float and by int8.

    `x` is [1, 8, 8, 8]; `float` [1, 8] is 72 times the mean, summed over eight channels; `integer`
    [1, 8] comes near it.
    """
    weights: dict[str, NDArray[np.generic]] = {
        "kernel": np.ones((CHANNELS, CHANNELS, 3, 3), np.float32),
        "ones": np.ones((CHANNELS, CHANNELS), np.float32),
        "int_ones": np.ones((CHANNELS, CHANNELS), np.int8),
        "axes": np.array([2, 3], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["windows"]),
        helper.make_node("ReduceMean", ["windows", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "ones"], ["float"]),
        helper.make_node("DynamicQuantizeLinear", ["means"], ["steps", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["steps", "int_ones", "zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["unscaled"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["unscaled", "scale"], ["integer"]),
    ]
    shape, answer = [1, CHANNELS, 8, 8], [1, CHANNELS]
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info("float", TensorProto.FLOAT, answer),
            helper.make_tensor_value_info("integer", TensorProto.FLOAT, answer),
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, ir_version=8, opset_imports=opsets)
    return bytes(model.SerializeToString())


def a_lite_model() -> bytes:
    """Return a dense int8 layer that answers twice its input, in steps of an eighth."""
    return a_dense_int8_model(
        np.eye(4, dtype=np.float32) * 2,
        0.0,
        batch=1,
        input_scale=probe.INPUT_SCALE,
        output_scale=probe.OUTPUT_SCALE,
        output_zero_point=0,
    )


def write(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / probe.ONNX_FILE.name).write_bytes(an_onnx_model())
    (folder / probe.LITE_FILE.name).write_bytes(a_lite_model())


if __name__ == "__main__":
    write(probe.ONNX_FILE.parent)
