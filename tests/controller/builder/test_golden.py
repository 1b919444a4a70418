"""Tests of golden outputs, accuracy and the damage that golden outputs must show."""

from __future__ import annotations

import numpy as np
import pytest

from wherry_controller.builder.agreement import Golden, refuse_astray
from wherry_controller.builder.damage import damage
from wherry_controller.builder.data import Tensors
from wherry_controller.builder.evaluate import accuracy_of
from wherry_controller.builder.onnx_file import Weights
from wherry_controller.core.recipe import BuildReason, BuildRefused

ROWS = np.array([[0.0], [1.0]], np.float32)


def a_golden() -> Golden:
    return Golden({"image": ROWS}, {"scores": ROWS * 3}, tolerance=0.1)


def times(factor: float) -> Tensors:
    return {"scores": ROWS * np.float32(factor)}


def test_a_faithful_device_agrees_within_the_tolerance() -> None:
    assert a_golden().agrees(lambda _: times(3.05))
    assert not a_golden().agrees(lambda _: times(3.2))


def test_nan_agrees_with_nothing() -> None:
    assert not a_golden().agrees(lambda _: times(float("nan")))


def test_accuracy_is_the_share_of_rows_whose_largest_class_is_labelled() -> None:
    scores = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]], np.float32)
    assert accuracy_of({"scores": scores}, "scores", np.array([0, 1, 2, 1])) == 0.75


def test_an_export_may_round_and_must_not_stray() -> None:
    net = {"scores": np.array([[0.0], [1.0], [5.0]], np.float32)}
    refuse_astray(times(1.00001), net)
    for factor in (1.01, float("nan")):
        with pytest.raises(BuildRefused) as refusal:
            refuse_astray(times(factor), net)
        assert refusal.value.fault.reason is BuildReason.EXPORT_DIFFERS


def test_damage_zeroes_the_strongest_quarter_of_the_channels() -> None:
    values = np.diag(np.array([1, -9, 2, 3], np.int8))
    hurt = damage(Weights("w", values, axis=0))
    assert hurt[1].tolist() == [0, 0, 0, 0]
    assert np.count_nonzero(hurt) == 3
    assert np.count_nonzero(values) == 4


def test_damage_follows_the_axis_of_the_channels() -> None:
    values = np.ones((2, 8), np.float32)
    hurt = damage(Weights("w", values, axis=-1))
    assert np.count_nonzero(hurt.sum(axis=0) == 0) == 2
