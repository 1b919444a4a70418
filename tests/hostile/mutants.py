"""Sound models that were damaged: bits flipped, files cut, graphs and tables altered.

Each is made from a seed, so that a run can be repeated. Some damage changes nothing that a model
answers: whether one is harmful is judged by its answers, not by whether it differs.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.agent.bundles import a_litert_bundle, weights
from tests.agent.tflite import pack
from wherry.manifest import MODEL_FILE


def a_winding_model() -> bytes:
    """Return a model that computes `logits_of` by way of many kinds of nodes."""
    constants: dict[str, NDArray[np.generic]] = {
        "axis": np.array([1], np.int64),
        "kernel": np.ones((1, 1, 1, 1), np.float32),
        "w": weights(0),
        "b": np.full(4, 0.5, np.float32),
        "half": np.array(-0.5, np.float32),
        "left": np.array([0], np.int64),
        "middle": np.array([2], np.int64),
        "right": np.array([4], np.int64),
        "flat_shape": np.array([0, -1], np.int64),
    }
    nodes = [
        helper.make_node("Unsqueeze", ["x", "axis"], ["channel"]),
        helper.make_node("Conv", ["channel", "kernel"], ["image"], kernel_shape=[1, 1]),
        helper.make_node("Relu", ["image"], ["above"]),
        helper.make_node("Neg", ["image"], ["turned"]),
        helper.make_node("Relu", ["turned"], ["below"]),
        helper.make_node("Sub", ["above", "below"], ["whole"]),
        helper.make_node("Reshape", ["whole", "flat_shape"], ["flat"]),
        helper.make_node("Slice", ["flat", "left", "middle", "axis"], ["first"]),
        helper.make_node("Slice", ["flat", "middle", "right", "axis"], ["second"]),
        helper.make_node("Concat", ["first", "second"], ["joined"], axis=1),
        helper.make_node("MatMul", ["joined", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["shifted"]),
        helper.make_node("Add", ["shifted", "half"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "winding",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    return bytes(helper.make_model(graph, ir_version=9, opset_imports=opsets).SerializeToString())


def a_lite_model() -> bytes:
    """Return the file of `a_litert_bundle`."""
    bundle = a_litert_bundle()
    return bundle.blobs[bundle.manifest.files[MODEL_FILE].digest]


def flipped(data: bytes, count: int, *, seed: int) -> Iterator[bytes]:
    """Yield copies of `data`, each with one or two bits flipped."""
    chance = random.Random(seed)
    for _ in range(count):
        damaged = bytearray(data)
        for _ in range(chance.randint(1, 2)):
            damaged[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        yield bytes(damaged)


def cut(data: bytes, count: int, *, seed: int) -> Iterator[bytes]:
    """Yield copies of `data` that end too early, lack a piece, or have one twice."""
    chance = random.Random(seed)
    for number in range(count):
        start, end = sorted(chance.sample(range(len(data)), 2))
        parts = (data[:start], data[:start] + data[end:], data[:end] + data[start:])
        yield parts[number % 3]


def altered_graphs(data: bytes, count: int, *, seed: int) -> Iterator[bytes]:
    """Yield ONNX models whose graphs were altered in one to three places."""
    chance = random.Random(seed)
    for _ in range(count):
        model = onnx.load_from_string(data)
        for _ in range(chance.randint(1, 3)):
            chance.choice(_GRAPH_CHANGES)(model.graph, chance)
        yield bytes(model.SerializeToString())


def altered_tables(data: bytes, count: int, *, seed: int) -> Iterator[bytes]:
    """Yield LiteRT models whose tables were altered in one to three places."""
    chance = random.Random(seed)
    whole = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    for _ in range(count):
        model = copy.deepcopy(whole)
        for _ in range(chance.randint(1, 3)):
            chance.choice(_TABLE_CHANGES)(model, chance)
        yield pack(model)


# How ONNX graphs are altered


def _drop_node(graph: onnx.GraphProto, chance: random.Random) -> None:
    if graph.node:
        del graph.node[chance.randrange(len(graph.node))]


def _double_node(graph: onnx.GraphProto, chance: random.Random) -> None:
    if graph.node:
        graph.node.append(chance.choice(graph.node))


def _swap_nodes(graph: onnx.GraphProto, chance: random.Random) -> None:
    nodes = list(graph.node)
    chance.shuffle(nodes)
    del graph.node[:]
    graph.node.extend(nodes)


def _rewire(graph: onnx.GraphProto, chance: random.Random) -> None:
    names = [name for node in graph.node for name in (*node.input, *node.output)] or [""]
    node = chance.choice(graph.node) if graph.node else None
    if node is not None and node.input:
        node.input[chance.randrange(len(node.input))] = chance.choice(names)


def _other_operator(graph: onnx.GraphProto, chance: random.Random) -> None:
    if graph.node:
        names = ("Exp", "Neg", "Loop", "Gather", "Tile", "Expand", "Resize", "MatMul", "Einsum")
        chance.choice(graph.node).op_type = chance.choice(names)


def _other_values(graph: onnx.GraphProto, chance: random.Random) -> None:
    tensor = chance.choice(graph.initializer)
    length = len(tensor.raw_data)
    tensor.raw_data = chance.choice((bytes(length), b"\xff" * length, chance.randbytes(length)))


def _other_dims(graph: onnx.GraphProto, chance: random.Random) -> None:
    tensor = chance.choice(graph.initializer)
    del tensor.dims[:]
    tensor.dims.extend(chance.choice(((0,), (-1,), (1 << 40,), (3, 5), ())))


def _other_type(graph: onnx.GraphProto, chance: random.Random) -> None:
    chance.choice(graph.initializer).data_type = chance.randrange(24)


def _other_attribute(graph: onnx.GraphProto, chance: random.Random) -> None:
    nodes = [node for node in graph.node if node.attribute]
    if nodes:
        attribute = chance.choice(chance.choice(nodes).attribute)
        attribute.i = chance.choice((-1, 0, 99, 1 << 40))
        attribute.ints[:] = [chance.choice((-1, 0, 1 << 31))] * len(attribute.ints)


def _other_shapes(graph: onnx.GraphProto, chance: random.Random) -> None:
    side = chance.choice((graph.input, graph.output))
    axes = chance.choice(side).type.tensor_type.shape.dim
    chance.choice(axes).dim_value = chance.choice((0, 1, 3, 1 << 33))


_GRAPH_CHANGES: tuple[Callable[[onnx.GraphProto, random.Random], None], ...] = (
    _drop_node,
    _double_node,
    _swap_nodes,
    _rewire,
    _other_operator,
    _other_values,
    _other_dims,
    _other_type,
    _other_attribute,
    _other_shapes,
)


# How LiteRT tables are altered


def _other_index(model: schema.ModelT, chance: random.Random) -> None:
    operator = model.subgraphs[0].operators[0]
    side = chance.choice((operator.inputs, operator.outputs))
    side[chance.randrange(len(side))] = chance.choice((-1, -2, 0, 3, 99, 1 << 30))


def _other_ends(model: schema.ModelT, chance: random.Random) -> None:
    graph = model.subgraphs[0]
    side = chance.choice((graph.inputs, graph.outputs))
    side[0] = chance.choice((-1, 1, 2, 99, 1 << 30))


def _other_buffer(model: schema.ModelT, chance: random.Random) -> None:
    chance.choice(model.subgraphs[0].tensors).buffer = chance.choice((0, 1, 2, 99, 1 << 31))


def _other_lite_shape(model: schema.ModelT, chance: random.Random) -> None:
    tensor = chance.choice(model.subgraphs[0].tensors)
    tensor.shape = list(chance.choice(((0,), (-1, 4), (1 << 30, 4), (4,), (2, 2, 2, 2), ())))


def _other_lite_type(model: schema.ModelT, chance: random.Random) -> None:
    chance.choice(model.subgraphs[0].tensors).type = chance.randrange(18)


def _other_scale(model: schema.ModelT, chance: random.Random) -> None:
    quantization = chance.choice(model.subgraphs[0].tensors).quantization
    if quantization is not None:
        quantization.scale = [chance.choice((0.0, -1.0, 1e30, float("nan"), 0.5))]


def _other_lite_operator(model: schema.ModelT, chance: random.Random) -> None:
    code = model.operatorCodes[0]
    code.builtinCode = code.deprecatedBuiltinCode = chance.randrange(120)


def _other_version(model: schema.ModelT, chance: random.Random) -> None:
    model.operatorCodes[0].version = chance.choice((0, 1, 99, 1 << 20))


def _shorter_buffer(model: schema.ModelT, chance: random.Random) -> None:
    buffer = chance.choice(model.buffers)
    if buffer.data is not None and len(buffer.data):
        buffer.data = list(buffer.data)[: chance.randrange(len(buffer.data))]


def _other_bytes(model: schema.ModelT, chance: random.Random) -> None:
    buffer = chance.choice(model.buffers)
    if buffer.data is not None and len(buffer.data):
        buffer.data = [chance.randrange(256) for _ in buffer.data]


_TABLE_CHANGES: tuple[Callable[[schema.ModelT, random.Random], None], ...] = (
    _other_index,
    _other_ends,
    _other_buffer,
    _other_lite_shape,
    _other_lite_type,
    _other_scale,
    _other_lite_operator,
    _other_version,
    _shorter_buffer,
    _other_bytes,
)
