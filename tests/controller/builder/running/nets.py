"""Small models as files, with variants of them that runners can be asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.builders import a_binding, a_signature, a_tensor
from wherry.signature import BATCH, Signature, StatePair
from wherry_controller.builder.variant import Variant

FLOAT = TensorProto.FLOAT
IR, OPSET = 10, 20


def save(
    file: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str]],
    weights: dict[str, npt.NDArray[np.float32]],
) -> Path:
    held = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "net", _infos(inputs), _infos(outputs), held)
    model = helper.make_model(graph, ir_version=IR, opset_imports=[helper.make_opsetid("", OPSET)])
    onnx.save(model, file)
    return file


def _infos(side: dict[str, list[int | str]]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in side.items()]


def a_dense_variant(folder: Path, *, width: int = 2, static_batch: int | None = None) -> Variant:
    """Make `scores = image @ W` with W of `width` rows and `width` columns, counted from 0."""
    weights = np.arange(width * width, dtype=np.float32).reshape(width, width)
    rows: int | str = static_batch or BATCH
    file = save(
        folder / "dense.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": [rows, width]},
        {"y": [rows, width]},
        {"w": weights},
    )
    signature = a_signature(
        inputs=(a_tensor("image", (BATCH, width)),), outputs=(a_tensor("scores", (BATCH, width)),)
    )
    inputs, outputs = (a_binding("image", "x"),), (a_binding("scores", "y"),)
    return Variant(file, signature, inputs, outputs, static_batch)


def a_running_sum(folder: Path) -> Variant:
    """Make a net with a state: each step answers the sum of the sequence so far."""
    file = save(
        folder / "sum.onnx",
        [
            helper.make_node("Add", ["x", "before"], ["after"]),
            helper.make_node("Identity", ["after"], ["y"]),
        ],
        {"x": [BATCH, 1], "before": [BATCH, 1]},
        {"y": [BATCH, 1], "after": [BATCH, 1]},
        {},
    )
    signature = Signature(
        (a_tensor("number", (BATCH, 1)), a_tensor("state", (BATCH, 1))),
        (a_tensor("sum", (BATCH, 1)), a_tensor("next", (BATCH, 1))),
        states=(StatePair("next", "state"),),
    )
    inputs = (a_binding("number", "x"), a_binding("state", "before"))
    outputs = (a_binding("sum", "y"), a_binding("next", "after"))
    return Variant(file, signature, inputs, outputs, None)
