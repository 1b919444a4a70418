"""What a model computes from constants only, computed once and kept as a constant.

torch's exporter cuts and joins the weights of recurrent layers at every run; folded, each layer
holds its own weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import numpy_helper

from wherry.profile import CPU_PROVIDER
from wherry_controller.builder.faults import refusing
from wherry_controller.builder.onnx_file import graphs_of, size_of
from wherry_controller.core.fault import BuildReason

QUIET = 3  # onnxruntime's errors only: its warnings are about what is done on purpose.
LARGEST_GROWTH_BYTES = 1 << 20  # Spread-out constants cost more on the wire than at the start.
LEAST_SHARED_BYTES = 1024
BY_CHANCE = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform"}
)


def quiet_options() -> onnxruntime.SessionOptions:
    """Return the options of a session whose answers are the same however many cores there are."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = QUIET
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return options


def fold(model: onnx.ModelProto) -> None:
    """Replace the nodes of the main graph that depend on constants only, unless much is added."""
    graph = model.graph
    nodes = _foldable(graph)
    outputs = {name for node in nodes for name in node.output if name}
    folded = {node.name for node in nodes}
    kept = [node for node in graph.node if node.name not in folded]
    taken = {name for node in kept for name in _taken(node)}
    wanted = sorted(outputs & taken)
    if not wanted:
        return
    values = _computed(model, nodes, wanted)
    was = sum(size_of(constant) for constant in graph.initializer)
    if sum(value.nbytes for value in values) > was + LARGEST_GROWTH_BYTES:
        return
    del graph.node[:]
    graph.node.extend(kept)
    pairs = zip(values, wanted, strict=True)
    graph.initializer.extend(numpy_helper.from_array(*pair) for pair in pairs)
    drop_unused(graph)


def drop_unused(graph: onnx.GraphProto) -> None:
    """Drop the constants of the graph that no node takes any more."""
    taken = {name for node in graph.node for name in _taken(node)}
    taken |= {output.name for output in graph.output}
    kept = [constant for constant in graph.initializer if constant.name in taken]
    if len(kept) < len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(kept)


def share_constants(model: onnx.ModelProto) -> None:
    """Keep once, in the main graph, what branches hold in several copies.

    onnxruntime folds the weights of a layer that stands in both branches into each of them.
    """
    inner = [graph for graph in graphs_of(model.graph) if graph is not model.graph]
    first: dict[bytes, str] = {}
    for graph in inner:
        moved = {}
        for constant in [one for one in graph.initializer if size_of(one) >= LEAST_SHARED_BYTES]:
            values = onnx.TensorProto()
            values.CopyFrom(constant)
            values.name = ""
            key = values.SerializeToString(deterministic=True)
            if key not in first:
                first[key] = values.name = f"shared_{len(first)}_{constant.name}"
                model.graph.initializer.append(values)
            moved[constant.name] = first[key]
            graph.initializer.remove(constant)
        _rename(graph, moved)


def _rename(graph: onnx.GraphProto, moved: Mapping[str, str]) -> None:
    for part in graphs_of(graph):
        for node in part.node:
            for index, name in enumerate(node.input):
                if name in moved:
                    node.input[index] = moved[name]


def _foldable(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    known = {constant.name for constant in graph.initializer}
    given = {output.name for output in graph.output}
    nodes = []
    for node in graph.node:
        is_plain = node.op_type not in BY_CHANCE and not any(map(_holds_graph, node.attribute))
        if (
            is_plain
            and known.issuperset(filter(None, node.input))
            and given.isdisjoint(node.output)
        ):
            nodes.append(node)
            known.update(node.output)
    return nodes


def _holds_graph(entry: onnx.AttributeProto) -> bool:
    return entry.HasField("g") or bool(entry.graphs)


def _taken(node: onnx.NodeProto) -> set[str]:
    """Return what the node takes, with what its branches take from outside."""
    taken = set(node.input)
    for entry in node.attribute:
        for inner in (*entry.graphs, *((entry.g,) if entry.HasField("g") else ())):
            for graph in graphs_of(inner):
                taken |= {name for part in graph.node for name in part.input}
                taken |= {output.name for output in graph.output}
    return taken


def _computed(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], wanted: Sequence[str]
) -> list[npt.NDArray[np.generic]]:
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.graph.name = "constants"
    part.graph.node.extend(nodes)
    taken = {name for node in nodes for name in node.input}
    part.graph.initializer.extend(one for one in model.graph.initializer if one.name in taken)
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    with refusing(BuildReason.UNSUPPORTED_OPERATOR, "onnxruntime cannot compute a constant"):
        session = onnxruntime.InferenceSession(
            part.SerializeToString(), quiet_options(), providers=[CPU_PROVIDER]
        )
        return [np.asarray(value) for value in session.run(list(wanted), {})]
