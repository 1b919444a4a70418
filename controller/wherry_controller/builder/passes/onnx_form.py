"""A float ONNX model brought to the one form that every pass takes.

Local functions are inlined, constants are initializers and no inputs, every node has a name of its
own, and ONNX's operators are of an opset that the profile takes and the quantizers know.
"""

from __future__ import annotations

import ast
import functools
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
from onnx import helper, inliner, numpy_helper, version_converter

from wherry.profile import CPU_PROVIDER
from wherry_controller.builder.faults import refuse, refusing
from wherry_controller.builder.onnx_file import ONNX_DOMAINS, graphs_of, nodes_of, opset_of
from wherry_controller.builder.passes.onnx_fold import fold, quiet_options
from wherry_controller.core.fault import BuildReason

FEWEST_OPSET = 13  # From it on DequantizeLinear knows channels.
SCOPES = "pkg.torch.onnx.name_scopes"

# Of constants in a node's attributes: which hold numbers that an initializer can hold.
SCALARS = {
    "value_float": onnx.TensorProto.FLOAT,
    "value_floats": onnx.TensorProto.FLOAT,
    "value_int": onnx.TensorProto.INT64,
    "value_ints": onnx.TensorProto.INT64,
}


def formed(model: onnx.ModelProto, max_opset: int) -> onnx.ModelProto:
    """Return the model in the form that passes take; refuse what onnxruntime does not know."""
    if model.functions:
        model = inliner.inline_local_functions(model)
    _refuse_unknown(model)
    model = _within(model, max_opset)
    for graph in graphs_of(model.graph):
        _lift_constants(graph)
        _drop_constant_inputs(graph)
    name_nodes(model)
    fold(model)
    return model


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a name of its own, the same whenever it is asked for."""
    taken: set[str] = set()
    for index, node in enumerate(nodes_of(model)):
        name = node.name or f"{node.op_type}_{index}"
        while name in taken:
            name = f"{name}_{index}"
        node.name = name
        taken.add(name)


def layer_of(node: onnx.NodeProto) -> str:
    """Return the net's own name for where the node stands, or nothing.

    torch's exporter writes the path of modules into the metadata, its older one into the name
    (`/layer1/conv/Conv`).
    """
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            return _last_scope(entry.value)
    return node.name.strip("/").rpartition("/")[0] if node.name.startswith("/") else ""


def refuse_unloadable(file: Path, reason: BuildReason) -> None:
    """Refuse a model that onnxruntime does not load; its sentence names the operator.

    It is loaded as it stands: some optimisers crash on fp16, and that would end this process. A
    candidate is run with them in a process of its own.
    """
    options = quiet_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with refusing(reason, "onnxruntime does not load the model"):
        onnxruntime.InferenceSession(str(file), options, providers=[CPU_PROVIDER])


def _last_scope(text: str) -> str:
    """Return the innermost module of a list such as `['', 'layer1', 'layer1.conv', 'conv2d']`."""
    try:
        scopes = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return ""
    modules = [scope for scope in scopes[:-1] if isinstance(scope, str)]
    return modules[-1] if modules else ""


@functools.cache
def _known() -> frozenset[tuple[str, str]]:
    """Return the operators that onnxruntime has a schema of, as (domain, name)."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return frozenset((schema.domain, schema.name) for schema in state.get_all_operator_schema())


def _refuse_unknown(model: onnx.ModelProto) -> None:
    for node in nodes_of(model):
        domain = "" if node.domain in ONNX_DOMAINS else node.domain
        if (domain, node.op_type) not in _known():
            operator = f"{domain}.{node.op_type}" if domain else node.op_type
            layer = layer_of(node) or node.name or "the graph"
            problem = f"onnxruntime has no operator {operator}, which {layer!r} uses"
            refuse(BuildReason.UNSUPPORTED_OPERATOR, problem)


def _within(model: onnx.ModelProto, max_opset: int) -> onnx.ModelProto:
    """Convert the model to an opset between what quantizers know and what the profile takes."""
    opset = opset_of(model)
    wanted = min(max(opset, FEWEST_OPSET), max_opset)
    if opset in (0, wanted):
        return model
    what = f"the net has opset {opset}, the profile takes {max_opset}, and it cannot be converted"
    with refusing(BuildReason.NO_RECIPE, what):
        converted = version_converter.convert_version(model, wanted)
        onnx.checker.check_model(converted)
    # The converter forgets the metadata that says where a node comes from.
    scopes = {node.output[0]: node.metadata_props for node in nodes_of(model) if node.output}
    for node in nodes_of(converted):
        if not node.metadata_props and node.output and node.output[0] in scopes:
            node.metadata_props.extend(scopes[node.output[0]])
    return converted


def _lift_constants(graph: onnx.GraphProto) -> None:
    """Make an initializer of each constant that a node holds."""
    kept = []
    for node in graph.node:
        constant = _constant(node)
        if constant is None:
            kept.append(node)
        else:
            graph.initializer.append(constant)
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    if node.op_type != "Constant" or node.domain not in ONNX_DOMAINS:
        return None
    (entry,) = node.attribute
    if entry.name == "value":
        constant = onnx.TensorProto()
        constant.CopyFrom(entry.t)
        constant.name = node.output[0]
        return constant
    if entry.name not in SCALARS:
        return None
    value = helper.get_attribute_value(entry)
    dtype = helper.tensor_dtype_to_np_dtype(SCALARS[entry.name])
    return numpy_helper.from_array(dtype.type(value), node.output[0])


def flatten_biases(graph: onnx.GraphProto) -> None:
    """Give a Gemm's bias of one row one axis, as quantizers take it for granted."""
    uses = Counter(name for node in graph.node for name in node.input)
    constants = {constant.name: constant for constant in graph.initializer}
    for node in graph.node:
        if node.op_type == "Gemm" and len(node.input) > 2 and uses[node.input[2]] == 1:
            bias = constants.get(node.input[2])
            if bias is not None and len(bias.dims) == 2 and bias.dims[0] == 1:
                del bias.dims[0]


def _drop_constant_inputs(graph: onnx.GraphProto) -> None:
    """Take initializers out of the inputs, where old exporters list them as overridable."""
    constants = {constant.name for constant in graph.initializer}
    kept = [given for given in graph.input if given.name not in constants]
    if len(kept) < len(graph.input):
        del graph.input[:]
        graph.input.extend(kept)
