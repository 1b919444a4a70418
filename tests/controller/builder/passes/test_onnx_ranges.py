"""Tests of ranges that are found while rows stream by."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from tests.controller.builder.passes import onnx_weights
from tests.controller.builder.passes.onnx_nets import (
    OPSET,
    Row,
    a_model,
    a_recipe,
    conv_net,
    rows,
    saved,
    weights,
)
from wherry.profile import Precision
from wherry_controller.builder.passes.onnx import calibrate, make
from wherry_controller.builder.passes.onnx_prepared import prepare
from wherry_controller.builder.passes.onnx_ranges import Ranges, _Seen, read_ranges, write_ranges
from wherry_controller.core.fault import BuildReason, BuildRefused
from wherry_controller.core.recipe import Calibration

INT8 = a_recipe(Precision.INT8)


def the_ranges(model: onnx.ModelProto, given: list[Row], folder: Path) -> Ranges:
    return read_ranges(calibrate(saved(model, folder), INT8, given, folder / "ranges.json"))


def test_the_extremes_are_those_of_all_rows(tmp_path: Path) -> None:
    given = rows(conv_net(), 12)
    found = the_ranges(conv_net(), given, tmp_path)["x"][Calibration.MIN_MAX]
    values = np.concatenate([row["x"] for row in given])
    assert found == (float(values.min()), float(values.max()))


def test_a_percentile_cuts_off_an_outlier(tmp_path: Path) -> None:
    given = rows(conv_net(), 400)
    given[3]["x"][0, 0, 0, 0] = 500.0
    found = the_ranges(conv_net(), given, tmp_path)["x"]
    assert found[Calibration.MIN_MAX][1] == 500.0
    assert 2.0 < found[Calibration.PERCENTILE][1] < 6.0
    assert 2.0 < found[Calibration.ENTROPY][1] < 20.0


def test_entropy_is_not_misled_by_a_flat_background() -> None:
    """Most pixels behind two constants, as in images of digits: their spikes hid all the rest."""
    seen, random = _Seen(), np.random.default_rng(1)
    background = np.repeat(np.array([0.11, 0.13], np.float32), 4000)
    seen.add(np.concatenate([background, random.uniform(0, 1, 2000).astype(np.float32)]))
    assert seen.ranges()["entropy"][1] > 0.9


def test_what_an_activation_gives_begins_at_zero(tmp_path: Path) -> None:
    found = the_ranges(conv_net(), rows(conv_net(), 12), tmp_path)["b"]
    assert {low for low, _ in found.values()} == {0.0}


@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1), min_size=1, max_size=6))
@example([[0.0], [0.0, 0.0]])
@example([[2.0**-126], [1e6]])
@example([[-1.0], [1.0, 2.0], [4.0, 8.0]])
def test_every_range_lies_within_the_extremes(batches: list[list[float]]) -> None:
    seen = _Seen()
    for batch in batches:
        seen.add(np.array(batch, np.float32))
    low, high = (function(value for batch in batches for value in batch) for function in (min, max))
    assert seen.counts.sum() == sum(map(len, batches))
    for bounds in seen.ranges().values():
        assert low <= bounds[0] <= bounds[1] <= high


def test_an_order_of_rows_changes_no_extremes_and_no_counts() -> None:
    batches = [
        np.random.default_rng(seed).normal(0, 3**seed, 99).astype(np.float32) for seed in range(5)
    ]
    there, back = _Seen(), _Seen()
    for batch in batches:
        there.add(batch)
    for batch in reversed(batches):
        back.add(batch)
    assert there.ranges()["min_max"] == back.ranges()["min_max"]
    assert there.span == back.span
    assert np.abs(there.counts - back.counts).sum() <= 2  # A value on an edge may round either way.


def test_a_mask_has_no_range_and_leaves_its_operator_in_float(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("Add", ["a", "mask"], ["b"], name="masked"),
        helper.make_node("Softmax", ["b"], ["c"], name="soft"),
        helper.make_node("MatMul", ["c", "v"], ["y"], name="second"),
    ]
    mask = numpy_helper.from_array(np.array([0.0, -np.inf] * 16, np.float32), "mask")
    constants = [weights("w", 64, 32), weights("v", 32, 32), mask]
    model = a_model(nodes, constants, ("batch", 64), ("batch", 32))
    found = the_ranges(model, rows(model, 5), tmp_path)
    assert "b" not in found
    assert found.keys() == {"x", "c", "y"}
    make(saved(model, tmp_path), INT8, tmp_path / "ranges.json", tmp_path / "made.onnx")
    nodes_by_name = {node.name: node for node in onnx.load(tmp_path / "made.onnx").graph.node}
    assert list(nodes_by_name["soft"].input) == ["b"]
    assert onnx_weights.weights(tmp_path / "made.onnx")[1].values.dtype == np.int8


def test_no_rows_and_rows_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildRefused) as none:
        the_ranges(conv_net(), [], tmp_path)
    with pytest.raises(BuildRefused) as other:
        the_ranges(conv_net(), [{"x": np.zeros((1, 3, 9, 8), np.float32)}], tmp_path)
    assert none.value.fault.reason is BuildReason.CALIBRATION_MISSING
    assert other.value.fault.reason is BuildReason.MALFORMED_DATA


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    prepared = prepare(saved(conv_net(), tmp_path), OPSET)

    def streamed(count: int) -> Iterator[Row]:
        row = rows(conv_net(), 1)[0]["x"]
        return (
            {"x": np.multiply(row, 1 + index / 100, dtype=np.float32)} for index in range(count)
        )

    peaks = []
    write_ranges(prepared, streamed(5), tmp_path / "warm.json")
    for count in (20, 200):
        tracemalloc.start()
        write_ranges(prepared, streamed(count), tmp_path / "ranges.json")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
