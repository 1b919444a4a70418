"""Small nets in the two file formats, made by hand, and runs of them on the real runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from wherry_controller.builder.data.rows import Array, Tensors

CHANNELS, HIDDEN, CLASSES = 8, 16, 4
SIDE = 6
RANDOM = np.random.default_rng(11)
IMAGES = RANDOM.random((12, 1, SIDE, SIDE)).astype(np.float32)
CONV = RANDOM.normal(0, 0.5, (CHANNELS, 1, 3, 3)).astype(np.float32)
DENSE = RANDOM.normal(0, 0.2, (CHANNELS * 16, HIDDEN)).astype(np.float32)
HEAD = RANDOM.normal(0, 0.4, (CLASSES, HIDDEN)).astype(np.float32)
DEAD = 3  # The convolution's channel that changes nothing: the net ignores it.
DENSE[DEAD * 16 : (DEAD + 1) * 16] = 0
CONV[DEAD] *= 100


def a_net(to: Path) -> Path:
    """Write a convolution, a product and a Gemm with transposed weights."""
    nodes = [
        helper.make_node("Conv", ["image", "conv.w"], ["c"], "conv"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("MatMul", ["f", "dense.w"], ["d"], "dense"),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "head.w"], ["scores"], "head", transB=1),
    ]
    return write_onnx(to, nodes, {"conv.w": CONV, "dense.w": DENSE, "head.w": HEAD})


def a_branching_net(to: Path) -> Path:
    """Write a net that never takes the branch that its first layers stand in."""
    branches = {
        name: helper.make_graph(
            [helper.make_node("MatMul", ["image", f"{name}.w"], [f"{name}.y"], f"{name}.layer")],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}.y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.eye(SIDE, dtype=np.float32), f"{name}.w")],
        )
        for name in ("never", "always")
    }
    head = RANDOM.normal(size=(SIDE * SIDE, CLASSES)).astype(np.float32)
    nodes = [
        helper.make_node(
            "If",
            ["asked"],
            ["b"],
            then_branch=branches["never"],
            else_branch=branches["always"],
        ),
        helper.make_node("Flatten", ["b"], ["f"]),
        helper.make_node("MatMul", ["f", "head.w"], ["scores"], "head"),
    ]
    return write_onnx(to, nodes, {"asked": np.array(False), "head.w": head})


def write_onnx(to: Path, nodes: Sequence[NodeProto], constants: Tensors) -> Path:
    """Write a net from `image` to `scores`."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), to)
    return to


def run_onnx(file: Path) -> Tensors:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
    scores: Array = session.run(None, {"image": IMAGES})[0]
    return {"scores": scores}
