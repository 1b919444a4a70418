"""A float export as the quantizers see it: optimised, typed and named, once a process.

The search makes the same net again and again with other operators in float, so what does not
depend on them is kept, by the content of the file.
"""

from __future__ import annotations

import functools
import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime
from onnx import shape_inference
from onnxruntime.quantization.quant_utils import add_infer_metadata

from wherry.profile import CPU_PROVIDER
from wherry_controller.builder.faults import refusing
from wherry_controller.builder.onnx_file import graphs_of, nodes_of, read, size_of
from wherry_controller.builder.passes.base import Operator
from wherry_controller.builder.passes.onnx_fold import quiet_options, share_constants
from wherry_controller.builder.passes.onnx_form import flatten_biases, formed, layer_of, name_nodes
from wherry_controller.core.fault import BuildReason

KEPT_MODELS = 4
FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16})
TYPES = {"tensor(float)": onnx.TensorProto.FLOAT, "tensor(float16)": onnx.TensorProto.FLOAT16}


@dataclass(frozen=True, slots=True)
class Prepared:
    """An optimised float model; whoever changes it takes a copy.

    `plain` is the same net before it was optimised. `floats` are the tensors of `model` that hold
    floating point, with their types; `constants` are the initializers of both by name; `layers`
    are the net's names for where nodes stand, by the nodes' names.
    """

    model: onnx.ModelProto
    plain: onnx.ModelProto
    floats: Mapping[str, int]
    constants: Mapping[str, onnx.TensorProto]
    layers: Mapping[str, str]

    def operator(self, node: onnx.NodeProto) -> Operator:
        """Say what people and recipes call the node, and what its weights take."""
        weights = [size_of(self.constants[name]) for name in node.input if name in self.constants]
        layer = self.layers.get(node.name, node.name)
        return Operator(node.name, node.op_type, layer, sum(weights))


def copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that may be changed."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def prepare(file: Path, max_opset: int) -> Prepared:
    """Return the file's model prepared for quantizers, in an opset of at most `max_opset`."""
    digest = hashlib.sha256(file.read_bytes()).digest()
    return _prepare(digest, file, max_opset)


@functools.lru_cache(maxsize=KEPT_MODELS)
def _prepare(_digest: bytes, file: Path, max_opset: int) -> Prepared:
    raw = formed(read(file), max_opset)
    model = _typed(shape_inference.infer_shapes(_optimised(raw)))
    flatten_biases(model.graph)
    share_constants(model)
    name_nodes(model)
    add_infer_metadata(model)  # Else the quantizers write the model to disk and infer again.
    constants = {
        one.name: one
        for source in (raw, model)
        for graph in graphs_of(source.graph)
        for one in graph.initializer
    }
    return Prepared(model, raw, _floats(model), constants, _layers(raw, model))


def _optimised(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold constants and fuse what every processor can run fused."""
    with (
        tempfile.TemporaryDirectory() as folder,
        refusing(BuildReason.UNSUPPORTED_OPERATOR, "onnxruntime does not load the net"),
    ):
        file = Path(folder) / "optimised.onnx"
        options = quiet_options()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(file)
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[CPU_PROVIDER])
        return onnx.load(file)


def _typed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Add the types of tensors that ONNX's inference leaves out: those of onnxruntime's own nodes.

    onnxruntime knows them: it is asked for every such tensor as an output.
    """
    graph = model.graph
    known = {value.name for value in (*graph.value_info, *graph.input, *graph.output)}
    unknown = [name for node in graph.node for name in node.output if name and name not in known]
    if not unknown:
        return model
    asked = copy(model)
    asked.graph.output.extend(onnx.ValueInfoProto(name=name) for name in unknown)
    session = onnxruntime.InferenceSession(
        asked.SerializeToString(), quiet_options(), providers=[CPU_PROVIDER]
    )
    found = {one.name: TYPES.get(one.type) for one in session.get_outputs()}
    for name in unknown:
        if (kind := found[name]) is not None:
            graph.value_info.append(onnx.helper.make_tensor_value_info(name, kind, None))
    return model


def _floats(model: onnx.ModelProto) -> dict[str, int]:
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    made = {value.name for value in graph.input} | {
        name for node in graph.node for name in node.output
    }
    return {name: kind for name, kind in kinds.items() if kind in FLOATS and name in made}


def _layers(raw: onnx.ModelProto, prepared: onnx.ModelProto) -> dict[str, str]:
    """Return each prepared node's layer: by its own name, its weights or what it gives."""
    by_node: dict[str, str] = {}
    by_tensor: dict[str, str] = {}
    for node in nodes_of(raw):
        layer = layer_of(node)
        if layer:
            by_node[node.name] = layer
            by_tensor.update(dict.fromkeys(node.output, layer))
    weights = {one.name for graph in graphs_of(raw.graph) for one in graph.initializer}
    found = {}
    for node in nodes_of(prepared):
        named = [name.rpartition(".")[0] for name in node.input if name in weights]
        given = [by_tensor[name] for name in node.output if name in by_tensor]
        ways = [by_node.get(node.name, ""), *named, *given]
        found[node.name] = next((layer for layer in ways if layer), node.name)
    return found
