"""ONNX files read whole and written in the form that devices load, the same bytes for a model.

Exporters write the newest IR and opset they know, import operator sets that no node uses, and
leave stack traces with this machine's paths in the metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from onnx import numpy_helper

from wherry.profile import Profile
from wherry_controller.builder.faults import refuse, refusing
from wherry_controller.core.fault import BuildReason
from wherry_controller.core.recipe import Recipe

PRODUCER = "wherry"
ONNX_DOMAINS = ("", "ai.onnx")
LARGEST_BYTES = 2**31 - 1  # One protobuf message holds no more.
FEWEST_IR = 4  # From it on a constant need not be an input as well.


def read(file: Path) -> onnx.ModelProto:
    """Return the model with its external data inside; refuse one of 2 GB or more."""
    with refusing(BuildReason.SOURCE_UNREADABLE, "the ONNX file cannot be read"):
        model = onnx.load(file, load_external_data=False)
        size = file.stat().st_size + sum(_external_bytes(model, file.parent))
        if size > LARGEST_BYTES:
            problem = f"the net has {size} bytes and an ONNX file holds {LARGEST_BYTES}"
            refuse(BuildReason.NO_RECIPE, problem)
        onnx.load_external_data_for_model(model, str(file.parent))
    return model


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield the graph and those that its nodes hold as branches and loops."""
    yield graph
    for node in graph.node:
        for entry in node.attribute:
            for inner in (*entry.graphs, *((entry.g,) if entry.HasField("g") else ())):
                yield from graphs_of(inner)


def nodes_of(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield the model's nodes, those of branches and loops too."""
    for graph in graphs_of(model.graph):
        yield from graph.node


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that the model imports; 0 where it has none."""
    versions = [entry.version for entry in model.opset_import if entry.domain in ONNX_DOMAINS]
    return max(versions, default=0)


def finish(model: onnx.ModelProto, bounds: Recipe | Profile, file: Path) -> Path:
    """Write `model` to `file` as the bounds' devices can load it; return the file."""
    used = {node.domain if node.domain != "ai.onnx" else "" for node in nodes_of(model)}
    kept = {entry.domain: entry for entry in model.opset_import if entry.domain in used}
    opset = opset_of(model)
    if "" in used and opset > bounds.max_opset:
        problem = f"the net needs opset {opset} and the profile takes {bounds.max_opset} at most"
        refuse(BuildReason.NO_RECIPE, problem)
    ordered = [kept[domain] for domain in sorted(kept)]
    del model.opset_import[:]
    model.opset_import.extend(ordered)
    model.ir_version = max(FEWEST_IR, min(model.ir_version, bounds.max_ir))
    _strip(model)
    file.write_bytes(model.SerializeToString(deterministic=True))
    return file


def weight_bytes(model: onnx.ModelProto) -> int:
    """Return how many bytes the model's constants have."""
    return sum(size_of(one) for graph in graphs_of(model.graph) for one in graph.initializer)


def size_of(constant: onnx.TensorProto) -> int:
    """Return how many bytes a constant's values have, however they are written."""
    if constant.HasField("raw_data"):
        return len(constant.raw_data)
    if constant.data_type == onnx.TensorProto.STRING:
        return sum(map(len, constant.string_data))
    return int(numpy_helper.to_array(constant).nbytes)


def _external_bytes(model: onnx.ModelProto, folder: Path) -> Iterator[int]:
    """Yield the bytes of each constant that stands in another file."""
    for graph in graphs_of(model.graph):
        for constant in graph.initializer:
            if constant.data_location == onnx.TensorProto.EXTERNAL:
                facts = {entry.key: entry.value for entry in constant.external_data}
                whole = folder / facts.get("location", "")
                yield int(facts.get("length") or whole.stat().st_size)


def _strip(model: onnx.ModelProto) -> None:
    """Take out names of tools, notes, stack traces and the shapes of tensors that are gone.

    The other shapes stay: without them onnxruntime's fusion of transposed products can crash.
    """
    model.producer_name, model.producer_version, model.doc_string = PRODUCER, "", ""
    del model.metadata_props[:]
    for graph in graphs_of(model.graph):
        made = {name for node in graph.node for name in node.output}
        shapes = [value for value in graph.value_info if value.name in made]
        del graph.value_info[:]
        graph.value_info.extend(shapes)
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
