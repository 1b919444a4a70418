"""Tests of golden sets: what is picked, and how far a device may stray."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.controller.builder.judging.cards import (
    STATEFUL,
    a_card,
    a_profile,
    a_task,
    one_hot,
    rows_of,
)
from wherry.manifest import Binding
from wherry.profile import Precision, Runtime
from wherry.signature import Datatype
from wherry_controller.builder.data.rows import Rows, Tensors
from wherry_controller.builder.judging.golden import (
    ROOM,
    TOLERANCES,
    Golden,
    agrees,
    golden_inputs,
    golden_of,
    is_same,
    pick,
)
from wherry_controller.core.card import MetricName

LABELS = np.array([2, 0, 1, 0, 1, 2, 2])
MODEL_BYTES = 10_000
STEPS = 9


def some_rows(folder: Path, labels: Tensors, width: int = 4) -> Rows:
    count = len(next(iter(labels.values())))
    image = np.arange(count * width, dtype=np.float32).reshape(count, width)
    return rows_of(folder, {"image": image}, labels)


def picked(rows: Rows, outputs: Tensors, metric: MetricName = MetricName.ACCURACY) -> list[int]:
    found = pick(rows, outputs, a_card(a_task(metric)), MODEL_BYTES)
    return [int(row) for row in found.rows]


def test_one_row_of_each_class_is_picked_that_the_reference_answers_right(tmp_path: Path) -> None:
    rows = some_rows(tmp_path, {"labels": LABELS})
    assert picked(rows, {"scores": one_hot(LABELS, 3)}) == [0, 1, 2]
    wrong_first = one_hot([1, 1, 1, 0, 1, 2, 2], 3)
    assert picked(rows, {"scores": wrong_first}) == [2, 3, 5]


def test_a_class_that_is_never_right_has_its_first_row(tmp_path: Path) -> None:
    rows = some_rows(tmp_path, {"labels": LABELS})
    assert picked(rows, {"scores": one_hot([0] * 7, 3)}) == [0, 1, 2]


def test_a_class_of_a_position_counts_as_one(tmp_path: Path) -> None:
    labels = np.array([[0, 0], [0, 1], [2, 1]])
    rows = some_rows(tmp_path, {"labels": labels})
    assert picked(rows, {"scores": one_hot(labels, 3)}) == [0, 1, 2]


def test_32_rows_are_picked_at_most_spread_over_the_classes(tmp_path: Path) -> None:
    labels = np.arange(100)
    rows = some_rows(tmp_path, {"labels": labels})
    found = picked(rows, {"scores": one_hot(labels, 100)})
    assert (len(found), found[0], found[-1]) == (32, 0, 99)


def test_the_bytes_win_over_the_classes(tmp_path: Path) -> None:
    # A row takes 200 kB and its answer 400 bytes: within 1 MB there are four.
    labels = np.arange(8)
    rows = some_rows(tmp_path, {"labels": labels}, width=50_000)
    scores = {"scores": one_hot(labels, 100)}
    card = a_card()
    assert len(pick(rows, scores, card, MODEL_BYTES).rows) == 4
    assert len(pick(rows, scores, card, 28_100_000).rows) == 7


def test_there_is_one_row_however_large(tmp_path: Path) -> None:
    rows = some_rows(tmp_path, {"labels": np.arange(2)}, width=300_000)
    assert len(picked(rows, {"scores": one_hot([0, 1], 2)})) == 1


def test_without_classes_rows_are_spread_over_the_quantiles(tmp_path: Path) -> None:
    values = np.random.default_rng(0).permutation(100).astype(np.float32)[:, None]
    rows = some_rows(tmp_path, {"labels": values})
    found = picked(rows, {"scores": values}, MetricName.MAE)
    assert len(found) == 16
    assert {0, 99} <= set(values[found, 0].tolist())
    assert np.diff(np.sort(values[found, 0])).max() <= 8


def test_what_is_picked_is_the_same_every_time(tmp_path: Path) -> None:
    rows = some_rows(tmp_path, {"labels": LABELS})
    outputs = {"scores": one_hot(LABELS, 3)}
    assert picked(rows, outputs) == picked(rows, outputs)


def sequences(folder: Path, *, initial: bool = False) -> tuple[Rows, Tensors]:
    """Return six sequences of nine steps, each number saying where it comes from."""
    place = np.arange(6)[:, None, None] * 100 + np.arange(STEPS)[None, :, None]
    sound = (place + np.zeros(2)).astype(np.float32)
    inputs = {"sound": sound}
    if initial:
        inputs["state"] = np.full((6, 3), -5, np.float32)
    outputs = {
        "scores": place.astype(np.float32),
        "next": (place + np.full(3, 0.5)).astype(np.float32),
    }
    return rows_of(folder, inputs, {"labels": np.zeros((6, STEPS))}), outputs


@pytest.mark.parametrize("initial", [False, True])
def test_a_state_is_the_one_that_the_step_before_gave(tmp_path: Path, initial: bool) -> None:
    rows, outputs = sequences(tmp_path, initial=initial)
    card = a_card(a_task(MetricName.AUC), STATEFUL)
    inputs = golden_inputs(rows, outputs, card, MODEL_BYTES)
    steps = inputs["sound"][:, 0] % 100
    first = steps == 0
    assert first.any() and steps.max() == STEPS - 1
    carried = inputs["sound"][~first, :1].astype(np.float32) - 0.5
    assert np.array_equal(inputs["state"][~first], np.repeat(carried, 3, axis=1))
    assert np.all(inputs["state"][first] == (-5 if initial else 0))
    assert [array.dtype for array in inputs.values()] == [np.float32, np.float32]
    assert inputs["sound"].shape == (16, 2)


def test_golden_sets_have_a_tolerance_for_all_that_can_be_built() -> None:
    for runtime in Runtime:
        for precision in Precision:
            here = TOLERANCES[runtime, True, precision]
            assert 0 < here <= TOLERANCES[runtime, False, precision] < 0.1


# ---------------------------------------------------------------- tolerances

OUTPUTS: Tensors = {
    "scores": np.array([[0.0, 1.0], [1.0, 0.0]], np.float32),
    "boxes": np.array([[100.0], [640.0]], np.float32),
}


def a_golden(precision: Precision, *bindings: Binding, provider: str | None = None) -> Golden:
    profile = a_profile(provider=provider) if provider else a_profile()
    return golden_of({}, OUTPUTS, profile, precision, bindings)


def off_by(share: float) -> Tensors:
    """Return outputs of which only the scores are off, by a share of their range."""
    return {**OUTPUTS, "scores": OUTPUTS["scores"].astype(np.float32) + np.float32(share)}


def test_fp32_may_round_and_int8_may_be_off_by_a_step() -> None:
    fp32, int8 = a_golden(Precision.FP32), a_golden(Precision.INT8)
    assert agrees(fp32, off_by(5e-6)) and not agrees(fp32, off_by(5e-5))
    assert agrees(int8, off_by(1 / 256)) and not agrees(int8, off_by(2 / 255))


def test_an_output_of_large_values_does_not_excuse_a_small_one() -> None:
    golden = a_golden(Precision.INT8)
    assert golden.tolerance > 2
    assert not agrees(golden, off_by(0.02))


def test_an_output_that_is_stored_in_integers_may_be_off_by_its_own_step() -> None:
    binding = Binding(name="scores", runtime_name="y", datatype=Datatype.INT8, scale=0.25)
    golden = a_golden(Precision.INT8, binding)
    assert golden.tolerances["scores"] == ROOM * 0.25
    assert agrees(golden, off_by(0.25)) and not agrees(golden, off_by(0.5))


def test_a_provider_that_was_never_run_here_is_given_more_room() -> None:
    wide = a_golden(Precision.FP32, provider="CUDAExecutionProvider")
    assert agrees(wide, off_by(0.01)) and not agrees(wide, off_by(0.05))


def test_nan_and_another_shape_agree_with_nothing() -> None:
    golden = a_golden(Precision.INT8)
    assert not agrees(golden, off_by(float("nan")))
    assert not agrees(golden, {**OUTPUTS, "scores": OUTPUTS["scores"][:1]})


def test_an_output_of_zeros_has_a_tolerance() -> None:
    zeros = {"scores": np.zeros((2, 2), np.float32)}
    golden = golden_of({}, zeros, a_profile(), Precision.FP32, ())
    assert 0 < golden.tolerance < 1e-9
    assert is_same(golden, zeros) and not is_same(golden, {"scores": zeros["scores"] + 1})
