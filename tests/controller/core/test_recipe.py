"""Tests of recipes: which of them are worth a trial, for what graph on what profile."""

from __future__ import annotations

from msgspec.structs import replace

from tests.builders import a_profile
from wherry.profile import Activation, Arch, Precision, Profile, Runtime
from wherry_controller.core.recipe import (
    Calibration,
    Graph,
    baseline,
    candidates,
    improvements,
    steps_of,
)

EVERY = tuple(Precision)
CONVOLUTIONAL = Graph({"Conv": 8, "Relu": 8, "Gemm": 1}, {"Conv": 900, "Gemm": 100})
ENCODER = Graph({"MatMul": 24, "Softmax": 4}, {"MatMul": 950, "Gather": 50})
RECURRENT = Graph({"LSTM": 2, "Gemm": 1}, {"LSTM": 950, "Gemm": 50})
LOOKUP = Graph({"TreeEnsembleClassifier": 1}, {})


def tried(profile: Profile, graph: Graph) -> set[Precision]:
    return {recipe.precision for recipe in candidates(profile, graph)}


def on_arm(**facts: object) -> Profile:
    return replace(a_profile(), **{"arch": Arch.AARCH64, "precisions": EVERY, **facts})


def on_x86(**facts: object) -> Profile:
    return replace(a_profile(), **{"arch": Arch.X86_64, "precisions": EVERY, **facts})


def test_float_is_always_tried_and_stands_first() -> None:
    only_int8 = on_x86(precisions=(Precision.INT8,))
    for graph in (CONVOLUTIONAL, ENCODER, RECURRENT, LOOKUP):
        assert candidates(only_int8, graph)[0] == baseline(only_int8)


def test_ranges_at_each_run_are_for_products_and_recurrent_nets() -> None:
    assert Precision.INT8_DYNAMIC not in tried(on_x86(), CONVOLUTIONAL)
    assert Precision.INT8_DYNAMIC in tried(on_x86(), ENCODER)
    assert Precision.INT8_DYNAMIC in tried(on_x86(), RECURRENT)


def test_fp16_is_not_for_arm_processors() -> None:
    assert Precision.FP16 in tried(on_x86(), CONVOLUTIONAL)
    assert Precision.FP16 not in tried(on_arm(), CONVOLUTIONAL)
    assert Precision.FP16 in tried(on_arm(runtime=Runtime.LITERT), CONVOLUTIONAL)
    assert Precision.FP16 in tried(on_arm(provider="TensorrtExecutionProvider"), CONVOLUTIONAL)


def test_int4_is_for_nets_that_are_mostly_matrix_products() -> None:
    assert Precision.INT4 in tried(on_x86(), ENCODER)
    assert Precision.INT4 not in tried(on_x86(), CONVOLUTIONAL)
    assert Precision.INT4 not in tried(on_x86(runtime=Runtime.LITERT), ENCODER)


def test_stored_weights_are_for_litert() -> None:
    assert Precision.INT8_WEIGHTS not in tried(on_x86(), CONVOLUTIONAL)
    assert Precision.INT8_WEIGHTS in tried(on_x86(runtime=Runtime.LITERT), CONVOLUTIONAL)


def test_nothing_is_tried_on_a_graph_without_weights() -> None:
    assert tried(on_x86(), LOOKUP) <= {Precision.FP32, Precision.FP16}


def test_nothing_is_tried_that_the_profile_does_not_take() -> None:
    assert tried(on_x86(precisions=(Precision.FP32, Precision.INT8)), ENCODER) == {
        Precision.FP32,
        Precision.INT8,
    }


def test_a_static_recipe_follows_the_profile() -> None:
    profile = on_x86(activation=Activation.U8, reduced_range=True)
    static = {one.precision: one for one in candidates(profile, ENCODER)}[Precision.INT8]
    assert (static.activation, static.reduced_range, static.per_channel) == (
        Activation.U8,
        True,
        True,
    )
    assert static.name == "int8-u8s8-reduced_range"
    assert steps_of(static) == ("export onnx", "ir<=10", "opset<=20", "int8-u8s8-reduced_range")


def test_litert_knows_signed_activations_in_full_range_only() -> None:
    profile = on_x86(runtime=Runtime.LITERT, activation=Activation.U8, reduced_range=True)
    static = {one.precision: one for one in candidates(profile, ENCODER)}[Precision.INT8]
    assert (static.activation, static.reduced_range) == (Activation.S8, False)
    assert [one.name for one in improvements(static)] == ["int8-per_tensor"]


def test_tflite_runtime_gets_one_scale_a_tensor_where_it_finds_ranges_itself() -> None:
    old = on_x86(runtime=Runtime.TFLITE)
    scales = {one.precision: one.per_channel for one in candidates(old, ENCODER)}
    assert not scales[Precision.INT8_DYNAMIC]
    assert scales[Precision.INT8]


def test_a_static_recipe_has_other_ways_and_no_way_twice() -> None:
    (static,) = (
        one for one in candidates(on_x86(), CONVOLUTIONAL) if one.precision is Precision.INT8
    )
    others = improvements(static)
    assert len({static, *others}) == 1 + len(others) == 6
    assert {one.calibration for one in others} == set(Calibration)
    assert all(one.precision is Precision.INT8 for one in others)


def test_different_recipes_have_different_names() -> None:
    every = candidates(on_x86(), ENCODER)
    more = [other for recipe in every for other in improvements(recipe)]
    kept = [replace(every[1], kept_float=("a", "b")[:count]) for count in (1, 2)]
    names = [recipe.name for recipe in (*every, *more, *kept)]
    assert len(set(names)) == len(names)
