"""ONNX models that would harm whoever runs them, each with the tensors of `tests.agent.bundles`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.agent.bundles import weights

Constant = NDArray[np.generic]
FOR_EVER = 1 << 62
TEN_GB = 2_500_000_000  # Values of four bytes.


def a_model(
    nodes: Sequence[onnx.NodeProto] = (),
    constants: Mapping[str, Constant] | None = None,
    *,
    last: str = "y0",
    opset: int = 20,
    ir_version: int = 10,
    external: tuple[onnx.TensorProto, ...] = (),
) -> bytes:
    """Return a model that computes `logits_of` as `y0`, then `nodes`, and answers with `last`."""
    values: dict[str, Constant] = {
        "w": weights(0),
        "b": np.zeros(4, np.float32),
        **(constants or {}),
    }
    whole = [
        helper.make_node("Flatten", ["x"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "w", "b"], ["y0"]),
        *nodes,
        helper.make_node("Identity", [last], ["y"]),
    ]
    graph = helper.make_graph(
        whole,
        "hostile",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [*(numpy_helper.from_array(value, name) for name, value in values.items()), *external],
    )
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, ir_version=ir_version, opset_imports=opsets)
    return bytes(model.SerializeToString())


def endless_loop() -> bytes:
    """Return a model whose answer comes after 2^62 rounds of a loop."""
    rounds: dict[str, Constant] = {"rounds": np.array(FOR_EVER), "on": np.array(True)}
    loop = helper.make_node("Loop", ["rounds", "on", "y0"], ["y1"], body=_round())
    return a_model([loop], rounds, last="y1")


def loop_above(limit: float) -> bytes:
    """Return a sound model that never answers an image with a value above `limit`."""
    constants: dict[str, Constant] = {
        "limit": np.array([limit], np.float32),
        "axes": np.array([0, 1], np.int64),
        "for_ever": np.array([FOR_EVER]),
        "on": np.array(True),
    }
    nodes = [
        helper.make_node("ReduceMax", ["flat", "axes"], ["largest"], keepdims=0),
        helper.make_node("Greater", ["largest", "limit"], ["is_above"]),
        helper.make_node("Cast", ["is_above"], ["one"], to=TensorProto.INT64),
        helper.make_node("Mul", ["one", "for_ever"], ["count"]),
        helper.make_node("Squeeze", ["count"], ["rounds"]),
        helper.make_node("Loop", ["rounds", "on", "y0"], ["y1"], body=_round()),
    ]
    return a_model(nodes, constants, last="y1")


def nested_loops(depth: int = 4) -> bytes:
    """Return a model with loops in loops, each of which ends."""
    constants: dict[str, Constant] = {"rounds": np.array(1 << 20), "on": np.array(True)}
    body = _round()
    for level in range(depth):
        inner = helper.make_node("Loop", ["rounds", "on", "v"], [f"v{level}"], body=body)
        body = _round(inner, last=f"v{level}")
    return a_model(
        [helper.make_node("Loop", ["rounds", "on", "y0"], ["y1"], body=body)], constants, last="y1"
    )


def memory_bomb() -> bytes:
    """Return a model with a constant of 10 GB that takes 100 bytes in the file."""
    return _filled({"shape": np.array([TEN_GB], np.int64)}, [], shape="shape")


def growing_bomb() -> bytes:
    """Return a model that takes 2.5 GB for each row, which nothing can fold before."""
    constants = {"each": np.array([TEN_GB // 4], np.int64), "first": np.array([0], np.int64)}
    nodes = [
        helper.make_node("Shape", ["x"], ["axes"]),
        helper.make_node("Gather", ["axes", "first"], ["rows"]),
        helper.make_node("Mul", ["rows", "each"], ["shape"]),
    ]
    return _filled(constants, nodes, shape="shape")


def impossible_shape() -> bytes:
    """Return a model with a constant of a negative number of values."""
    return _filled({"shape": np.array([-(1 << 40)], np.int64)}, [], shape="shape")


def overflowing_shape() -> bytes:
    """Return a model with a constant whose size overflows 64 bits."""
    return _filled({"shape": np.array([1 << 40, 1 << 40], np.int64)}, [], shape="shape")


def chain(length: int) -> bytes:
    """Return a model with a chain of nodes that adds nothing, each with a constant of its own.

    onnxruntime loads it in a time that grows by the square of their number.
    """
    constants = {f"k{step}": np.zeros((1, 4), np.float32) for step in range(length)}
    nodes = [
        helper.make_node("Add", [f"y{step}", f"k{step}"], [f"y{step + 1}"])
        for step in range(length)
    ]
    return a_model(nodes, constants, last=f"y{length}")


def not_a_number() -> bytes:
    """Return a model that always answers NaN."""
    zero = {"zero": np.array(0, np.float32)}
    nodes = [
        helper.make_node("Mul", ["y0", "zero"], ["nothing"]),
        helper.make_node("Div", ["nothing", "zero"], ["y1"]),
    ]
    return a_model(nodes, zero, last="y1")


def infinite() -> bytes:
    """Return a model that always answers infinities."""
    return a_model(
        [helper.make_node("Add", ["y0", "much"], ["y1"]), helper.make_node("Exp", ["y1"], ["y2"])],
        {"much": np.array(1000, np.float32)},
        last="y2",
    )


def external_data(location: str, *, offset: int = 0, length: int = 16) -> bytes:
    """Return a model that wants four numbers out of another file of the device."""
    tensor = TensorProto(name="stolen", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return a_model(
        [helper.make_node("Add", ["y0", "stolen"], ["y1"])], last="y1", external=(tensor,)
    )


def unknown_operator(domain: str = "") -> bytes:
    node = helper.make_node("RunShellCommand", ["y0"], ["y1"], domain=domain)
    return a_model([node], last="y1")


def cycle() -> bytes:
    nodes = [
        helper.make_node("Add", ["y0", "y2"], ["y1"]),
        helper.make_node("Add", ["y1", "y0"], ["y2"]),
    ]
    return a_model(nodes, last="y2")


def twice_made() -> bytes:
    nodes = [helper.make_node("Neg", ["y0"], ["y1"]), helper.make_node("Abs", ["y0"], ["y1"])]
    return a_model(nodes, last="y1")


def wrong_type() -> bytes:
    return a_model([helper.make_node("Not", ["y0"], ["y1"])], last="y1")


def wrong_rank() -> bytes:
    return a_model(
        [helper.make_node("MatMul", ["y0", "tall"], ["y1"])],
        {"tall": np.zeros((7, 4), np.float32)},
        last="y1",
    )


def other_names() -> bytes:
    model = onnx.load_from_string(a_model())
    model.graph.input[0].name = model.graph.node[0].input[0] = "z"
    return bytes(model.SerializeToString())


def _filled(constants: Mapping[str, Constant], nodes: list[onnx.NodeProto], *, shape: str) -> bytes:
    """Return a model that makes a tensor of zeros of `shape` and adds its sum to the answer."""
    more = [
        helper.make_node("ConstantOfShape", [shape], ["huge"]),
        helper.make_node("ReduceSum", ["huge"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["y0", "nothing"], ["y1"]),
    ]
    return a_model([*nodes, *more], constants, last="y1")


def _round(inner: onnx.NodeProto | None = None, *, last: str = "v") -> onnx.GraphProto:
    """Return the body of a loop that goes on and keeps its value."""
    return helper.make_graph(
        [
            *([inner] if inner else []),
            helper.make_node("Identity", ["go"], ["goes_on"]),
            helper.make_node("Identity", [last], ["kept"]),
        ],
        "round",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("kept", TensorProto.FLOAT, None),
        ],
    )
