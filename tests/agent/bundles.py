"""Small real bundles for the agent's tests: ONNX and LiteRT models with chosen behaviour.

Every model takes `image` [batch, 2, 2] and gives `logits` [batch, 4], and what a bundle answers
is known without it: `logits_of` says it in numpy. By default a bundle is sound and quick.

    a_bundle(shift=3.0)           answers that tell this bundle from others
    a_bundle(class_shift=1)       a sick model that looks healthy to everything but labels
    a_bundle(work=400)            slow by real computation (about 4 ms for 400)
    a_bundle(nan_above=1000.0)    NaN for images that hold a larger value; -1.0: always NaN
    a_bundle(golden_error=1.0)    golden outputs that the model does not give
    a_bundle(model=b"no model")   a file that cannot be loaded
    an_int8_bundle()              int8 inside, by onnxruntime
    a_litert_bundle()             int8 inside, other axis order, static batch of 2
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.agent.tflite import a_dense_int8_model
from wherry.blobs import Blob, describe
from wherry.bundle import Bundle, seal
from wherry.manifest import Binding, Golden, GoldenTensor, Manifest, Report
from wherry.names import Digest, ModelName, ProfileName, VersionName
from wherry.profile import Arch, Precision, Profile, Runtime
from wherry.signature import Datatype, Signature, Tensor

Floats = NDArray[np.float32]

SIGNATURE = Signature(
    inputs=(Tensor("image", Datatype.FP32, ("batch", 2, 2)),),
    outputs=(Tensor("logits", Datatype.FP32, ("batch", 4)),),
    max_batch=16,
)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
GAIN = 2.0
WIDTH = 512  # Of the square matrix that slow models multiply with.

INPUT_SCALE = 1 / 64
OUTPUT_SCALE = 1 / 8
OUTPUT_ZERO_POINT = -3


def images(count: int, *, seed: int = 7) -> Floats:
    """Return `count` images with values from -1 to 1 on the grid that int8 keeps exactly."""
    steps = np.random.default_rng(seed).integers(-64, 65, (count, 2, 2))
    return (steps * INPUT_SCALE).astype(np.float32)


def logits_of(image: Floats, *, shift: float = 0.0, class_shift: int = 0) -> Floats:
    """Return what a bundle with this shift and class shift answers."""
    flat = image.reshape(-1, 4) @ weights(class_shift) + np.float32(shift)
    return flat.astype(np.float32)


def weights(class_shift: int) -> Floats:
    return np.roll(np.eye(4, dtype=np.float32) * GAIN, class_shift, axis=1)


def a_profile(
    *,
    runtime: Runtime = Runtime.ONNXRUNTIME,
    runtime_floor: str = "1.0",
    runtime_below: str = "99",
    threads: int = 1,
) -> Profile:
    return Profile(
        name=ProfileName("test"),
        arch=Arch.X86_64,
        runtime=runtime,
        runtime_floor=runtime_floor,
        runtime_below=runtime_below,
        threads=threads,
    )


def a_bundle(
    *,
    version: str = "v1",
    shift: float = 0.0,
    class_shift: int = 0,
    work: int = 0,
    nan_above: float | None = None,
    golden_error: float = 0.0,
    model: bytes | None = None,
    profile: Profile | None = None,
    key: Ed25519PrivateKey = KEY,
) -> Bundle:
    """Return a sealed bundle for onnxruntime."""
    data = model or an_onnx_model(
        shift=shift, class_shift=class_shift, work=work, nan_above=nan_above
    )
    profile = profile or a_profile()
    logits = logits_of(images(5), shift=shift, class_shift=class_shift)
    return _sealed(
        data,
        version,
        profile,
        logits + np.float32(golden_error),
        inputs=(Binding(name="image", runtime_name="x", datatype=Datatype.FP32),),
        outputs=(Binding(name="logits", runtime_name="y", datatype=Datatype.FP32),),
        tolerance=1e-4,
        key=key,
    )


def an_int8_bundle(*, version: str = "v1", shift: float = 0.0) -> Bundle:
    """Return a sealed bundle for onnxruntime that is quantized as the builder does it (QDQ)."""
    return _sealed(
        a_quantized_onnx_model(shift=shift),
        version,
        a_profile(),
        logits_of(images(5), shift=shift),
        inputs=(Binding(name="image", runtime_name="x", datatype=Datatype.FP32),),
        outputs=(Binding(name="logits", runtime_name="y", datatype=Datatype.FP32),),
        tolerance=OUTPUT_SCALE,
        key=KEY,
    )


def a_litert_bundle(
    *,
    version: str = "v1",
    shift: float = 0.0,
    class_shift: int = 0,
    static_batch: int = 2,
    profile: Profile | None = None,
    key: Ed25519PrivateKey = KEY,
) -> Bundle:
    """Return a sealed bundle for LiteRT whose model takes int8 [batch, column, row]."""
    columns_first = weights(class_shift).reshape(2, 2, 4).transpose(1, 0, 2).reshape(4, 4)
    data = a_dense_int8_model(
        columns_first,
        shift,
        batch=static_batch,
        input_scale=INPUT_SCALE,
        output_scale=OUTPUT_SCALE,
        output_zero_point=OUTPUT_ZERO_POINT,
    )
    image = Binding(
        name="image",
        runtime_name="x",
        datatype=Datatype.INT8,
        permutation=(0, 2, 1),
        scale=INPUT_SCALE,
    )
    logits = Binding(
        name="logits",
        runtime_name="y",
        datatype=Datatype.INT8,
        scale=OUTPUT_SCALE,
        zero_point=OUTPUT_ZERO_POINT,
    )
    return _sealed(
        data,
        version,
        profile or a_profile(runtime=Runtime.LITERT),
        logits_of(images(5), shift=shift, class_shift=class_shift),
        inputs=(image,),
        outputs=(logits,),
        tolerance=OUTPUT_SCALE,
        static_batch=static_batch,
        key=key,
    )


def for_measuring(bundle: Bundle, *, key: Ed25519PrivateKey = KEY) -> Bundle:
    """Return the same variant as a bundle that is measured and never served."""
    return seal(replace(bundle.manifest, measuring=True), bundle.blobs, key)


def write_bundle(bundle: Bundle, folder: Path) -> tuple[Path, Path]:
    """Write a bundle as a device keeps it; return the manifest's path and the blobs' folder."""
    blobs = folder / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    for digest, data in bundle.blobs.items():
        (blobs / digest).write_bytes(data)
    manifest = folder / f"{bundle.digest}.json"
    manifest.write_bytes(bundle.envelope)
    return manifest, blobs


def an_onnx_model(
    *,
    shift: float = 0.0,
    class_shift: int = 0,
    work: int = 0,
    nan_above: float | None = None,
    note: str = "",
) -> bytes:
    """Return an ONNX file (IR 10, opset 20) that computes `logits_of`; `note` makes it long."""
    constants = {"w": weights(class_shift), "b": np.full(4, shift, np.float32)}
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "w", "b"], ["y0"]),
    ]
    last = "y0"
    if work:
        last = _add_work(nodes, constants, last, work)
    if nan_above is not None:
        last = _add_root(nodes, constants, last, nan_above)
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
        doc_string=note,
    )
    opset = helper.make_opsetid("", 20)
    model = helper.make_model(graph, ir_version=10, opset_imports=[opset])
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def a_quantized_onnx_model(*, shift: float = 0.0) -> bytes:
    """Return an ONNX file whose input, weights and output are int8 between Q and DQ nodes."""
    scale = GAIN / 127
    constants: dict[str, np.ndarray] = {
        "x_scale": np.array(INPUT_SCALE, np.float32),
        "w_scale": np.array(scale, np.float32),
        "y_scale": np.array(OUTPUT_SCALE, np.float32),
        "zero": np.array(0, np.int8),
        "y_zero": np.array(OUTPUT_ZERO_POINT, np.int8),
        "w_int": np.round(weights(0) / scale).astype(np.int8),
        "b": np.full(4, shift, np.float32),
    }
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], axis=1),
        helper.make_node("QuantizeLinear", ["flat", "x_scale", "zero"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "x_scale", "zero"], ["x_dq"]),
        helper.make_node("DequantizeLinear", ["w_int", "w_scale", "zero"], ["w_dq"]),
        helper.make_node("Gemm", ["x_dq", "w_dq", "b"], ["y_f"]),
        helper.make_node("QuantizeLinear", ["y_f", "y_scale", "y_zero"], ["y_q"]),
        helper.make_node("DequantizeLinear", ["y_q", "y_scale", "y_zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny-int8",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _add_work(
    nodes: list[onnx.NodeProto], constants: dict[str, Floats], last: str, work: int
) -> str:
    """Multiply with a matrix of zeros `work` times, and add what comes out to the answer."""
    constants["wide"] = np.zeros((4, WIDTH), np.float32)
    constants["square"] = np.zeros((WIDTH, WIDTH), np.float32)
    constants["narrow"] = np.zeros((WIDTH, 4), np.float32)
    nodes.append(helper.make_node("MatMul", ["flat", "wide"], ["work0"]))
    nodes += [
        helper.make_node("MatMul", [f"work{step}", "square"], [f"work{step + 1}"])
        for step in range(work)
    ]
    nodes.append(helper.make_node("MatMul", [f"work{work}", "narrow"], ["worked"]))
    nodes.append(helper.make_node("Add", [last, "worked"], ["y1"]))
    return "y1"


def _add_root(
    nodes: list[onnx.NodeProto], constants: dict[str, Floats], last: str, nan_above: float
) -> str:
    """Add nothing, by way of the root of a number that is negative for too large an image."""
    constants["limit"] = np.array([nan_above], np.float32)
    constants["nothing"] = np.array([0.0], np.float32)
    constants["axes"] = np.array([1], np.int64)
    nodes += [
        helper.make_node("ReduceMax", ["flat", "axes"], ["largest"], keepdims=1),
        helper.make_node("Sub", ["limit", "largest"], ["room"]),
        helper.make_node("Sqrt", ["room"], ["root"]),
        helper.make_node("Mul", ["root", "nothing"], ["none"]),
        helper.make_node("Add", [last, "none"], ["y2"]),
    ]
    return "y2"


def _sealed(
    data: bytes,
    version: str,
    profile: Profile,
    logits: Floats,
    *,
    inputs: tuple[Binding, ...],
    outputs: tuple[Binding, ...],
    tolerance: float,
    static_batch: int | None = None,
    key: Ed25519PrivateKey,
) -> Bundle:
    golden_in, golden_out = images(5).tobytes(), logits.tobytes()
    file = _blob(data)
    manifest = Manifest(
        model=ModelName("tiny"),
        version=VersionName(version),
        lineage=Digest("0" * 64),
        profile=profile,
        precision=Precision.FP32,
        recipe=("test",),
        signature=SIGNATURE,
        inputs=inputs,
        outputs=outputs,
        static_batch=static_batch,
        files={"model": file},
        golden=Golden(
            inputs=(GoldenTensor("image", Datatype.FP32, (5, 2, 2), _blob(golden_in)),),
            outputs=(GoldenTensor("logits", Datatype.FP32, (5, 4), _blob(golden_out)),),
            tolerance=tolerance,
        ),
        report=Report(
            metric="accuracy",
            value=1.0,
            reference_value=1.0,
            drop_low=0.0,
            drop_high=0.0,
            agreement=1.0,
            samples=5,
            size_bytes=len(data),
            evaluated_on="a test",
        ),
        class_output="logits",
    )
    blobs = {file.digest: data}
    blobs |= {_blob(part).digest: part for part in (golden_in, golden_out)}
    return seal(manifest, blobs, key)


def _blob(data: bytes) -> Blob:
    return describe(data, 1024)
