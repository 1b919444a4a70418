"""Tests of the passes on ONNX files: what they change, what they leave and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

from tests.controller.builder.passes import onnx_weights
from tests.controller.builder.passes.onnx_nets import (
    a_model,
    a_recipe,
    answers,
    conv_net,
    lstm_net,
    product_net,
    rows,
    saved,
    weights,
)
from wherry.profile import Activation, Precision
from wherry_controller.builder import onnx_file
from wherry_controller.builder.passes.onnx import (
    calibrate,
    finish_float,
    graph_of,
    is_quantized,
    make,
    operators_of,
)
from wherry_controller.builder.passes.onnx_prepared import prepare
from wherry_controller.core.fault import BuildReason, BuildRefused
from wherry_controller.core.recipe import Calibration, Recipe

INT8 = a_recipe(Precision.INT8)
MADE = [
    (conv_net, a_recipe(Precision.FP32)),
    (conv_net, a_recipe(Precision.FP16)),
    (conv_net, INT8),
    (conv_net, replace(INT8, per_channel=False)),
    (conv_net, replace(INT8, activation=Activation.U8)),
    (conv_net, replace(INT8, reduced_range=True)),
    (product_net, INT8),
    (product_net, a_recipe(Precision.FP16)),
    (product_net, a_recipe(Precision.INT8_DYNAMIC)),
    (product_net, a_recipe(Precision.INT4)),
    (lstm_net, a_recipe(Precision.FP16)),
    (lstm_net, a_recipe(Precision.INT8_DYNAMIC)),
    (lstm_net, replace(a_recipe(Precision.INT8_DYNAMIC), per_channel=False)),
]
NAMES = [f"{net.__name__}-{recipe.name}" for net, recipe in MADE]
LARGEST_ERROR = {Precision.FP32: 1e-6, Precision.FP16: 5e-3, Precision.INT4: 0.2}


def the_candidate(model: onnx.ModelProto, recipe: Recipe, folder: Path) -> Path:
    """Return the recipe's candidate, calibrated where it has to be."""
    file, to = saved(model, folder), folder / f"{recipe.name}.onnx"
    ranges = folder / "ranges.json"
    if recipe.is_calibrated:
        calibrate(file, recipe, rows(model, 20), ranges)
    make(file, recipe, ranges if recipe.is_calibrated else None, to)
    return to


def refusal(do: Callable[[], object]) -> BuildRefused:
    with pytest.raises(BuildRefused) as caught:
        do()
    return caught.value


@pytest.mark.parametrize(("net", "recipe"), MADE, ids=NAMES)
def test_a_candidate_answers_as_the_float_net_does(
    tmp_path: Path, net: Callable[[], onnx.ModelProto], recipe: Recipe
) -> None:
    model = net()
    candidate = the_candidate(model, recipe, tmp_path)
    wanted = answers(saved(model, tmp_path), rows(model, 8))
    error = np.abs(answers(candidate, rows(model, 8)) - wanted).max() / np.abs(wanted).max()
    assert error <= LARGEST_ERROR.get(recipe.precision, 0.05)
    assert is_quantized(candidate) is recipe.is_quantized


@pytest.mark.parametrize(("net", "recipe"), MADE, ids=NAMES)
def test_zeroing_a_layer_of_a_candidate_changes_what_it_answers(
    tmp_path: Path, net: Callable[[], onnx.ModelProto], recipe: Recipe
) -> None:
    model = net()
    candidate = the_candidate(model, recipe, tmp_path)
    for layer in onnx_weights.weights(candidate):
        damaged = onnx_weights.with_weights(
            candidate, layer.name, np.zeros_like(layer.values), tmp_path / "damaged.onnx"
        )
        given = rows(model, 2)
        assert np.abs(answers(damaged, given) - answers(candidate, given)).max() > 0.01


@pytest.mark.parametrize(("net", "recipe"), MADE, ids=NAMES)
def test_every_layer_of_a_candidate_is_found_with_its_channels(
    tmp_path: Path, net: Callable[[], onnx.ModelProto], recipe: Recipe
) -> None:
    channels = {conv_net: [16, 32, 10], product_net: [64, 32], lstm_net: [64]}[net]
    found = onnx_weights.weights(the_candidate(net(), recipe, tmp_path))
    assert [layer.values.shape[layer.axis] for layer in found] == channels


@pytest.mark.parametrize(("net", "recipe"), MADE, ids=NAMES)
def test_the_same_net_gives_the_same_bytes(
    tmp_path: Path, net: Callable[[], onnx.ModelProto], recipe: Recipe
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    made = [the_candidate(net(), recipe, folder).read_bytes() for folder in (first, second)]
    assert made[0] == made[1]


def test_weights_shrink_as_the_precision_says(tmp_path: Path) -> None:
    model = product_net()
    was = onnx_file.weight_bytes(model)
    shares = {
        precision: onnx_file.weight_bytes(
            onnx.load(the_candidate(model, a_recipe(precision), tmp_path))
        )
        / was
        for precision in (Precision.FP16, Precision.INT8_DYNAMIC, Precision.INT4)
    }
    assert shares[Precision.FP16] == 0.5
    assert shares[Precision.INT8_DYNAMIC] < 0.31
    assert shares[Precision.INT4] < 0.17


def test_the_methods_of_calibration_give_other_scales(tmp_path: Path) -> None:
    scales = set()
    model, candidate = conv_net(), tmp_path / "candidate.onnx"
    file = saved(model, tmp_path)
    ranges = calibrate(file, INT8, rows(model, 300), tmp_path / "ranges.json")
    for how in Calibration:
        make(file, replace(INT8, calibration=how), ranges, candidate)
        constants = {one.name: one for one in onnx.load(candidate).graph.initializer}
        scales.add(float(numpy_helper.to_array(constants["x_scale"])))
    assert len(scales) == len(Calibration)


def test_one_calibration_serves_every_method(tmp_path: Path) -> None:
    file = saved(conv_net(), tmp_path)
    ranges = calibrate(file, INT8, rows(conv_net(), 20), tmp_path / "ranges.json")
    other = replace(INT8, calibration=Calibration.ENTROPY)
    again = calibrate(file, other, rows(conv_net(), 20), tmp_path / "again.json")
    assert ranges.read_bytes() == again.read_bytes()


def test_a_reduced_range_leaves_out_the_highest_bit_of_weights(tmp_path: Path) -> None:
    candidate = the_candidate(conv_net(), replace(INT8, reduced_range=True), tmp_path)
    assert all(np.abs(layer.values).max() <= 64 for layer in onnx_weights.weights(candidate))


@pytest.mark.parametrize("kept", ["first", "second", "head"])
def test_a_kept_operator_stays_in_float(tmp_path: Path, kept: str) -> None:
    candidate = the_candidate(conv_net(), a_recipe(Precision.INT8, kept), tmp_path)
    types = {layer.name: layer.values.dtype for layer in onnx_weights.weights(candidate)}
    assert types.pop(f"{kept}.weight") == np.float32
    assert set(types.values()) == {np.dtype(np.int8)}


@pytest.mark.parametrize("precision", [Precision.INT8_DYNAMIC, Precision.INT4])
@pytest.mark.parametrize("kept", ["first", "second"])
def test_a_kept_product_stays_in_float(tmp_path: Path, precision: Precision, kept: str) -> None:
    candidate = the_candidate(product_net(), a_recipe(precision, kept), tmp_path)
    names = {layer.name for layer in onnx_weights.weights(candidate)}
    assert f"{kept}.weight" in names
    assert is_quantized(candidate)


def test_keeping_every_operator_changes_nothing_and_is_refused(tmp_path: Path) -> None:
    file = saved(conv_net(), tmp_path)
    names = [operator.name for operator in operators_of(file, INT8)]
    recipe = a_recipe(Precision.INT8, *names)
    refused = refusal(lambda: the_candidate(conv_net(), recipe, tmp_path))
    assert refused.fault.reason is BuildReason.PASS_CHANGED_NOTHING


@pytest.mark.parametrize(
    ("net", "precision"),
    [(lstm_net, Precision.INT8), (lstm_net, Precision.INT4), (conv_net, Precision.INT8_DYNAMIC)],
)
def test_a_pass_that_changes_nothing_is_refused(
    tmp_path: Path, net: Callable[[], onnx.ModelProto], precision: Precision
) -> None:
    refused = refusal(lambda: the_candidate(net(), a_recipe(precision), tmp_path))
    assert refused.fault.reason is BuildReason.PASS_CHANGED_NOTHING
    assert precision.value in refused.fault.problem


@pytest.mark.parametrize("precision", list(Precision))
def test_a_quantized_net_is_refused(tmp_path: Path, precision: Precision) -> None:
    model = onnx.load(the_candidate(conv_net(), INT8, tmp_path))
    file = saved(model, tmp_path)
    refused = refusal(lambda: make(file, a_recipe(precision), None, tmp_path / "made.onnx"))
    assert refused.fault.reason is BuildReason.ALREADY_QUANTIZED


def test_static_int8_without_ranges_is_refused(tmp_path: Path) -> None:
    file = saved(conv_net(), tmp_path)
    refused = refusal(lambda: make(file, INT8, None, tmp_path / "made.onnx"))
    assert refused.fault.reason is BuildReason.CALIBRATION_MISSING


def test_dynamic_int8_leaves_convolutions_in_float(tmp_path: Path) -> None:
    operators = operators_of(saved(conv_net(), tmp_path), a_recipe(Precision.INT8_DYNAMIC))
    assert [operator.kind for operator in operators] == ["Gemm"]


def test_a_gemm_that_stays_in_float_may_have_its_weights_described(tmp_path: Path) -> None:
    model = product_net()
    turned = np.ascontiguousarray(numpy_helper.to_array(model.graph.initializer[1]).T)
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(turned, "second.weight"))
    model.graph.node[2].attribute.append(helper.make_attribute("transB", 1))
    # As torch's exporter does it.
    model.graph.value_info.append(
        helper.make_tensor_value_info("second.weight", TensorProto.FLOAT, turned.shape)
    )
    to = tmp_path / "mixed.onnx"
    file = saved(model, tmp_path)
    make(file, a_recipe(Precision.INT8_DYNAMIC, "second"), None, to)
    given = rows(model, 4)
    assert np.allclose(answers(to, given), answers(file, given), atol=0.05)


def test_operators_are_named_with_their_layers_and_weights(tmp_path: Path) -> None:
    model = conv_net()
    scopes = model.graph.node[2].metadata_props.add()
    scopes.key, scopes.value = "pkg.torch.onnx.name_scopes", "['', 'body', 'body.second', 'conv2d']"
    found = {one.name: one for one in operators_of(saved(model, tmp_path), INT8)}
    assert list(found) == ["first", "second", "pool", "head"]
    assert found["first"].layer == "first"
    assert found["second"].layer == "body.second"
    assert found["second"].weight_bytes == 4 * (32 * 16 * 9 + 32)
    assert found["pool"].kind == "GlobalAveragePool"


def test_nodes_without_names_get_names_of_their_own(tmp_path: Path) -> None:
    model = conv_net()
    for node in model.graph.node:
        node.name = ""
    file = saved(model, tmp_path)
    names = [operator.name for operator in operators_of(file, INT8)]
    assert len(set(names)) == len(names)
    candidate = the_candidate(model, a_recipe(Precision.INT8, names[0]), tmp_path)
    assert onnx_weights.weights(candidate)[0].values.dtype == np.float32


def test_what_a_branch_takes_is_what_the_activation_gave(tmp_path: Path) -> None:
    """The quantizer drops activations, and did not see that a branch takes their results."""
    model = conv_net()
    branch = [
        helper.make_graph(
            [helper.make_node(kind, ["d"], [f"{kind}_of_d"], name=kind)],
            kind,
            [],
            [helper.make_tensor_value_info(f"{kind}_of_d", TensorProto.FLOAT, None)],
        )
        for kind in ("Abs", "Neg")
    ]
    chosen = helper.make_node(
        "If", ["yes"], ["chosen"], name="if", then_branch=branch[0], else_branch=branch[1]
    )
    total = helper.make_node("ReduceSum", ["x"], ["total"], name="total", keepdims=0)
    compared = helper.make_node("Less", ["total", "much"], ["yes"], name="less")
    nodes = list(model.graph.node)
    nodes[4].input[0] = "chosen"
    much = numpy_helper.from_array(np.array(1e6, np.float32), "much")
    changed = a_model(
        [*nodes[:4], total, compared, chosen, *nodes[4:]],
        [*model.graph.initializer, much],
        ("batch", 3, 8, 8),
        ("batch", 10),
    )
    candidate = the_candidate(changed, replace(INT8, activation=Activation.U8), tmp_path)
    wanted = answers(saved(changed, tmp_path), rows(changed, 8))
    error = np.abs(answers(candidate, rows(changed, 8)) - wanted).max() / np.abs(wanted).max()
    assert error < 0.05


def test_weights_that_two_branches_take_are_kept_once(tmp_path: Path) -> None:
    branches = [
        helper.make_graph(
            [
                helper.make_node("Transpose", ["w"], ["turned"], name=f"{sign}_turn", perm=[1, 0]),
                helper.make_node(kind, ["x"], ["signed"], name=sign),
                helper.make_node("MatMul", ["signed", "turned"], [sign], name=f"{sign}_product"),
            ],
            sign,
            [],
            [helper.make_tensor_value_info(sign, TensorProto.FLOAT, None)],
        )
        for sign, kind in (("up", "Abs"), ("down", "Neg"))
    ]
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], name="total", keepdims=0),
        helper.make_node("Less", ["total", "much"], ["yes"], name="less"),
        helper.make_node("If", ["yes"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    ]
    much = numpy_helper.from_array(np.array(1e6, np.float32), "much")
    model = a_model(nodes, [weights("w", 64, 32), much], ("batch", 32), ("batch", 64))
    prepared = prepare(saved(model, tmp_path), 20).model
    assert onnx_file.weight_bytes(prepared) == onnx_file.weight_bytes(model)
    onnx.save(prepared, tmp_path / "prepared.onnx")
    given = rows(model, 2)
    wanted = answers(tmp_path / "net.onnx", given)
    np.testing.assert_allclose(answers(tmp_path / "prepared.onnx", given), wanted, atol=1e-5)


def test_fp16_takes_a_node_that_takes_one_tensor_twice(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="product"),
        helper.make_node("Max", ["a", "a"], ["y"], name="twice"),
    ]
    model = a_model(nodes, [weights("w", 32, 32)], ("batch", 32), ("batch", 32))
    candidate = the_candidate(model, a_recipe(Precision.FP16), tmp_path)
    assert answers(candidate, rows(model, 1)).shape == (1, 32)


def test_recurrent_layers_that_share_weights_stay_in_float(tmp_path: Path) -> None:
    model = lstm_net()
    again = helper.make_node(
        "LSTM", ["s", "w", "r"], ["", "h2"], name="again", hidden_size=16, direction="reverse"
    )
    both = helper.make_node("Add", ["h", "h2"], ["both"], name="both")
    model.graph.node.insert(2, again)
    model.graph.node.insert(3, both)
    model.graph.node[4].input[0] = "both"
    recipe = a_recipe(Precision.INT8_DYNAMIC)
    assert operators_of(saved(model, tmp_path), recipe) == ()


def test_products_that_share_weights_are_packed_once(tmp_path: Path) -> None:
    make_node = helper.make_node
    nodes = [
        make_node("MatMul", ["x", "shared"], ["a"], name="one"),
        make_node("Relu", ["a"], ["b"], name="relu"),
        make_node("MatMul", ["b", "shared"], ["y"], name="two"),
    ]
    model = a_model(nodes, [weights("shared", 64, 64)], ("batch", 64), ("batch", 64))
    candidate = the_candidate(model, a_recipe(Precision.INT4), tmp_path)
    names = [one.name for one in onnx.load(candidate).graph.initializer]
    assert len(names) == len(set(names)) == 2
    assert answers(candidate, rows(model, 1)).shape == (1, 64)


def test_fp16_keeps_the_types_of_inputs_and_outputs(tmp_path: Path) -> None:
    graph = onnx.load(the_candidate(conv_net(), a_recipe(Precision.FP16), tmp_path)).graph
    kinds = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    assert kinds == {TensorProto.FLOAT}
    assert {one.data_type for one in graph.initializer} == {TensorProto.FLOAT16}


def test_a_graph_counts_the_weights_of_its_operators(tmp_path: Path) -> None:
    turned = helper.make_node("Transpose", ["w"], ["turned"], perm=[1, 0])
    product = helper.make_node("MatMul", ["x", "turned"], ["y"])
    held = helper.make_node("Constant", [], ["w"], value=weights("w", 8, 32))
    file = saved(a_model([held, turned, product], [], ("batch", 32), ("batch", 8)), tmp_path)
    graph = graph_of(file)
    assert graph.operators == {"Constant": 1, "Transpose": 1, "MatMul": 1}
    assert graph.weights == {"MatMul": 4 * 8 * 32}


def test_a_float_net_is_written_for_its_devices(tmp_path: Path) -> None:
    to = tmp_path / "float.onnx"
    finish_float(saved(conv_net(), tmp_path), a_recipe(Precision.FP32), to)
    assert not is_quantized(to)
    assert onnx_weights.operators(to)["Conv"] == 2
