"""Small models as files, with variants of them that runners can be asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.agent.tflite import a_dense_int8_model
from tests.builders import a_binding, a_signature, a_tensor
from wherry.signature import BATCH, Datatype, Signature, StatePair
from wherry_controller.builder.variant import Variant

FLOAT = TensorProto.FLOAT
IR, OPSET = 10, 20
WIDE = 64
STEP = 1 / 128
LITE_WEIGHTS = np.array([[1, 0, -1], [0, 1, 0], [0.5, 0, 1], [-1, 0.25, 0]], np.float32)

Held: TypeAlias = npt.NDArray[np.generic]


def save(
    file: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str]],
    weights: dict[str, Held],
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


def a_conv_variant(folder: Path) -> Variant:
    """Make two convolutions of images of three channels, the second one depthwise."""
    random = np.random.default_rng(11)
    weights = {
        "w": random.normal(size=(32, 3, 3, 3)).astype(np.float32),
        "d": random.normal(size=(32, 1, 3, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "d"], ["y"], group=32),
    ]
    image, scores = (BATCH, 3, 16, 16), (BATCH, 32, 12, 12)
    file = save(folder / "conv.onnx", nodes, {"x": [*image]}, {"y": [*scores]}, {**weights})
    signature = a_signature(
        inputs=(a_tensor("image", image),), outputs=(a_tensor("scores", scores),)
    )
    return Variant(file, signature, (a_binding("image", "x"),), (a_binding("scores", "y"),), None)


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


def an_int8_variant(folder: Path, *, largest: int) -> Variant:
    """Make a dense layer of unsigned activations and signed weights up to `largest`.

    Beyond 64 two products can overflow the 16 bits in which processors without VNNI add them.
    """
    weights = np.full((WIDE, 4), largest, np.int8)
    weights[:, 1::2] = -largest
    scales = {"xs": np.float32(STEP), "ws": np.float32(STEP), "xz": np.uint8(0), "wz": np.int8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wf"]),
        helper.make_node("MatMul", ["xf", "wf"], ["y"]),
    ]
    held = {"w": weights, **{name: np.array(value) for name, value in scales.items()}}
    file = save(
        folder / f"int8-{largest}.onnx", nodes, {"x": [BATCH, WIDE]}, {"y": [BATCH, 4]}, held
    )
    signature = a_signature(
        inputs=(a_tensor("image", (BATCH, WIDE)),), outputs=(a_tensor("scores", (BATCH, 4)),)
    )
    return Variant(file, signature, (a_binding("image", "x"),), (a_binding("scores", "y"),), None)


def int8_answers(image: npt.NDArray[np.float32], *, largest: int) -> npt.NDArray[np.float32]:
    """Return what `an_int8_variant` answers where nothing overflows."""
    steps = np.clip(np.rint(image / STEP), 0, 255).sum(axis=1, keepdims=True)
    signs = np.array([[1, -1, 1, -1]])
    return np.asarray(steps * signs * largest * STEP * STEP, np.float32)


def a_lite_variant(folder: Path, *, batch: int) -> Variant:
    """Make `scores = image @ LITE_WEIGHTS` in int8 with a static batch, for LiteRT of any age."""
    model = a_dense_int8_model(
        LITE_WEIGHTS,
        0.0,
        batch=batch,
        input_scale=STEP,
        output_scale=4 * STEP,
        output_zero_point=-3,
    )
    file = folder / "dense.tflite"
    file.write_bytes(model)
    signature = a_signature(
        inputs=(a_tensor("image", (BATCH, 2, 2)),), outputs=(a_tensor("scores", (BATCH, 3)),)
    )
    inputs = (a_binding("image", "x", datatype=Datatype.INT8, scale=STEP),)
    outputs = (a_binding("scores", "y", datatype=Datatype.INT8, scale=4 * STEP, zero_point=-3),)
    return Variant(file, signature, inputs, outputs, batch)


def an_endless_variant(folder: Path) -> Variant:
    """Make a net that never answers: a loop whose condition stays true."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Identity", ["so_far"], ["then"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("so_far", FLOAT, [BATCH, 2]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("then", FLOAT, [BATCH, 2]),
        ],
    )
    return _a_plain_variant(
        folder / "endless.onnx",
        [helper.make_node("Loop", ["", "true", "x"], ["y"], body=body)],
        {"true": np.array(True)},
    )


def a_greedy_variant(folder: Path) -> Variant:
    """Make a net that wants 16 GB for one answer."""
    return _a_plain_variant(
        folder / "greedy.onnx",
        [
            helper.make_node("Expand", ["x", "huge"], ["wide"]),
            helper.make_node("ReduceSum", ["wide", "axis"], ["y"], keepdims=0),
        ],
        {"huge": np.array([2_000_000_000, 1, 2]), "axis": np.array([0])},
    )


def _a_plain_variant(file: Path, nodes: list[onnx.NodeProto], weights: dict[str, Held]) -> Variant:
    save(file, nodes, {"x": [BATCH, 2]}, {"y": [BATCH, 2]}, weights)
    signature = a_signature(outputs=(a_tensor("scores", (BATCH, 2)),))
    return Variant(file, signature, (a_binding("image", "x"),), (a_binding("scores", "y"),), None)
