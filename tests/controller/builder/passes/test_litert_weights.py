"""LiteRT files opened for their weights: what is read can be changed, and changes the answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.schema_py_generated import BuiltinOperator, TensorType

from tests.controller.builder.passes import lite_weights
from tests.controller.builder.passes.test_litert import (
    INT8,
    MIXED,
    RESIDUAL,
    UNROLLED,
    UPSCALING,
    a_recipe,
    answer,
    rows,
)
from wherry.profile import Precision
from wherry_controller.builder.passes import litert


@pytest.mark.parametrize("precision", [one for one in Precision if one is not Precision.INT4])
@pytest.mark.parametrize("file", [RESIDUAL, UNROLLED, MIXED, UPSCALING])
def test_each_weight_that_is_zeroed_changes_the_answers(
    file: Path, precision: Precision, tmp_path: Path
) -> None:
    made, damaged = tmp_path / "made.tflite", tmp_path / "damaged.tflite"
    ranges = tmp_path / "ranges.json"
    if precision is Precision.INT8:
        litert.calibrate(file, INT8, rows(file), ranges)
    litert.make(file, a_recipe(precision), ranges, made)
    good = [answer(made, row) for row in rows(file, 4)]
    for weights in lite_weights.weights(made):
        lite_weights.with_weights(made, weights.name, np.zeros_like(weights.values), damaged)
        given = [answer(damaged, row) for row in rows(file, 4)]
        assert not all(np.allclose(*pair) for pair in zip(good, given, strict=True)), weights.name
        assert damaged.stat().st_size == made.stat().st_size


@pytest.mark.parametrize(
    ("file", "channels"),
    [(UPSCALING, [16, 8]), (MIXED, [16, 32, 4]), (UNROLLED, [64, 64, 10])],
)
def test_the_axis_of_a_weight_is_that_of_its_channels(file: Path, channels: list[int]) -> None:
    found = lite_weights.weights(file)
    assert [one.values.shape[one.axis] for one in found] == channels


def test_shared_weights_stand_once_and_other_bytes_stay(tmp_path: Path) -> None:
    first, *_ = found = lite_weights.weights(UNROLLED)
    assert len({one.name for one in found}) == len(found) == 3
    again = lite_weights.with_weights(UNROLLED, first.name, first.values, tmp_path / "same.tflite")
    assert again.read_bytes() == UNROLLED.read_bytes()


def test_int4_weights_are_packed_again_as_they_were() -> None:
    packed = np.arange(256, dtype=np.uint8)
    values = lite_weights._unpack(packed)
    assert (values[:2].tolist(), values[-2:].tolist()) == ([0, 0], [-1, -1])
    assert set(values.tolist()) == set(range(-8, 8))
    assert np.array_equal(lite_weights._pack(values), packed)


def test_the_schemas_numbers_are_those_of_the_schema() -> None:
    for name, number in vars(lite_weights).items():
        if name.isupper() and type(number) is int:
            known = getattr(BuiltinOperator, name, None), getattr(TensorType, name, None)
            assert number in known, name
