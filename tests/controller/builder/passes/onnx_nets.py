"""Small ONNX nets for the tests of passes, with weights that are the same at each run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from wherry.profile import Precision, Runtime
from wherry_controller.core.recipe import Recipe

Row = dict[str, npt.NDArray[np.generic]]
Shape = tuple[int | str, ...]

OPSET, IR = 20, 10


def a_recipe(precision: Precision, *kept_float: str, max_opset: int = OPSET) -> Recipe:
    return Recipe(
        runtime=Runtime.ONNXRUNTIME,
        precision=precision,
        max_ir=IR,
        max_opset=max_opset,
        kept_float=kept_float,
    )


def weights(name: str, *shape: int) -> TensorProto:
    random = np.random.default_rng(sum(map(ord, name)))
    fan = int(np.prod(shape[1:])) if len(shape) > 1 else shape[0]
    return numpy_helper.from_array(
        (random.normal(size=shape) / np.sqrt(fan)).astype(np.float32), name
    )


def a_model(
    nodes: Sequence[NodeProto],
    constants: Sequence[TensorProto],
    given: Shape,
    result: Shape,
    *,
    opset: int = OPSET,
    ir: int = IR,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, result)],
        list(constants),
    )
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir)


def conv_net(*, opset: int = OPSET, ir: int = IR) -> onnx.ModelProto:
    """Return two convolutions, a pool and a Gemm, with names; most weights are convolutions'."""
    make = helper.make_node
    nodes = [
        make("Conv", ["x", "first.weight"], ["a"], name="first", pads=[1, 1, 1, 1]),
        make("Relu", ["a"], ["b"], name="relu"),
        make("Conv", ["b", "second.weight", "second.bias"], ["c"], name="second"),
        make("Relu", ["c"], ["d"], name="relu2"),
        make("GlobalAveragePool", ["d"], ["e"], name="pool"),
        make("Flatten", ["e"], ["f"], name="flatten"),
        make("Gemm", ["f", "head.weight", "head.bias"], ["y"], name="head", transB=1),
    ]
    constants = [
        weights("first.weight", 16, 3, 3, 3),
        weights("second.weight", 32, 16, 3, 3),
        weights("second.bias", 32),
        weights("head.weight", 10, 32),
        weights("head.bias", 10),
    ]
    return a_model(nodes, constants, ("batch", 3, 8, 8), ("batch", 10), opset=opset, ir=ir)


def product_net() -> onnx.ModelProto:
    """Return a MatMul and a Gemm whose bias is one row, as some exporters write it."""
    make = helper.make_node
    nodes = [
        make("MatMul", ["x", "first.weight"], ["a"], name="first"),
        make("Relu", ["a"], ["b"], name="relu"),
        make("Gemm", ["b", "second.weight", "second.bias"], ["y"], name="second"),
    ]
    constants = [
        weights("first.weight", 32, 64),
        weights("second.weight", 64, 32),
        weights("second.bias", 1, 32),
    ]
    return a_model(nodes, constants, ("batch", 32), ("batch", 32))


def lstm_net() -> onnx.ModelProto:
    """Return an LSTM over three steps."""
    make = helper.make_node
    nodes = [
        make("Transpose", ["x"], ["s"], name="turn", perm=[1, 0, 2]),
        make("LSTM", ["s", "w", "r"], ["", "h"], name="lstm", hidden_size=16),
        make("Reshape", ["h", "flat"], ["y"], name="flatten"),
    ]
    flat = numpy_helper.from_array(np.array([-1, 16], np.int64), "flat")
    constants = [weights("w", 1, 64, 8), weights("r", 1, 64, 16), flat]
    return a_model(nodes, constants, ("batch", 3, 8), ("batch", 16))


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    file = folder / "net.onnx"
    onnx.save(model, file)
    return file


def rows(model: onnx.ModelProto, count: int, scale: float = 1.0) -> list[Row]:
    """Return single rows for the net's input `x`."""
    axes = model.graph.input[0].type.tensor_type.shape.dim
    shape = [axis.dim_value or 1 for axis in axes]
    random = np.random.default_rng(7)
    return [{"x": (scale * random.normal(size=shape)).astype(np.float32)} for _ in range(count)]


def answers(file: Path, given: Sequence[Row]) -> npt.NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, row)[0] for row in given])
