"""The passes on LiteRT files, on tiny exports of real nets."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from tests.vectors import models
from wherry.profile import Precision, Runtime
from wherry.signature import Datatype, Signature, Tensor
from wherry_controller.builder.data.rows import Array, Tensors
from wherry_controller.builder.passes import litert
from wherry_controller.builder.passes.litert_graph import LiteGraph, Step
from wherry_controller.builder.passes.litert_plan import plan
from wherry_controller.core.fault import BuildReason, BuildRefused
from wherry_controller.core.recipe import Calibration, Recipe

MODELS = Path(models.__file__).parent
RESIDUAL, UNROLLED, STATEFUL, MIXED, ADDING = (
    MODELS / f"{name}.tflite" for name in ("residual", "unrolled", "stateful", "mixed", "adding")
)
HIDING, UPSCALING = (MODELS / f"{name}.tflite" for name in ("hiding", "upscaling"))
SHAPES = {
    RESIDUAL: (1, 1, 8, 8),
    UNROLLED: (1, 3, 8),
    ADDING: (1, 8),
    HIDING: (1, 8),
    UPSCALING: (1, 8, 4, 4),
}
SMALLER = (Precision.FP16, Precision.INT8_WEIGHTS, Precision.INT8_DYNAMIC, Precision.INT8)


def a_recipe(precision: Precision, **other: object) -> Recipe:
    return Recipe(runtime=Runtime.LITERT, precision=precision, **other)  # type: ignore[arg-type]


INT8 = a_recipe(Precision.INT8)


def rows(file: Path, count: int = 120) -> Iterator[Tensors]:
    values = np.random.default_rng(5)
    for _ in range(count):
        if file == MIXED:
            yield {"args_0": values.integers(0, 50, (1, 3), dtype=np.int32)}
        else:
            yield {"args_0": values.standard_normal(SHAPES[file]).astype(np.float32)}


@pytest.fixture(scope="module")
def ranges(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    folder = tmp_path_factory.mktemp("ranges")
    return {
        file: litert.calibrate(file, INT8, rows(file), folder / f"{file.stem}.json")
        for file in (RESIDUAL, UNROLLED, MIXED, ADDING, HIDING, UPSCALING)
    }


def answer(file: Path, row: Tensors) -> Array:
    """Run one row as an agent does: by the scales that stand in the file."""
    interpreter = Interpreter(model_path=str(file))
    interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero = taken["quantization"]
    value = (
        row["args_0"] if not scale else np.clip(np.rint(row["args_0"] / scale) + zero, -128, 127)
    )
    interpreter.set_tensor(taken["index"], value.astype(taken["dtype"]))
    interpreter.invoke()
    scale, zero = given["quantization"]
    result: Array = interpreter.get_tensor(given["index"])
    return (result.astype(np.float32) - zero) * scale if scale else result


def stray(made: Path, file: Path) -> float:
    """Return by how much the made file's answers stray, as a share of the float file's range."""
    pairs = [(answer(made, row), answer(file, row)) for row in rows(file, 8)]
    given, wanted = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return float(np.abs(given - wanted).max() / np.ptp(wanted))


@pytest.mark.parametrize("precision", SMALLER)
@pytest.mark.parametrize("file", [RESIDUAL, UNROLLED, MIXED, UPSCALING])
def test_every_precision_answers_as_the_float_file(
    file: Path, precision: Precision, ranges: dict[Path, Path], tmp_path: Path
) -> None:
    made = tmp_path / "made.tflite"
    litert.make(file, a_recipe(precision), ranges[file], made)
    assert litert.is_quantized(made)
    assert stray(made, file) < (0.002 if precision is Precision.FP16 else 0.08)


def test_the_same_recipe_gives_the_same_bytes_in_another_process(
    ranges: dict[Path, Path], tmp_path: Path
) -> None:
    made = tmp_path / "made.tflite"
    litert.make(RESIDUAL, INT8, ranges[RESIDUAL], made)
    first = made.read_bytes()
    litert.make(RESIDUAL, INT8, ranges[RESIDUAL], made)
    assert made.read_bytes() == first
    code = (
        "from tests.controller.builder.passes.test_litert import *; "
        "litert.make(RESIDUAL, INT8, Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(ranges[RESIDUAL]), str(made)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "77"})
    assert made.read_bytes() == first


def test_calibration_is_the_same_in_any_order_and_holds_one_row_at_a_time(
    ranges: dict[Path, Path], tmp_path: Path
) -> None:
    alive: list[weakref.ref[Array]] = []
    most = 0

    def watched() -> Iterator[Tensors]:
        nonlocal most
        for row in reversed([row["args_0"] for row in rows(RESIDUAL)]):
            fresh = row.copy()
            alive.append(weakref.ref(fresh))
            yield {"args_0": fresh}
            del fresh
            most = max(most, sum(one() is not None for one in alive))

    backwards = litert.calibrate(RESIDUAL, INT8, watched(), tmp_path / "ranges.json")
    assert most <= 2
    assert backwards.read_bytes() == ranges[RESIDUAL].read_bytes()


def test_rows_may_be_named_by_the_tensors_of_the_file(
    ranges: dict[Path, Path], tmp_path: Path
) -> None:
    (name,) = (one["name"] for one in Interpreter(model_path=str(RESIDUAL)).get_input_details())
    renamed = ({name: row["args_0"]} for row in rows(RESIDUAL))
    given = litert.calibrate(RESIDUAL, INT8, renamed, tmp_path / "ranges.json")
    assert given.read_bytes() == ranges[RESIDUAL].read_bytes()


def test_operators_are_named_once_and_by_the_nets_own_layers() -> None:
    operators = litert.operators_of(RESIDUAL, INT8)
    names = [operator.name for operator in operators]
    assert len(set(names)) == len(names)
    assert [one.layer for one in operators if one.kind == "Conv"] == [
        "stem", "body.0.first", "body.0.second", "body.1.first", "body.1.second",
    ]  # fmt: skip
    assert {one.kind for one in operators} == {"Conv", "Add", "ReduceMean", "Gemm"}


def test_steps_that_share_their_weights_are_one_operator() -> None:
    dense = litert.operators_of(UNROLLED, a_recipe(Precision.INT8_DYNAMIC))
    assert [one.layer for one in dense] == ["cell", "cell", "head"]
    assert litert.graph_of(UNROLLED).operators["Gemm"] == 4
    matrices = 4 * (64 * 8 + 64 * 16 + 10 * 16)
    assert matrices < litert.graph_of(UNROLLED).weights["Gemm"] < 1.2 * matrices


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT8_DYNAMIC])
def test_an_operator_returned_to_float_takes_no_other_with_it(
    precision: Precision, ranges: dict[Path, Path], tmp_path: Path
) -> None:
    made, whole = tmp_path / "made.tflite", tmp_path / "whole.tflite"
    litert.make(RESIDUAL, a_recipe(precision), ranges[RESIDUAL], whole)
    before = [(one.kind, one.layer) for one in litert.float_operators(whole)]
    for operator in litert.operators_of(RESIDUAL, a_recipe(precision)):
        kept = a_recipe(precision, kept_float=(operator.name,))
        litert.make(RESIDUAL, kept, ranges[RESIDUAL], made)
        after = [(one.kind, one.layer) for one in litert.float_operators(made)]
        assert sorted(after) == sorted([*before, (operator.kind, operator.layer)])


def test_operators_at_a_mask_stay_in_float(ranges: dict[Path, Path], tmp_path: Path) -> None:
    litert.make(HIDING, INT8, ranges[HIDING], tmp_path / "made.tflite")
    assert stray(tmp_path / "made.tflite", HIDING) < 0.08
    left = [one.kind for one in litert.float_operators(tmp_path / "made.tflite")]
    assert left == ["Gemm", "Softmax"]


def test_an_operator_whose_name_holds_that_of_another_is_another() -> None:
    scopes = ["A/f(x)_1;", "B;;A/f(x)_1;", "A/f(x)_1;;B;"]
    steps = tuple(
        Step(index, "ADD", scope, "", (index,), (index + 1,), 0, 0)
        for index, scope in enumerate(scopes)
    )
    graph = LiteGraph("", None, steps, (0,), (3,))
    made = plan(graph, a_recipe(Precision.INT8, kept_float=("ADD.0",)))
    given = [made.get_quantization_configs(steps[0].known, scope)[0] for scope in scopes]
    assert [one == "no_quantize" for one in given] == [True, False, False]


def test_moves_between_float_and_int8_stay_in_int8(
    ranges: dict[Path, Path], tmp_path: Path
) -> None:
    made, casts = tmp_path / "made.tflite", []
    for kept in ((), ("FULLY_CONNECTED.0",)):
        litert.make(UNROLLED, a_recipe(Precision.INT8, kept_float=kept), ranges[UNROLLED], made)
        casts.append(litert.graph_of(made).operators["Quantize"])
    assert casts[1] == casts[0] + 1  # One for the product, none for the slices that take it up.


def test_the_edge_of_a_first_operator_in_float_is_float(
    ranges: dict[Path, Path], tmp_path: Path
) -> None:
    made = tmp_path / "made.tflite"
    kept = ("DEPTHWISE_CONV_2D.1",)
    litert.make(RESIDUAL, a_recipe(Precision.INT8, kept_float=kept), ranges[RESIDUAL], made)
    (taken,), (given,), _ = litert.bindings_of(made, a_signature("image", "scores"))
    assert (taken.datatype, given.datatype) == (Datatype.FP32, Datatype.INT8)


def test_a_table_of_words_has_one_scale_where_the_runtime_reads_only_one(
    ranges: dict[Path, Path], tmp_path: Path
) -> None:
    made = tmp_path / "made.tflite"
    for runtime, scales in ((Runtime.TFLITE, 1), (Runtime.LITERT, 50)):
        litert.make(MIXED, msgspec.structs.replace(INT8, runtime=runtime), ranges[MIXED], made)
        tensors = Interpreter(model_path=str(made)).get_tensor_details()
        (table,) = (one for one in tensors if tuple(one["shape"]) == (50, 16))
        assert len(table["quantization_parameters"]["scales"]) == scales


def test_what_stays_in_float_is_said_of_the_made_file(
    ranges: dict[Path, Path], tmp_path: Path
) -> None:
    made = tmp_path / "made.tflite"
    litert.make(MIXED, INT8, ranges[MIXED], made)
    left = {(one.kind, one.layer) for one in litert.float_operators(made)}
    assert left == {("Cumsum", "")}


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.INT8_DYNAMIC])
def test_a_pass_that_changes_nothing_is_refused(precision: Precision, tmp_path: Path) -> None:
    with pytest.raises(BuildRefused) as refused:
        litert.make(ADDING, a_recipe(precision), None, tmp_path / "made.tflite")
    assert refused.value.fault.reason is BuildReason.PASS_CHANGED_NOTHING
    assert not (tmp_path / "made.tflite").exists()


@pytest.mark.parametrize(
    ("file", "recipe", "problem"),
    [
        (RESIDUAL, a_recipe(Precision.INT8_DYNAMIC, per_channel=False), "of weights in float"),
        (HIDING, a_recipe(Precision.INT8_WEIGHTS), "bytes"),
    ],
)
def test_a_pass_that_changes_next_to_nothing_is_refused(
    file: Path, recipe: Recipe, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(BuildRefused) as refused:
        litert.make(file, recipe, None, tmp_path / "made.tflite")
    assert refused.value.fault.reason is BuildReason.PASS_CHANGED_NOTHING
    assert refused.value.fault.problem.endswith(problem)


def test_keeping_everything_in_float_is_refused(ranges: dict[Path, Path], tmp_path: Path) -> None:
    every = tuple(one.name for one in litert.operators_of(RESIDUAL, INT8))
    kept = a_recipe(Precision.INT8, kept_float=every)
    with pytest.raises(BuildRefused) as refused:
        litert.make(RESIDUAL, kept, ranges[RESIDUAL], tmp_path / "made.tflite")
    assert refused.value.fault.reason is BuildReason.PASS_CHANGED_NOTHING


def test_a_net_without_weights_can_still_compute_in_int8(
    ranges: dict[Path, Path], tmp_path: Path
) -> None:
    litert.make(ADDING, INT8, ranges[ADDING], tmp_path / "made.tflite")
    assert stray(tmp_path / "made.tflite", ADDING) < 0.05


@pytest.mark.parametrize("precision", [Precision.FP32, *SMALLER])
def test_a_file_that_is_quantized_already_is_refused(
    precision: Precision, ranges: dict[Path, Path], tmp_path: Path
) -> None:
    made = tmp_path / "made.tflite"
    litert.make(RESIDUAL, INT8, ranges[RESIDUAL], made)
    with pytest.raises(BuildRefused) as refused:
        litert.make(made, a_recipe(precision), ranges[RESIDUAL], tmp_path / "again.tflite")
    assert refused.value.fault.reason is BuildReason.ALREADY_QUANTIZED


def test_dynamic_int8_that_tflite_runtime_misreads_is_refused(tmp_path: Path) -> None:
    recipe = Recipe(runtime=Runtime.TFLITE, precision=Precision.INT8_DYNAMIC)
    with pytest.raises(BuildRefused) as refused:
        litert.make(RESIDUAL, recipe, None, tmp_path / "made.tflite")
    assert refused.value.fault.reason is BuildReason.NO_RECIPE


def test_dynamic_int8_with_one_scale_leaves_convolutions_alone() -> None:
    recipe = a_recipe(Precision.INT8_DYNAMIC, per_channel=False)
    assert [one.layer for one in litert.operators_of(RESIDUAL, recipe)] == ["head"]


@pytest.mark.parametrize(
    "recipe",
    [
        a_recipe(Precision.INT4),
        a_recipe(Precision.INT8, calibration=Calibration.ENTROPY),
        a_recipe(Precision.INT8, kept_float=("CONV_2D.999",)),
    ],
)
def test_a_recipe_that_no_pass_makes_is_refused(
    recipe: Recipe, ranges: dict[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(BuildRefused) as refused:
        litert.make(RESIDUAL, recipe, ranges[RESIDUAL], tmp_path / "made.tflite")
    assert refused.value.fault.reason is BuildReason.NO_RECIPE


def test_ranges_are_wanted_and_must_be_of_the_same_export(
    ranges: dict[Path, Path], tmp_path: Path
) -> None:
    for given in (None, ranges[ADDING]):
        with pytest.raises(BuildRefused) as refused:
            litert.make(RESIDUAL, INT8, given, tmp_path / "made.tflite")
        assert refused.value.fault.reason is BuildReason.CALIBRATION_MISSING
    with pytest.raises(BuildRefused) as refused:
        litert.calibrate(RESIDUAL, INT8, iter(()), tmp_path / "ranges.json")
    assert refused.value.fault.reason is BuildReason.CALIBRATION_MISSING


def test_what_the_converter_says_when_it_fails_is_kept(tmp_path: Path) -> None:
    with pytest.raises(BuildRefused) as refused:
        litert.calibrate(RESIDUAL, INT8, [{"nothing": np.zeros(1)}], tmp_path / "ranges.json")
    assert refused.value.fault.reason is BuildReason.CONVERTER_CRASHED
    assert "nothing" in refused.value.fault.problem


def _tensors(axes: list[tuple[str, int]]) -> tuple[Tensor, ...]:
    return tuple(Tensor(name, Datatype.FP32, ("batch", length)) for name, length in axes)


def a_signature(given: str, answered: str) -> Signature:
    return Signature(
        (Tensor(given, Datatype.FP32, ("batch", 1, 8, 8)),),
        (Tensor(answered, Datatype.FP32, ("batch", 10)),),
    )


def test_bindings_have_the_scales_of_the_edges_and_of_states(tmp_path: Path) -> None:
    made = tmp_path / "made.tflite"
    shapes = {"args_0": 8, "args_1": 16, "args_2": 16}
    values = np.random.default_rng(5)
    given = [
        {
            name: values.standard_normal((1, size)).astype(np.float32)
            for name, size in shapes.items()
        }
        for _ in range(4)
    ]
    litert.make(STATEFUL, INT8, litert.calibrate(STATEFUL, INT8, given, tmp_path / "r.json"), made)
    given_axes = [("sound", 8), ("hidden", 16), ("memory", 16)]
    answered_axes = [("mean", 1), ("h", 16), ("m", 16)]
    signature = Signature(_tensors(given_axes), _tensors(answered_axes))
    for file, datatype in ((STATEFUL, Datatype.FP32), (made, Datatype.INT8)):
        inputs, outputs, batch = litert.bindings_of(file, signature)
        interpreter = Interpreter(model_path=str(file))
        known = {one["name"]: one for one in interpreter.get_tensor_details()}
        assert batch == 1
        for binding, (name, size) in zip(
            (*inputs, *outputs), (*given_axes, *answered_axes), strict=True
        ):
            detail = known[binding.runtime_name]
            assert (binding.name, binding.datatype) == (name, datatype)
            assert list(detail["shape"]) == [1, size]
            assert (binding.scale or 0.0, binding.zero_point) == detail["quantization"]


def test_whole_numbers_are_bound_as_the_file_takes_them() -> None:
    signature = Signature(
        (Tensor("words", Datatype.INT64, ("batch", 3)),),
        (Tensor("scores", Datatype.FP32, ("batch", 3, 4)),),
    )
    (words,), _, _ = litert.bindings_of(MIXED, signature)
    assert (words.datatype, words.scale) == (Datatype.INT32, None)


def test_the_float_candidate_is_the_export(tmp_path: Path) -> None:
    litert.make(RESIDUAL, a_recipe(Precision.FP32), None, tmp_path / "made.tflite")
    assert (tmp_path / "made.tflite").read_bytes() == RESIDUAL.read_bytes()
    assert litert.operators_of(RESIDUAL, a_recipe(Precision.FP32)) == ()
