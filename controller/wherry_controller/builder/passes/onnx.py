"""The passes on ONNX files: what can be quantized in one, and the candidate of each recipe.

A pass that changes nothing reports success: a recurrent net goes through static quantization
unchanged. So operators and bytes of weights are looked at after each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import onnx

from wherry.manifest import Binding
from wherry.profile import Precision
from wherry.signature import Datatype, Signature, Tensor
from wherry_controller.builder.faults import LONGEST_CAUSE, refuse
from wherry_controller.builder.onnx_file import (
    finish,
    graphs_of,
    nodes_of,
    read,
    size_of,
    weight_bytes,
)
from wherry_controller.builder.passes.base import Operator
from wherry_controller.builder.passes.onnx_form import formed, layer_of, refuse_unloadable
from wherry_controller.builder.passes.onnx_half import half_operators, halve
from wherry_controller.builder.passes.onnx_prepared import Prepared, prepare
from wherry_controller.builder.passes.onnx_ranges import read_ranges, write_ranges
from wherry_controller.builder.passes.onnx_static import quantize_static, static_operators
from wherry_controller.builder.passes.onnx_weights import (
    dynamic_operators,
    pack,
    packed_operators,
    quantize_dynamic,
)
from wherry_controller.core.fault import BuildReason, BuildRefused, Fault
from wherry_controller.core.recipe import CONVOLUTIONS, PRODUCTS, RECURRENT, Graph, Recipe

Row = Mapping[str, npt.NDArray[np.generic]]

WEIGHTED = CONVOLUTIONS | PRODUCTS | RECURRENT
LARGEST_SHARE = 0.9  # Weights that are not clearly smaller have not been quantized.
QUANTIZED_KINDS = frozenset(
    {
        "ConvInteger",
        "DequantizeLinear",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeLinear",
        "DynamicQuantizeMatMul",
        "GatherBlockQuantized",
        "MatMulBnb4",
        "MatMulFpQ4",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QAttention",
        "QEmbedLayerNormalization",
        "QGemm",
        "QuantizeLinear",
    }
)
PASSES = (Precision.FP16, Precision.INT8, Precision.INT8_DYNAMIC, Precision.INT4)
DATATYPES: dict[int, Datatype] = {
    onnx.TensorProto.BOOL: Datatype.BOOL,
    onnx.TensorProto.UINT8: Datatype.UINT8,
    onnx.TensorProto.INT8: Datatype.INT8,
    onnx.TensorProto.INT32: Datatype.INT32,
    onnx.TensorProto.INT64: Datatype.INT64,
    onnx.TensorProto.FLOAT16: Datatype.FP16,
    onnx.TensorProto.FLOAT: Datatype.FP32,
    onnx.TensorProto.DOUBLE: Datatype.FP64,
}


def is_quantized(file: Path) -> bool:
    """Say whether the model holds operators that quantize or compute with integers."""
    return any(map(_is_quantized, nodes_of(onnx.load(file, load_external_data=False))))


def graph_of(file: Path) -> Graph:
    """Return the model's operators, counted, and the bytes of constants that each kind takes."""
    model = read(file)
    counts = Counter(node.op_type for node in nodes_of(model))
    return Graph(dict(counts), dict(_weights_of(model)))


def finish_float(file: Path, recipe: Recipe, to: Path) -> None:
    """Write the float model to `to` in the form that the recipe's devices load."""
    model = read(file)
    _refuse_quantized(model)
    finish(formed(model, recipe.max_opset), recipe, to)
    refuse_unloadable(to, BuildReason.UNSUPPORTED_OPERATOR)


def operators_of(file: Path, recipe: Recipe) -> tuple[Operator, ...]:
    """Return the operators that the recipe would change, in graph order."""
    return _operators(_prepared(file, recipe), recipe)


def float_operators(file: Path) -> tuple[Operator, ...]:
    """Return the operators of a made file whose weights are float constants."""
    model = read(file)
    constants = {
        constant.name: constant
        for constant in model.graph.initializer
        if constant.data_type == onnx.TensorProto.FLOAT and len(constant.dims) > 1
    }
    return tuple(
        Operator(
            node.name,
            node.op_type,
            layer_of(node) or node.name,
            4 * int(np.prod(weights.dims)),
        )
        for node in nodes_of(model)
        if node.op_type in WEIGHTED
        for weights in [constants.get(node.input[1])]
        if weights is not None
    )


def calibrate(file: Path, recipe: Recipe, rows: Iterable[Row], to: Path) -> Path:
    """Write the ranges of the model's tensors to `to`: those of every method, whatever the recipe.

    So one run serves all recipes of a file that have the same largest opset.
    """
    return write_ranges(_prepared(file, recipe), rows, to)


def make(file: Path, recipe: Recipe, ranges: Path | None, to: Path) -> None:
    """Write the recipe's candidate to `to`; refuse a pass that changes nothing."""
    if recipe.precision is Precision.FP32:
        finish_float(file, recipe, to)
        return
    prepared = _prepared(file, recipe)
    if recipe.precision in PASSES and not _operators(prepared, recipe):
        problem = f"the net has no operator that the {recipe.precision.value} pass changes"
        refuse(BuildReason.PASS_CHANGED_NOTHING, problem)
    try:
        model = _made(prepared, recipe, ranges)
    except BuildRefused:
        raise
    except Exception as error:
        raise _unsupported(error, prepared) from error
    _refuse_unchanged(prepared.plain, model, recipe)
    finish(model, recipe, to)
    if not recipe.kept_float:  # The search makes many, and runs each one at once.
        refuse_unloadable(to, BuildReason.NO_RECIPE)


def bindings_of(
    file: Path, signature: Signature
) -> tuple[tuple[Binding, ...], tuple[Binding, ...], int | None]:
    """Return inputs and outputs as the model has them, and the batch length that is fixed in it."""
    graph = onnx.load(file, load_external_data=False).graph
    constants = {constant.name for constant in graph.initializer}
    given = [value for value in graph.input if value.name not in constants]
    lengths = {length for value in given if (length := _fixed_batch(value)) is not None}
    if len(lengths) > 1:
        problem = f"the net's inputs have several fixed batch lengths, {sorted(lengths)}"
        refuse(BuildReason.SIGNATURE_MISFIT, problem)
    return (
        _bound(signature.inputs, given, "input"),
        _bound(signature.outputs, graph.output, "output"),
        next(iter(lengths), None),
    )


def _operators(prepared: Prepared, recipe: Recipe) -> tuple[Operator, ...]:
    match recipe.precision:
        case Precision.FP16:
            return half_operators(prepared)
        case Precision.INT8:
            return static_operators(prepared)
        case Precision.INT8_DYNAMIC:
            return dynamic_operators(prepared)
        case Precision.INT4:
            return packed_operators(prepared)
        case Precision.FP32 | Precision.INT8_WEIGHTS:
            return ()


def _made(prepared: Prepared, recipe: Recipe, ranges: Path | None) -> onnx.ModelProto:
    match recipe.precision:
        case Precision.FP16:
            return halve(prepared, recipe)
        case Precision.INT8 if ranges is not None:
            return quantize_static(prepared, recipe, read_ranges(ranges))
        case Precision.INT8_DYNAMIC:
            return quantize_dynamic(prepared, recipe)
        case Precision.INT4:
            return pack(prepared, recipe)
        case Precision.INT8:
            return refuse(BuildReason.CALIBRATION_MISSING, "static int8 takes ranges and has none")
        case Precision.FP32 | Precision.INT8_WEIGHTS:
            problem = f"onnxruntime has no pass for {recipe.precision.value}"
            return refuse(BuildReason.NO_RECIPE, problem)


def _prepared(file: Path, recipe: Recipe) -> Prepared:
    prepared = prepare(file, recipe.max_opset)
    _refuse_quantized(prepared.model)
    return prepared


def _refuse_quantized(model: onnx.ModelProto) -> None:
    found = next(filter(_is_quantized, nodes_of(model)), None)
    if found is not None:
        problem = f"the net is quantized already, by {found.op_type} {found.name!r}"
        refuse(BuildReason.ALREADY_QUANTIZED, problem)


def _is_quantized(node: onnx.NodeProto) -> bool:
    return node.op_type in QUANTIZED_KINDS or node.op_type.startswith("QLinear")


def _refuse_unchanged(before: onnx.ModelProto, after: onnx.ModelProto, recipe: Recipe) -> None:
    """Refuse what has no quantized operator, or weights about as large as they were.

    With operators kept in float the weights may well stay large.
    """
    what = recipe.precision.value
    if recipe.is_quantized and not any(map(_is_quantized, nodes_of(after))):
        refuse(BuildReason.PASS_CHANGED_NOTHING, f"the {what} pass left every operator in float")
    was, now = weight_bytes(before), weight_bytes(after)
    if not recipe.kept_float and now > LARGEST_SHARE * was:
        problem = f"the {what} pass left {now} of {was} bytes of weights"
        refuse(BuildReason.PASS_CHANGED_NOTHING, problem)


def _unsupported(error: Exception, prepared: Prepared) -> BuildRefused:
    """Return the refusal of the operator that the quantizer was at when it failed."""
    cause = " ".join(str(error).split())[:LONGEST_CAUSE] or "no words"
    problem = f"onnxruntime cannot quantize the net ({type(error).__name__}: {cause})"
    node = _node_in(error.__traceback__)
    if node is None:
        return BuildRefused(Fault(BuildReason.NO_RECIPE, problem))
    layer = prepared.layers.get(node.name, node.name)
    problem = f"onnxruntime cannot quantize the operator {node.op_type} of {layer!r} ({cause})"
    return BuildRefused(Fault(BuildReason.UNSUPPORTED_OPERATOR, problem))


def _node_in(trace: TracebackType | None) -> onnx.NodeProto | None:
    """Return the node that the deepest frame of the quantizer holds: its error names none."""
    found = None
    while trace is not None:
        node = trace.tb_frame.f_locals.get("node")
        found = node if isinstance(node, onnx.NodeProto) else found
        trace = trace.tb_next
    return found


def _weights_of(model: onnx.ModelProto) -> Counter[str]:
    """Return the bytes of constants by the kind of operator that takes them first.

    What is made of constants only (a transposed matrix) is a constant itself.
    """
    graphs = list(graphs_of(model.graph))
    sizes = {one.name: size_of(one) for graph in graphs for one in graph.initializer}
    constants = set(sizes)
    weights: Counter[str] = Counter()
    for node in (node for graph in graphs for node in graph.node):
        size = sum(sizes.pop(name, 0) for name in node.input)
        size += sum(size_of(entry.t) for entry in node.attribute if entry.HasField("t"))
        if constants.issuperset(filter(None, node.input)):
            constants.update(node.output)
            sizes[node.output[0]] = size
        elif size:
            weights[node.op_type] += size
    return weights


def _fixed_batch(value: onnx.ValueInfoProto) -> int | None:
    axes = value.type.tensor_type.shape.dim
    return axes[0].dim_value if axes and axes[0].HasField("dim_value") else None


def _bound(
    tensors: tuple[Tensor, ...], found: Iterable[onnx.ValueInfoProto], side: str
) -> tuple[Binding, ...]:
    kinds = {value.name: value.type.tensor_type.elem_type for value in found}
    return tuple(_bind(tensor, kinds, side) for tensor in tensors)


def _bind(tensor: Tensor, kinds: Mapping[str, int], side: str) -> Binding:
    datatype = DATATYPES.get(kinds.get(tensor.name, onnx.TensorProto.UNDEFINED))
    if datatype is not tensor.datatype:
        names = ", ".join(sorted(kinds))
        problem = f"the ONNX model has no {tensor.datatype.value} {side} {tensor.name!r} ({names})"
        refuse(BuildReason.SIGNATURE_MISFIT, problem)
    return Binding(name=tensor.name, runtime_name=tensor.name, datatype=datatype)
