"""The models that the agent's bench serves, as ONNX files and as bundles of a device.

    tiny    1 KiB in, next to nothing to compute
    wide    600 KB in (an image of 3 x 224 x 224), next to nothing to compute
    busy    1 KiB in, about 5 ms to compute
    heavy   600 KB in, about 6 ms to compute
    stored  1 KiB in, 5 MB of weights

All take `x` [batch, ...] and give `y` [batch, 10], so one request suits every server. `shift` is
added to every score, which tells bundles apart by what they answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from wherry.blobs import describe
from wherry.bundle import Bundle, seal
from wherry.manifest import Binding, Golden, GoldenTensor, Manifest, Report
from wherry.names import Digest, ModelName, ProfileName, VersionName
from wherry.profile import Arch, Precision, Profile, Runtime
from wherry.signature import Datatype, Signature, Tensor

Floats = NDArray[np.float32]

CLASSES = 10
IMAGE = (3, 224, 224)
ROW = (256,)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
LONGEST_BATCH = 8
GOLDEN_ROWS = 2
STEPS = 23  # Of the heavy net; each is about 0.2 ms here.
CHANNELS = 64
BUSY_STEPS, BUSY_CHANNELS, SIDE = 15, 128, 16

Net = Callable[[float], bytes]


def tiny(shift: float = 0.0) -> bytes:
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"])]
    return _model(nodes, {"w": _weights(*ROW, CLASSES), "b": _bias(shift)}, ROW)


def wide(shift: float = 0.0) -> bytes:
    """Look at each image through a window of every sixteenth row and column."""
    nodes = [
        helper.make_node("Slice", ["x", "from", "to", "axes", "steps"], ["few"]),
        helper.make_node("Flatten", ["few"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["y"]),
    ]
    constants = {
        "from": np.array([0, 0], np.int64),
        "to": np.array(IMAGE[1:], np.int64),
        "axes": np.array([2, 3], np.int64),
        "steps": np.array([16, 16], np.int64),
    }
    return _model(nodes, {**constants, "w": _weights(588, CLASSES), "b": _bias(shift)}, IMAGE)


def heavy(shift: float = 0.0) -> bytes:
    constants = {"stem": _weights(CHANNELS, 3, 8, 8), "b": _bias(shift)}
    nodes = [helper.make_node("Conv", ["x", "stem"], ["h0"], strides=[8, 8])]
    for step in range(STEPS):
        constants[f"w{step}"] = _weights(CHANNELS, CHANNELS, 3, 3)
        nodes += [
            helper.make_node("Conv", [f"h{step}", f"w{step}"], [f"c{step}"], pads=[1] * 4),
            helper.make_node("Relu", [f"c{step}"], [f"h{step + 1}"]),
        ]
    constants["w"] = _weights(CHANNELS, CLASSES)
    nodes += [
        helper.make_node("GlobalAveragePool", [f"h{STEPS}"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["y"]),
    ]
    return _model(nodes, constants, IMAGE)


def busy(shift: float = 0.0) -> bytes:
    """Look at each row as a small picture, and compute as long as the heavy net does."""
    constants: dict[str, NDArray[np.generic]] = {
        "picture": np.array([-1, 1, SIDE, SIDE], np.int64),
        "stem": _weights(BUSY_CHANNELS, 1, 3, 3),
        "b": _bias(shift),
    }
    nodes = [
        helper.make_node("Reshape", ["x", "picture"], ["image"]),
        helper.make_node("Conv", ["image", "stem"], ["h0"], pads=[1] * 4),
    ]
    for step in range(BUSY_STEPS):
        constants[f"w{step}"] = _weights(BUSY_CHANNELS, BUSY_CHANNELS, 3, 3)
        nodes += [
            helper.make_node("Conv", [f"h{step}", f"w{step}"], [f"c{step}"], pads=[1] * 4),
            helper.make_node("Relu", [f"c{step}"], [f"h{step + 1}"]),
        ]
    constants["w"] = _weights(BUSY_CHANNELS, CLASSES)
    nodes += [
        helper.make_node("GlobalAveragePool", [f"h{BUSY_STEPS}"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["y"]),
    ]
    return _model(nodes, constants, ROW)


def stored(shift: float = 0.0) -> bytes:
    sides = {"w0": _weights(*ROW, 1024), "w1": _weights(1024, 1024), "w": _weights(1024, CLASSES)}
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h0"]),
        helper.make_node("Relu", ["h0"], ["r0"]),
        helper.make_node("MatMul", ["r0", "w1"], ["h1"]),
        helper.make_node("Relu", ["h1"], ["r1"]),
        helper.make_node("Gemm", ["r1", "w", "b"], ["y"]),
    ]
    return _model(nodes, {**sides, "b": _bias(shift)}, ROW)


NETS: dict[str, Net] = {"tiny": tiny, "wide": wide, "busy": busy, "heavy": heavy, "stored": stored}
SHAPES = {"tiny": ROW, "wide": IMAGE, "busy": ROW, "heavy": IMAGE, "stored": ROW}


def rows_of(name: str, count: int = 1) -> Floats:
    """Return rows as a camera gives them: numbers from 0 to 1 that nobody can guess."""
    return np.random.default_rng(11).random((count, *SHAPES[name]), np.float32)


def session_of(model: bytes | Path) -> onnxruntime.InferenceSession:
    """Return the model with one thread that does not spin, as an agent loads it."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    given = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def a_bundle_of(name: str, shift: float = 0.0) -> Bundle:
    """Return the net as a bundle; its golden outputs are what it computes here."""
    data, rows = NETS[name](shift), rows_of(name, GOLDEN_ROWS)
    scores: Floats = session_of(data).run(["y"], {"x": rows})[0]
    file, given, asked = (describe(one) for one in (data, rows.tobytes(), scores.tobytes()))
    manifest = Manifest(
        model=ModelName(name),
        version=VersionName(f"shift-{shift:g}"),
        lineage=Digest("0" * 64),
        profile=_profile(),
        precision=Precision.FP32,
        recipe=("bench",),
        signature=Signature(
            inputs=(Tensor("x", Datatype.FP32, ("batch", *SHAPES[name])),),
            outputs=(Tensor("y", Datatype.FP32, ("batch", CLASSES)),),
            max_batch=LONGEST_BATCH,
        ),
        inputs=(Binding(name="x", runtime_name="x", datatype=Datatype.FP32),),
        outputs=(Binding(name="y", runtime_name="y", datatype=Datatype.FP32),),
        static_batch=None,
        files={"model": file},
        golden=Golden(
            inputs=(GoldenTensor("x", Datatype.FP32, rows.shape, given),),
            outputs=(GoldenTensor("y", Datatype.FP32, scores.shape, asked),),
            tolerance=1e-3,
        ),
        report=_report(len(data)),
        class_output="y",
    )
    blobs = {file.digest: data, given.digest: rows.tobytes(), asked.digest: scores.tobytes()}
    return seal(manifest, blobs, KEY)


def _profile() -> Profile:
    return Profile(
        name=ProfileName("test"),
        arch=Arch.X86_64,
        runtime=Runtime.ONNXRUNTIME,
        runtime_floor="1.0",
        runtime_below="99",
        max_batch=LONGEST_BATCH,
    )


def _report(size_bytes: int) -> Report:
    return Report(
        metric="accuracy",
        value=1.0,
        reference_value=1.0,
        drop_low=0.0,
        drop_high=0.0,
        agreement=1.0,
        samples=GOLDEN_ROWS,
        size_bytes=size_bytes,
        evaluated_on="a bench",
    )


def _weights(*shape: int) -> Floats:
    chance = np.random.default_rng(sum(shape))
    fan = max(1, int(np.prod(shape[1:]))) if len(shape) > 2 else shape[0]
    drawn: Floats = (chance.standard_normal(shape) / np.sqrt(fan)).astype(np.float32)
    return drawn


def _bias(shift: float) -> Floats:
    return np.full(CLASSES, shift, np.float32)


def _model(
    nodes: list[NodeProto], constants: Mapping[str, NDArray[np.generic]], shape: tuple[int, ...]
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made: ModelProto = helper.make_model(
        graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]
    )
    return bytes(made.SerializeToString())
