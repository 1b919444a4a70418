"""An ONNX file, run by onnxruntime as it came and rewritten in the signature's terms.

Weights that stand in other files are taken only from files that the card names, so a model can
read nothing else of this machine. LiteRT cannot be had from ONNX: converters that claim it were
found to know too few operators.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
from safetensors.numpy import save_file

from wherry.profile import CPU_PROVIDER
from wherry.signature import Signature
from wherry_controller.builder.data.rows import Array, Tensors
from wherry_controller.builder.faults import refuse, refusing
from wherry_controller.builder.sources import base
from wherry_controller.builder.sources.onnx_axes import Place, Places, places_of
from wherry_controller.builder.sources.onnx_rewrite import constant_array, rewrite, with_opset
from wherry_controller.core.card import Card
from wherry_controller.core.fault import BuildReason, BuildRefused

KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training", "com.microsoft")
QUANTIZED = re.compile(
    r"QuantizeLinear|Integer|QLinear|NBits|Bnb4|BlockQuantized|\AQ[A-Z]|Quantize"
)
# What onnxruntime says of an operator that it does not have.
UNKNOWN = re.compile(r"(?:implementation for|No Op registered for) ([\w.:]+)")
INLINE_BYTES = (1 << 31) - (1 << 20)  # What one protobuf file can hold.
PLAIN_KINDS = "fiub"


@dataclass(frozen=True, slots=True)
class OnnxSource:
    card: Card
    file: Path
    places: Places
    constants: Tensors
    session: onnxruntime.InferenceSession

    @property
    def signature(self) -> Signature:
        return self.card.signature

    def run(self, inputs: Tensors) -> Tensors:
        rows = base.rows_in(inputs)
        arrays = base.in_batches(self._ask, inputs, self.places.static_batch or rows)
        return base.checked(self.signature, arrays, rows)

    def to_onnx(self, opset: int, sample: Tensors, file: Path) -> None:
        model = onnx_ir.load(self.file)
        with base.quiet():
            rewrite(model, self.places, self.card.source.constants)
            _save(model, opset, file)

    def to_lite(self, sample: Tensors, file: Path) -> None:
        problem = "no LiteRT model can be made of an ONNX file, but of a state_dict or a .pt2"
        refuse(BuildReason.NO_RECIPE, problem)

    def to_safetensors(self, file: Path) -> None:
        named: dict[str, Array] = {}
        for name, array in self._weights():
            # The branches of a graph may each have a tensor of one name.
            times = sum(1 for other in named if other.partition("#")[0] == name)
            named[f"{name}#{times + 1}" if times else name] = array
        save_file(named, str(file))

    def _ask(self, inputs: Tensors) -> Sequence[Array]:
        places = self.places
        ready = {place.name: _into(place, inputs[place.tensor.name]) for place in places.inputs}
        with refusing(BuildReason.SIGNATURE_MISFIT, "the model fails on rows of the data"):
            names = [place.name for place in places.outputs]
            given = self.session.run(names, {**ready, **self.constants})
            return [
                np.moveaxis(array, place.batch_axis, 0)
                for place, array in zip(places.outputs, given, strict=True)
            ]

    def _weights(self) -> Iterator[tuple[str, Array]]:
        for tensor in _tensors(onnx_ir.load(self.file)):
            array = np.array(tensor.numpy())
            if array.dtype.kind in PLAIN_KINDS:
                yield str(tensor.name), array


def open_onnx_source(card: Card, folder: Path) -> OnnxSource:
    """Return the model in the card's file, after its weights' files and operators were checked."""
    file = folder / card.source.file
    model = read_model(file)
    _refuse_strange_files(card, folder, model)
    _refuse_operators(file.name, model)
    places = places_of(card, model.graph)
    constants = {
        str(value.name): constant_array(value, card.source.constants[str(value.name)])
        for value in model.graph.inputs
        if value.name in card.source.constants
    }
    return OnnxSource(card, file, places, constants, _session(file))


def read_model(file: Path) -> onnx_ir.Model:
    """Return the graph in `file`; weights that stand in other files are not looked at."""
    with refusing(BuildReason.SOURCE_UNREADABLE, f"{file.name} cannot be read as ONNX"):
        model = onnx_ir.from_proto(onnx.load(file, load_external_data=False))
    if not len(model.graph):
        refuse(BuildReason.SOURCE_UNREADABLE, f"{file.name} holds no graph")
    return model


def external_files(model: onnx_ir.Model) -> list[str]:
    """Return the names of the files that hold weights of the model, each once, as it says them."""
    located = (tensor for tensor in _tensors(model) if isinstance(tensor, onnx_ir.ExternalTensor))
    return list(dict.fromkeys(str(tensor.location) for tensor in located))


def _refuse_strange_files(card: Card, folder: Path, model: onnx_ir.Model) -> None:
    for name in external_files(model):
        if name not in card.source.external_data:
            problem = f"weights are said to lie in {name!r}, which is not among external_data"
            refuse(BuildReason.SOURCE_UNREADABLE, problem)
        file = folder / name
        if file.is_symlink() or not file.is_file():
            refuse(BuildReason.SOURCE_UNREADABLE, f"{name} does not lie beside model.toml")


def _refuse_operators(file: str, model: onnx_ir.Model) -> None:
    for graph in model.graphs():
        for node in graph:
            where = f" (the node {node.name!r})" if node.name else ""
            if QUANTIZED.search(node.op_type):
                refuse(BuildReason.ALREADY_QUANTIZED, f"{file} has a {node.op_type}{where}")
            if node.domain not in KNOWN_DOMAINS and node.op_identifier() not in model.functions:
                problem = f"no runtime has the operator {node.domain}.{node.op_type}{where}"
                refuse(BuildReason.UNSUPPORTED_OPERATOR, f"{problem} of {file}")


def _session(file: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        with base.quiet(), refusing(BuildReason.SOURCE_UNREADABLE, f"{file.name} does not load"):
            # By its path: external data is found beside it, and loading holds no lock.
            return onnxruntime.InferenceSession(str(file), options, providers=[CPU_PROVIDER])
    except BuildRefused as refusal:
        unknown = UNKNOWN.search(str(refusal.__cause__))
        if unknown is None:
            raise
        problem = f"onnxruntime has nothing for the operator {unknown.group(1)} of {file.name}"
        refuse(BuildReason.UNSUPPORTED_OPERATOR, problem)


def _into(place: Place, array: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(array, 0, place.batch_axis))


def _tensors(model: onnx_ir.Model) -> Iterator[onnx_ir.TensorProtocol]:
    """Yield the weights of all graphs and functions, also those that are written as operators."""
    for graph in model.graphs():
        values = graph.initializers.values()
        yield from (value.const_value for value in values if value.const_value is not None)
        for node in graph:
            yield from _tensors_of(node)


def _tensors_of(node: onnx_ir.Node) -> Iterator[onnx_ir.TensorProtocol]:
    for attribute in node.attributes.values():
        if attribute.type is onnx_ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
            tensor.name = tensor.name or node.outputs[0].name
            yield tensor
        elif attribute.type is onnx_ir.AttributeType.TENSORS:
            yield from attribute.as_tensors()


def _save(model: onnx_ir.Model, opset: int, file: Path) -> None:
    is_large = sum(tensor.nbytes for tensor in _tensors(model)) > INLINE_BYTES
    if is_large:
        onnx_ir.save(model, file, external_data=f"{file.name}.data")
        return
    onnx_ir.external_data.load_to_model(model)
    onnx.save(with_opset(onnx_ir.to_proto(model), opset), file)
