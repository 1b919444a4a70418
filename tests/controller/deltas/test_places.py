"""Where tensors stand: found without a runtime, and paired with those that they come of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.controller.deltas.files import a_model, onnx_places, some_weights
from wherry_controller.deltas.encode import find_places
from wherry_controller.deltas.onnx_places import find_onnx
from wherry_controller.deltas.tensors import NoSuchFile, Place, in_order, paired
from wherry_controller.deltas.tflite_places import find_tflite

MODELS = Path(__file__).parents[2] / "vectors" / "models"


def test_an_onnx_files_tensors_are_where_its_library_reads_them() -> None:
    data = a_model(some_weights() | some_weights(1, "float16"))
    found = {place.name: data[place.start : place.end] for place in find_onnx(data)}
    assert found == onnx_places(data)


@pytest.mark.parametrize(
    ("dtype", "item"),
    [
        *(("int8", 1), ("uint8", 1), ("bool", 1)),
        *(("float16", 2), ("int16", 2), ("uint16", 2)),
        *(("float32", 4), ("int32", 4), ("uint32", 4)),
        *(("float64", 8), ("int64", 8), ("uint64", 8)),
    ],
)
def test_an_onnx_tensors_item_and_row_are_those_of_its_type(dtype: str, item: int) -> None:
    data = a_model({"w": np.ones((6, 5, 4), dtype=dtype)})
    (place,) = find_onnx(data)
    assert (place.item, place.row, place.end - place.start) == (item, 20, 120 * item)


def test_floats_in_a_field_of_their_own_are_found() -> None:
    values = [float(number) for number in range(40)]
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [40], values)
    graph = helper.make_graph([], "net", [], [], initializer=[tensor])
    data = helper.make_model(graph).SerializeToString()
    (place,) = find_onnx(data)
    assert data[place.start : place.end] == np.array(values, dtype="<f4").tobytes()


def test_constants_within_nodes_and_their_graphs_are_found() -> None:
    inner = numpy_helper.from_array(np.arange(50, dtype="f4"), "inner")
    branch = helper.make_graph([], "branch", [], [], initializer=[inner])
    outer = numpy_helper.from_array(np.arange(60, dtype="f4"), "outer")
    nodes = [
        helper.make_node("Constant", [], ["c"], value=outer),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
    ]
    data = helper.make_model(helper.make_graph(nodes, "net", [], [])).SerializeToString()
    lengths = sorted(place.end - place.start for place in find_onnx(data))
    assert lengths == [200, 200, 240]


def test_a_tflite_files_tensors_are_where_its_runtime_reads_them() -> None:
    files = sorted(MODELS.glob("*.tflite"))
    assert files
    for file in files:
        data = file.read_bytes()
        interpreter = Interpreter(model_path=str(file))
        names = {detail["name"]: detail for detail in interpreter.get_tensor_details()}
        for place in find_tflite(data):
            detail = names[place.name.split("/", 1)[1]]
            assert place.end - place.start == np.prod(detail["shape"]) * place.item
            assert np.dtype(detail["dtype"]).itemsize == place.item
            values = interpreter.get_tensor(detail["index"])
            assert data[place.start : place.end] == values.tobytes()


@given(st.binary(max_size=300))
def test_bytes_that_are_no_model_have_no_tensors_or_places_within(data: bytes) -> None:
    for place in find_places(data):
        assert 0 <= place.start < place.end <= len(data)


@given(st.integers(0, 2000), st.binary(min_size=1, max_size=8))
def test_a_damaged_file_is_read_within_its_bounds(at: int, noise: bytes) -> None:
    for whole in (a_model(some_weights()), min(MODELS.glob("*.tflite")).read_bytes()):
        data = whole[:at] + noise + whole[at + len(noise) :]
        for place in find_places(data):
            assert 0 <= place.start < place.end <= len(data)


def test_a_file_that_is_cut_is_no_model() -> None:
    data = a_model(some_weights())
    with pytest.raises(NoSuchFile):
        find_onnx(data[:-5])
    with pytest.raises(NoSuchFile):
        find_onnx(b"")
    with pytest.raises(NoSuchFile):
        find_tflite(data)


def a_place(name: str, start: int = 0, length: int = 100, *, item: int = 1) -> Place:
    return Place(name, start, start + length, item, length // item)


def test_tensors_are_paired_by_name_where_their_shape_stayed() -> None:
    new = [a_place("a"), a_place("b", 100), a_place("c", 200, 300)]
    base = [a_place("b"), a_place("a", 100), a_place("c", 200, 100)]
    assert paired(new, base) == {new[0]: base[1], new[1]: base[0]}


def test_tensors_that_an_exporter_named_anew_are_paired_in_order() -> None:
    new = [a_place("val_7"), a_place("val_8", 100), a_place("kept", 200)]
    base = [a_place("val_3", 5), a_place("kept", 105), a_place("val_4", 205)]
    assert paired(new, base) == {new[0]: base[0], new[1]: base[2], new[2]: base[1]}


def test_a_tensor_is_the_base_of_one_other_at_most() -> None:
    new = [a_place("x"), a_place("y", 100)]
    assert paired(new, [a_place("z")]) == {new[0]: a_place("z")}


def test_places_that_overlap_or_are_short_are_left_out() -> None:
    whole, within, short = a_place("a"), a_place("b", 50), a_place("c", 300, 10)
    assert in_order([short, within, whole]) == [whole]
