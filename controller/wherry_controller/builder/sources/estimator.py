"""A scikit-learn estimator or pipeline, read with joblib: a pickle, so reading it runs code.

Numbers go in: all inputs of the signature side by side are the columns. What comes out is told by
the signature: whole numbers are the predicted labels, a floating tensor with as many columns as
there are classes is the probabilities, and for a regressor it is the prediction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import joblib
import numpy as np
import onnx
import onnx_ir
import onnx_ir.passes.common as passes
from safetensors.numpy import save_file
from skl2onnx import to_onnx as convert
from skl2onnx.common import data_types
from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator

from wherry.signature import Datatype, Signature, Tensor
from wherry_controller.builder.code import make_importable
from wherry_controller.builder.data.rows import NUMPY, Array, Tensors
from wherry_controller.builder.faults import refuse, refusing
from wherry_controller.builder.sources import base
from wherry_controller.core.card import Card
from wherry_controller.core.fault import BuildReason, BuildRefused

HIGHEST_OPSET = 20
ML_OPSET = 3
COLUMN_TYPES = {
    Datatype.FP32: data_types.FloatTensorType,
    Datatype.FP64: data_types.DoubleTensorType,
    Datatype.INT64: data_types.Int64TensorType,
    Datatype.INT32: data_types.Int32TensorType,
}
FLOATS = (Datatype.FP16, Datatype.FP32, Datatype.FP64)
DEEPEST = 12  # Of estimators within estimators.


class Answer(Enum):
    """What an output is, by skl2onnx's names for it."""

    LABEL = "label"
    PROBABILITIES = "probabilities"
    PREDICTION = "variable"


@dataclass(frozen=True, slots=True)
class EstimatorSource:
    estimator: object
    card: Card
    answers: Mapping[str, Answer]

    @property
    def signature(self) -> Signature:
        return self.card.signature

    def run(self, inputs: Tensors) -> Tensors:
        columns = [np.asarray(inputs[tensor.name]) for tensor in self.signature.inputs]
        rows = base.rows_in(inputs)
        with refusing(BuildReason.SIGNATURE_MISFIT, "the estimator fails on rows of the data"):
            table = np.concatenate([column.reshape(rows, -1) for column in columns], axis=1)
            arrays = [self._answer(tensor, table) for tensor in self.signature.outputs]
        return base.checked(self.signature, arrays, rows)

    def to_onnx(self, opset: int, sample: Tensors, file: Path) -> None:
        try:
            with refusing(BuildReason.NOT_EXPORTABLE, "the estimator does not convert to ONNX"):
                with base.quiet():
                    model = self._converted(opset)
                _in_terms(model, self.signature, self.answers)
                onnx.save(onnx_ir.to_proto(model), file)
        except BuildRefused as refusal:
            if not isinstance(refusal.__cause__, MissingConverter | MissingShapeCalculator):
                raise
            step = type(self.estimator).__name__
            problem = f"ONNX has nothing for a part of the {step} ({refusal.__cause__})"
            refuse(BuildReason.UNSUPPORTED_OPERATOR, " ".join(problem.split())[:400])

    def to_lite(self, sample: Tensors, file: Path) -> None:
        refuse(BuildReason.NO_RECIPE, "no LiteRT model can be made of a scikit-learn estimator")

    def to_safetensors(self, file: Path) -> None:
        save_file(dict(_arrays("", self.estimator, DEEPEST)), str(file))

    def _answer(self, tensor: Tensor, table: Array) -> Array:
        is_score = self.answers[tensor.name] is Answer.PROBABILITIES
        method = getattr(self.estimator, "predict_proba" if is_score else "predict")
        shape = [len(table), *(axis for axis in tensor.shape[1:] if isinstance(axis, int))]
        return np.asarray(method(table)).reshape(shape).astype(NUMPY[tensor.datatype])

    def _converted(self, opset: int) -> onnx_ir.Model:
        types = [(tensor.name, _column_type(tensor)) for tensor in self.signature.inputs]
        options = {"zipmap": False} if hasattr(self.estimator, "predict_proba") else None
        target = {"": min(opset, HIGHEST_OPSET), "ai.onnx.ml": ML_OPSET}
        converted: onnx.ModelProto = convert(
            self.estimator, initial_types=types, options=options, target_opset=target
        )
        return onnx_ir.from_proto(converted)


def open_estimator(card: Card, folder: Path) -> EstimatorSource:
    """Return the estimator in the card's file: its own code runs while it is read."""
    estimator = read_estimator(folder / card.source.file)
    answers = {
        tensor.name: _answer_of(card, tensor, estimator) for tensor in card.signature.outputs
    }
    return EstimatorSource(estimator, card, answers)


def read_estimator(file: Path) -> object:
    """Return what the pickle makes, if it predicts; its own code runs meanwhile."""
    make_importable(file.parent)  # A pickle names the classes of the version's own modules.
    with refusing(BuildReason.SOURCE_UNREADABLE, f"{file.name} cannot be read"), base.quiet():
        estimator = joblib.load(file)
    if not hasattr(estimator, "predict"):
        problem = f"{file.name} holds a {type(estimator).__name__}, which predicts nothing"
        refuse(BuildReason.SOURCE_UNREADABLE, problem)
    return estimator


def _answer_of(card: Card, tensor: Tensor, estimator: object) -> Answer:
    named = card.source.names.get(tensor.name)
    if named is not None:
        known = {answer.value: answer for answer in Answer}
        if named not in known:
            problem = f"{tensor.name!r} is said to be {named!r} and not one of {sorted(known)}"
            refuse(BuildReason.SIGNATURE_MISFIT, problem)
        return known[named]
    if not hasattr(estimator, "classes_"):
        return Answer.PREDICTION
    return Answer.PROBABILITIES if tensor.datatype in FLOATS else Answer.LABEL


def _column_type(tensor: Tensor) -> object:
    kind = COLUMN_TYPES.get(tensor.datatype)
    if kind is None or len(tensor.shape) > 2:
        problem = f"{tensor.name!r} is no column of numbers of 32 or 64 bits"
        refuse(BuildReason.SIGNATURE_MISFIT, problem)
    return kind([None, *tensor.shape[1:]])


def _in_terms(model: onnx_ir.Model, signature: Signature, answers: Mapping[str, Answer]) -> None:
    """Give the graph the signature's outputs, types and shapes."""
    graph = model.graph
    given = {str(value.name): value for value in graph.outputs}
    for value, tensor in zip(graph.inputs, signature.inputs, strict=True):
        value.shape = onnx_ir.Shape(tensor.shape)
    for value in given.values():
        value.name = f"{value.name}_of_the_estimator"
    graph.outputs[:] = [
        _shaped(graph, tensor, _given(given, answers[tensor.name])) for tensor in signature.outputs
    ]
    passes.RemoveUnusedNodesPass()(model)


def _given(given: Mapping[str, onnx_ir.Value], answer: Answer) -> onnx_ir.Value:
    """Return the converter's output; some converters number theirs."""
    found = next((value for name, value in given.items() if answer.value in name), None)
    if found is None:
        problem = f"the converter gives no {answer.value} but {sorted(given)}"
        refuse(BuildReason.NOT_EXPORTABLE, problem)
    return found


def _shaped(graph: onnx_ir.Graph, tensor: Tensor, value: onnx_ir.Value) -> onnx_ir.Value:
    """Return the value cast and reshaped as the signature says."""
    dtype = onnx_ir.DataType.from_numpy(NUMPY[tensor.datatype])
    cast = onnx_ir.Node("", "Cast", [value], [onnx_ir.AttrInt64("to", int(dtype))])
    lengths = [-1, *(axis for axis in tensor.shape[1:] if isinstance(axis, int))]
    array = onnx_ir.tensor(np.array(lengths, np.int64), name=f"{tensor.name}_shape")
    shape = onnx_ir.Value(name=array.name, const_value=array)
    graph.register_initializer(shape)
    reshape = onnx_ir.Node("", "Reshape", [cast.outputs[0], shape])
    graph.extend([cast, reshape])
    result = reshape.outputs[0]
    result.name, result.dtype, result.shape = tensor.name, dtype, onnx_ir.Shape(tensor.shape)
    return result


def _arrays(path: str, part: object, depth: int) -> Iterator[tuple[str, Array]]:
    """Yield what an estimator learned, named by the way to it."""
    if isinstance(part, np.ndarray) and part.dtype.kind in "fiub":
        yield path or "values", np.ascontiguousarray(part)
    elif isinstance(part, np.ndarray) and part.dtype.kind != "O":
        return
    elif depth:
        for name, inner in _parts(part):
            yield from _arrays(f"{path}.{name}" if path else name, inner, depth - 1)


def _parts(part: object) -> Iterator[tuple[str, object]]:
    if isinstance(part, Mapping):
        yield from ((str(name), inner) for name, inner in part.items())
    elif isinstance(part, list | tuple | np.ndarray):
        yield from ((str(index), inner) for index, inner in enumerate(part))
    elif type(part).__module__.startswith("sklearn.tree._tree"):
        nodes = part.__getstate__()["nodes"]  # type: ignore[index]
        yield from ((name, nodes[name]) for name in nodes.dtype.names)
        yield "values", part.value  # type: ignore[attr-defined]
    elif type(part).__module__.startswith("sklearn."):
        yield from getattr(part, "__dict__", {}).items()  # Compiled parts have none.
