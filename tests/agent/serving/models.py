"""A small real bundle that carries state: a running sum, without a class output.

y = gain * (x + total), next = x + total, for float32 [batch, 1] each
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.agent.bundles import KEY, a_profile
from wherry.blobs import Blob, describe
from wherry.bundle import Bundle, seal
from wherry.manifest import Binding, Golden, GoldenTensor, Manifest, Report
from wherry.names import Digest, ModelName, VersionName
from wherry.profile import Precision
from wherry.signature import Datatype, Signature, StatePair, Tensor

INPUTS, OUTPUTS = ("x", "total"), ("y", "next")


def a_summing_bundle(*, gain: float = 1.0, stateful: bool = True) -> Bundle:
    """Return a sealed bundle for onnxruntime; of another gain it is another bundle."""
    model = _a_model(gain)
    x = np.array([[1.0], [2.0]], np.float32)
    given = {"x": x, "total": x, "y": gain * 2 * x, "next": 2 * x}
    data = {name: np.asarray(value, np.float32).tobytes() for name, value in given.items()}
    manifest = Manifest(
        model=ModelName("sum"),
        version=VersionName("v1"),
        lineage=Digest("0" * 64),
        profile=a_profile(),
        precision=Precision.FP32,
        recipe=("test",),
        signature=Signature(
            inputs=tuple(map(_tensor, INPUTS)),
            outputs=tuple(map(_tensor, OUTPUTS)),
            max_batch=8,
            states=(StatePair("next", "total"),) if stateful else (),
        ),
        inputs=tuple(map(_binding, INPUTS)),
        outputs=tuple(map(_binding, OUTPUTS)),
        static_batch=None,
        files={"model": _blob(model)},
        golden=Golden(
            inputs=tuple(_golden(name, data[name]) for name in INPUTS),
            outputs=tuple(_golden(name, data[name]) for name in OUTPUTS),
            tolerance=1e-4,
        ),
        report=Report(
            metric="mae",
            value=1.0,
            reference_value=1.0,
            drop_low=0.0,
            drop_high=0.0,
            agreement=None,
            samples=2,
            size_bytes=len(model),
            evaluated_on="a test",
        ),
    )
    blobs = {_blob(part).digest: part for part in (model, *data.values())}
    return seal(manifest, blobs, KEY)


def _a_model(gain: float) -> bytes:
    nodes = [
        helper.make_node("Add", ["x", "total"], ["next"]),
        helper.make_node("Mul", ["next", "gain"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "sum",
        [_value(name) for name in INPUTS],
        [_value(name) for name in OUTPUTS],
        [numpy_helper.from_array(np.array(gain, np.float32), "gain")],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1])


def _tensor(name: str) -> Tensor:
    return Tensor(name, Datatype.FP32, ("batch", 1))


def _binding(name: str) -> Binding:
    return Binding(name=name, runtime_name=name, datatype=Datatype.FP32)


def _golden(name: str, data: bytes) -> GoldenTensor:
    return GoldenTensor(name, Datatype.FP32, (2, 1), _blob(data))


def _blob(data: bytes) -> Blob:
    return describe(data, 1024)
