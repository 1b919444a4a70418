"""ONNX files put into the form that devices load, the same bytes for the same model.

Exporters write the newest IR and opset they know, import operator sets that no node uses, and
leave stack traces with this machine's paths in the metadata.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from wherry.profile import Profile
from wherry_controller.builder.faults import refuse
from wherry_controller.core.recipe import BuildReason

PRODUCER = "wherry"
CHANNELS = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1, "LSTM": 1, "GRU": 1, "RNN": 1}


@dataclass(frozen=True, slots=True)
class Weights:
    """A layer's weights by their name in the file; `axis` is that of the output channels."""

    name: str
    values: npt.NDArray[np.generic]
    axis: int


def finish(model: onnx.ModelProto, profile: Profile, file: Path) -> Path:
    """Write `model` to `file` as devices of the profile can load it; return the file."""
    used = {node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    opset = max((entry.version for entry in kept if entry.domain in ("", "ai.onnx")), default=0)
    if opset > profile.max_opset:
        problem = f"the net needs opset {opset} and the profile takes {profile.max_opset} at most"
        refuse(BuildReason.NO_RECIPE, problem)
    del model.opset_import[:]
    model.opset_import.extend(kept)
    model.ir_version = min(model.ir_version, profile.max_ir)
    _strip(model)
    file.write_bytes(model.SerializeToString(deterministic=True))
    return file


def operators(file: Path) -> Counter[str]:
    """Return how many nodes of each operator the model has."""
    return Counter(node.op_type for node in onnx.load(file).graph.node)


def weights(file: Path) -> list[Weights]:
    """Return the weights of the model's layers in order, quantized ones as they are stored."""
    graph = onnx.load(file).graph
    sources = {node.output[0]: node.input[0] for node in graph.node if node.input}
    constants = {constant.name: constant for constant in graph.initializer}
    found = []
    for node in graph.node:
        axis = _channels(node)
        if axis is not None:
            name = sources.get(node.input[1], node.input[1])
            if name in constants:
                found.append(Weights(name, numpy_helper.to_array(constants[name]), axis))
    return found


def with_weights(file: Path, name: str, values: npt.NDArray[np.generic], to: Path) -> Path:
    """Write the model in `file` to `to` with other values for one of its weights."""
    model = onnx.load(file)
    constant = next(constant for constant in model.graph.initializer if constant.name == name)
    constant.CopyFrom(numpy_helper.from_array(values, name))
    to.write_bytes(model.SerializeToString(deterministic=True))
    return to


def _channels(node: onnx.NodeProto) -> int | None:
    """Return the axis of the output channels in the node's weights; None where it has none."""
    if node.op_type == "Gemm":
        turned = any(entry.name == "transB" and entry.i for entry in node.attribute)
        return 0 if turned else 1
    return CHANNELS.get(node.op_type)


def _strip(model: onnx.ModelProto) -> None:
    """Take out names of tools, notes and stack traces."""
    model.producer_name, model.producer_version, model.doc_string = PRODUCER, "", ""
    del model.metadata_props[:]
    graph = model.graph
    _strip_each([graph])
    _strip_each(graph.node)
    _strip_each(graph.initializer)
    _strip_each([*graph.input, *graph.output, *graph.value_info])


def _strip_each(
    parts: Iterable[onnx.GraphProto | onnx.NodeProto | onnx.TensorProto | onnx.ValueInfoProto],
) -> None:
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]
