"""A LiteRT file opened for the passes: its operators, and which of them form one unit.

The converter names an operator's output after the layers that it was made of, and what a net calls
one layer may be many operators: a normalization is nine, an LSTM is unrolled into fifteen a step
that share their weights. So what is returned to float is a unit: the operators that share a weight,
or those without weights that come from one layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from ai_edge_litert.schema_py_generated import (
    BuiltinOperator,
    ModelT,
    OperatorCodeT,
    TensorT,
    TensorType,
)
from ai_edge_quantizer.qtyping import TFLOperationName
from ai_edge_quantizer.utils import tfl_flatbuffer_utils as flatbuffer

KINDS = {code: name for name, code in vars(BuiltinOperator).items() if name.isupper()}
WEIGHT_TYPES = frozenset({TensorType.FLOAT32, TensorType.FLOAT16, TensorType.INT8, TensorType.INT4})
ONNX_KINDS = {
    "CONV_2D": "Conv",
    "DEPTHWISE_CONV_2D": "Conv",
    "CONV_3D": "Conv",
    "TRANSPOSE_CONV": "ConvTranspose",
    "CONV_3D_TRANSPOSE": "ConvTranspose",
    "FULLY_CONNECTED": "Gemm",
    "BATCH_MATMUL": "MatMul",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "LSTM",
    "BIDIRECTIONAL_SEQUENCE_LSTM": "LSTM",
    "UNIDIRECTIONAL_SEQUENCE_RNN": "RNN",
    "EMBEDDING_LOOKUP": "Gather",
    "LOGISTIC": "Sigmoid",
    "MAX_POOL_2D": "MaxPool",
    "AVERAGE_POOL_2D": "AveragePool",
    "MEAN": "ReduceMean",
    "CONCATENATION": "Concat",
}
WEIGHTED = frozenset(
    {
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "TRANSPOSE_CONV",
        "FULLY_CONNECTED",
        "BATCH_MATMUL",
        "EMBEDDING_LOOKUP",
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
    }
)
# These hand values on as they are, in the scale that they came with.
MOVERS = frozenset(
    {
        "RESHAPE", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "SPLIT", "PACK", "UNPACK", "GATHER_ND",
        "BROADCAST_TO", "MAX_POOL_2D", "PAD", "PADV2", "MIRROR_PAD", "SPACE_TO_DEPTH",
        "RESIZE_NEAREST_NEIGHBOR",
    }
)  # fmt: skip
LAYERS_OF_WEIGHTS = (".conv.", ".linear.", ".rnn.", ".sparse.")


@dataclass(frozen=True, slots=True)
class Step:
    """One operator of the file.

    `reads` and `writes` are tensors by their index, without constants; `weights` is the buffer of
    its weights, 0 where it has none; `scope` is the quantizer's name for it.
    """

    index: int
    kind: str
    scope: str
    layer: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    weights: int
    weight_bytes: int

    @property
    def is_mover(self) -> bool:
        return self.kind in MOVERS

    @property
    def known(self) -> TFLOperationName | None:
        """Return the quantizer's kind of this operator; None where it knows no such kind."""
        code = getattr(BuiltinOperator, self.kind, -1)
        return flatbuffer.TFL_OP_CODE_TO_NAME.get(code)


@dataclass(frozen=True, slots=True)
class LiteGraph:
    """A parsed file, whose arrays are views of its bytes; nothing may change `tree`."""

    digest: str
    tree: ModelT
    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def name_of(self, tensor: int) -> str:
        return str(flatbuffer.get_tensor_name(self.tree.subgraphs[0].tensors[tensor]))


def opened(file: Path) -> LiteGraph:
    """Parse the file, once as long as it stays what it is."""
    facts = file.stat()
    return _opened(file, facts.st_mtime_ns, facts.st_size)


def units(graph: LiteGraph) -> dict[str, tuple[Step, ...]]:
    """Return the units by name, in the order of their first operators."""
    found: dict[tuple[str, object], list[Step]] = {}
    for step in graph.steps:
        found.setdefault(_unit(step), []).append(step)
    return {f"{steps[0].kind}.{steps[0].index}": tuple(steps) for steps in found.values()}


def onnx_kind(kind: str) -> str:
    """Return ONNX's word for a LiteRT operator, which the rules of recipes know."""
    return ONNX_KINDS.get(kind) or "".join(part.capitalize() for part in kind.split("_"))


@lru_cache(maxsize=2)
def _opened(file: Path, _time: int, _size: int) -> LiteGraph:
    # Of bytes of its own and not of the mapped file: another file may take its place.
    content = file.read_bytes()
    tree, digest = flatbuffer.read_model(memoryview(content)), sha256(content).hexdigest()
    main = tree.subgraphs[0]
    return LiteGraph(digest, tree, tuple(_steps(tree)), tuple(main.inputs), tuple(main.outputs))


def _steps(tree: ModelT) -> Iterator[Step]:
    main, counted = tree.subgraphs[0], set[int]()
    for index, operator in enumerate(main.operators):
        kind = _kind(tree.operatorCodes[operator.opcodeIndex])
        present = [one for one in operator.inputs if one >= 0]
        constant = [one for one in present if _is_constant(tree, main.tensors[one])]
        weights = [one for one in constant if _is_weight(kind, main.tensors[one])]
        fresh = {main.tensors[one].buffer: _bytes(tree, main.tensors[one]) for one in constant}
        fresh = {buffer: size for buffer, size in fresh.items() if buffer not in counted}
        counted |= fresh.keys()
        yield Step(
            index=index,
            kind=kind,
            scope=flatbuffer.get_op_scope(operator, main.tensors),
            layer=_layer([main.tensors[one] for one in (*operator.outputs, *constant)], kind),
            reads=tuple(one for one in present if one not in constant),
            writes=tuple(operator.outputs),
            weights=main.tensors[weights[0]].buffer if weights else 0,
            weight_bytes=sum(fresh.values()),
        )


def _kind(code: OperatorCodeT) -> str:
    if code.customCode:
        return str(code.customCode.decode())
    return str(KINDS.get(max(code.builtinCode, code.deprecatedBuiltinCode), "UNKNOWN"))


def _is_constant(tree: ModelT, tensor: TensorT) -> bool:
    return tree.buffers[tensor.buffer].data is not None


def _bytes(tree: ModelT, tensor: TensorT) -> int:
    """Return the size of a constant; 0 for shapes, indices and the like."""
    return len(tree.buffers[tensor.buffer].data) if tensor.type in WEIGHT_TYPES else 0


def _shape(tensor: TensorT) -> list[int]:
    return [] if tensor.shape is None else list(tensor.shape)


def _is_weight(kind: str, tensor: TensorT) -> bool:
    return kind in WEIGHTED and len(_shape(tensor)) > 1


def _unit(step: Step) -> tuple[str, object]:
    if step.weights:
        return "weights", step.weights
    return ("layer", step.layer) if step.layer else ("operator", step.index)


def _layer(tensors: list[TensorT], kind: str) -> str:
    """Return the layer by the net's own attributes, such as `body.0.conv`; empty if unknown.

    A fused operator has the names of all its layers: the one with the weights is meant.
    """
    for tensor in tensors:
        fused = [part for part in flatbuffer.get_tensor_name(tensor).split(";") if "/" in part]
        if fused and kind not in WEIGHTED:
            return _attributes(fused[0])
        if fused:
            own = [part for part in fused if any(one in part for one in LAYERS_OF_WEIGHTS)]
            return _attributes(max(reversed(own or fused), key=lambda part: part.count("/")))
    return ""


def _attributes(path: str) -> str:
    """Take the attributes out of `__main__.Net/torch.nn.modules.conv.Conv2d_stem/…`."""
    parts = (part.rpartition(".")[2] for part in path.split("/")[1:])
    return ".".join(part.partition("_")[2] or part for part in parts)
