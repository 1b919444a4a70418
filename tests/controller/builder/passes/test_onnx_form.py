"""Tests of the form that ONNX models are brought to and written in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.controller.builder.passes import onnx_weights
from tests.controller.builder.passes.onnx_nets import (
    a_model,
    a_recipe,
    answers,
    conv_net,
    rows,
    saved,
    weights,
)
from wherry.profile import Precision
from wherry.signature import Datatype, Signature, Tensor
from wherry_controller.builder.passes.onnx import bindings_of, calibrate, finish_float, make
from wherry_controller.core.fault import BuildReason, BuildRefused, Fault

FP32, INT8 = a_recipe(Precision.FP32), a_recipe(Precision.INT8)


def finished(model: onnx.ModelProto, folder: Path, *, max_opset: int = 20) -> Path:
    to = folder / "finished.onnx"
    finish_float(saved(model, folder), a_recipe(Precision.FP32, max_opset=max_opset), to)
    return to


def fault_of(model: onnx.ModelProto, folder: Path, *, max_opset: int = 20) -> Fault:
    with pytest.raises(BuildRefused) as caught:
        finished(model, folder, max_opset=max_opset)
    return caught.value.fault


@pytest.mark.parametrize(("opset", "written"), [(11, 13), (13, 13), (20, 20), (22, 20)])
def test_an_opset_is_brought_within_bounds_and_answers_the_same(
    tmp_path: Path, opset: int, written: int
) -> None:
    model = conv_net(opset=opset)
    to = finished(model, tmp_path)
    assert [(one.domain, one.version) for one in onnx.load(to).opset_import] == [("", written)]
    given = rows(model, 4)
    np.testing.assert_allclose(
        answers(to, given), answers(saved(model, tmp_path), given), atol=1e-6
    )


def test_a_net_that_needs_a_newer_opset_is_refused_with_both_numbers(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gelu", ["x"], ["y"], name="gelu")]
    fault = fault_of(a_model(nodes, [], ("batch", 4), ("batch", 4)), tmp_path, max_opset=17)
    assert fault.reason is BuildReason.NO_RECIPE
    assert "opset 20" in fault.problem
    assert "17" in fault.problem


def test_an_operator_that_nobody_knows_is_named_with_its_layer(tmp_path: Path) -> None:
    model = conv_net()
    node = model.graph.node[1]
    node.op_type, node.domain, node.name = "Wobble", "my.own", "/body/act/Wobble"
    model.opset_import.append(helper.make_opsetid("my.own", 1))
    fault = fault_of(model, tmp_path)
    assert fault.reason is BuildReason.UNSUPPORTED_OPERATOR
    assert "my.own.Wobble" in fault.problem
    assert "body/act" in fault.problem


def test_an_operator_without_a_kernel_is_named(tmp_path: Path) -> None:
    model = a_model(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="doubled")],
        [],
        ("batch", 3, 8, 8),
        ("batch", 4, 6, 6),
    )
    values = np.zeros((4, 3, 3, 3), np.float64)
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, "w"))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    fault = fault_of(model, tmp_path)
    assert fault.reason is BuildReason.UNSUPPORTED_OPERATOR
    assert "Conv" in fault.problem
    assert "doubled" in fault.problem


def test_newer_ir_and_unused_imports_and_traces_are_taken_out(tmp_path: Path) -> None:
    model = conv_net(ir=11)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.producer_name, model.doc_string = "somebody", "at home"
    model.graph.node[0].doc_string = "/home/somebody/net.py"
    model.metadata_props.add().key = "path"
    written = onnx.load(finished(model, tmp_path))
    assert written.ir_version == FP32.max_ir
    assert [one.domain for one in written.opset_import] == [""]
    assert b"somebody" not in written.SerializeToString()
    assert not written.metadata_props


def test_constants_of_old_exporters_are_no_inputs(tmp_path: Path) -> None:
    model = conv_net(opset=13, ir=3)
    for constant in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(constant.name, constant.data_type, constant.dims)
        )
    to = finished(model, tmp_path)
    assert [value.name for value in onnx.load(to).graph.input] == ["x"]
    assert len(onnx_weights.weights(to)) == 3


def test_weights_that_are_computed_from_constants_are_folded(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["w"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "turned"], ["y"], name="product"),
    ]
    model = a_model(nodes, [weights("w", 8, 32)], ("batch", 32), ("batch", 8))
    (layer,) = onnx_weights.weights(finished(model, tmp_path))
    assert layer.values.shape == (32, 8)


def test_constants_that_would_grow_are_not_folded(tmp_path: Path) -> None:
    shape = onnx.numpy_helper.from_array(np.array([1024, 1024], np.int64), "shape")
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"], name="zeros"),
        helper.make_node("MatMul", ["x", "zeros"], ["y"], name="product"),
    ]
    model = a_model(nodes, [shape], ("batch", 1024), ("batch", 1024))
    assert finished(model, tmp_path).stat().st_size < 1024


def test_external_data_is_taken_in(tmp_path: Path) -> None:
    folder = tmp_path / "outside"
    folder.mkdir()
    file = folder / "net.onnx"
    onnx.save(
        conv_net(), file, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    assert file.stat().st_size < (folder / "weights.bin").stat().st_size
    to = tmp_path / "whole.onnx"
    finish_float(file, FP32, to)
    assert answers(to, rows(conv_net(), 1)).shape == (1, 10)


def test_a_net_of_2_gb_is_refused_before_it_is_read(tmp_path: Path) -> None:
    model = conv_net()
    constant = model.graph.initializer[0]
    constant.ClearField("raw_data")
    constant.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("length", str(3 << 30))):
        entry = constant.external_data.add()
        entry.key, entry.value = key, value
    fault = fault_of(model, tmp_path)
    assert fault.reason is BuildReason.NO_RECIPE
    assert "2147483647" in fault.problem


def test_a_file_that_is_no_model_and_missing_data_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    file.write_bytes(b"no model at all")
    with pytest.raises(BuildRefused) as broken:
        finish_float(file, FP32, tmp_path / "finished.onnx")
    assert broken.value.fault.reason is BuildReason.SOURCE_UNREADABLE


def test_a_candidate_is_of_the_recipes_opset_and_imports_what_it_uses(tmp_path: Path) -> None:
    file = saved(conv_net(opset=22), tmp_path)
    ranges = calibrate(file, INT8, rows(conv_net(), 5), tmp_path / "ranges.json")
    make(file, INT8, ranges, tmp_path / "made.onnx")
    model = onnx.load(tmp_path / "made.onnx")
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 20)]
    assert model.ir_version <= INT8.max_ir


def the_signature(name: str = "x", datatype: Datatype = Datatype.FP32) -> Signature:
    given = Tensor(name, datatype, ("batch", 3, 8, 8))
    return Signature(inputs=(given,), outputs=(Tensor("y", Datatype.FP32, ("batch", 10)),))


def test_bindings_are_by_the_signatures_names(tmp_path: Path) -> None:
    inputs, outputs, static_batch = bindings_of(saved(conv_net(), tmp_path), the_signature())
    assert [(one.name, one.runtime_name, one.datatype) for one in (*inputs, *outputs)] == [
        ("x", "x", Datatype.FP32),
        ("y", "y", Datatype.FP32),
    ]
    assert static_batch is None


def test_a_batch_that_is_fixed_in_the_net_is_static(tmp_path: Path) -> None:
    model = conv_net()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    assert bindings_of(saved(model, tmp_path), the_signature())[2] == 4


@pytest.mark.parametrize("other", [the_signature("z"), the_signature("x", Datatype.INT8)])
def test_a_signature_that_misfits_the_net_is_refused(tmp_path: Path, other: Signature) -> None:
    with pytest.raises(BuildRefused) as caught:
        bindings_of(saved(conv_net(), tmp_path), other)
    assert caught.value.fault.reason is BuildReason.SIGNATURE_MISFIT
