"""Tests of the reference that is made for a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.controller.builder.judging.cards import ONE_OUTPUT, one_hot, rows_of
from wherry.reference import BINS, LARGEST_REFERENCE_BYTES, parse_reference
from wherry.signature import BATCH, Datatype, Signature, Tensor
from wherry_controller.builder.judging.distribution import (
    MOST_ROWS,
    distribution_of,
    reference_of,
)

RANDOM = np.random.default_rng(8)


def test_the_bins_are_about_as_full_as_one_another() -> None:
    found = distribution_of("a", RANDOM.exponential(size=(3200, 1)))
    assert (len(found.counts), sum(found.counts), found.rows) == (BINS, 3200, 3200)
    assert 95 <= min(found.counts) <= max(found.counts) <= 105


def test_equal_values_share_a_bin_and_zeros_are_counted() -> None:
    values = np.array([[0.0], [0.0], [0.0], [1.0]])
    found = distribution_of("a", values)
    assert (found.zeros, found.not_finite) == (0.75, 0.0)
    assert sum(found.counts) == 4
    assert len(found.edges) == len(set(found.edges))


def test_values_that_are_no_numbers_lie_in_no_bin() -> None:
    found = distribution_of("a", np.array([[np.nan], [np.inf], [1.0], [2.0]]))
    assert (sum(found.counts), found.not_finite) == (2, 0.5)
    none = distribution_of("a", np.full((2, 1), np.nan))
    assert (none.edges, none.counts, none.not_finite) == ((), (0,), 1.0)


def test_a_large_tensor_is_looked_at_here_and_there() -> None:
    image = np.broadcast_to(np.arange(100.0), (4, 1510, 100))
    found = distribution_of("a", image)
    assert 150 * 4 <= sum(found.counts) <= 160 * 4
    # A stride of 1,000 would meet one column only.
    assert found.stride == 999
    assert len(found.edges) == BINS - 1


def test_of_many_rows_some_are_looked_at() -> None:
    found = distribution_of("a", np.zeros((3 * MOST_ROWS + 1, 1), np.float32))
    assert MOST_ROWS / 2 < sum(found.counts) <= MOST_ROWS


def test_a_reference_holds_every_tensor_and_the_shares_of_the_classes(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, {"image": RANDOM.random((8, 4)).astype(np.float32)})
    data = reference_of(
        rows, {"scores": one_hot([0, 0, 0, 0, 2, 2, 1, 1], 3)}, ONE_OUTPUT, "scores"
    )
    reference = parse_reference(data)
    assert [one.name for one in (*reference.inputs, *reference.outputs)] == ["image", "scores"]
    assert reference.outputs[0].classes == (0.5, 0.25, 0.25)
    assert reference.inputs[0].classes == ()


def test_a_reference_of_too_many_tensors_loses_the_last_inputs(tmp_path: Path) -> None:
    names = [f"{'sensor' * 20}-{index:03}" for index in range(400)]
    signature = Signature(
        tuple(Tensor(name, Datatype.FP32, (BATCH, 4)) for name in names),
        (Tensor("scores", Datatype.FP32, (BATCH, 3)),),
    )
    values = RANDOM.random((80, 4)).astype(np.float32)
    rows = rows_of(tmp_path, dict.fromkeys(names, values))
    data = reference_of(rows, {"scores": one_hot([0, 1] * 40, 3)}, signature, "scores")
    assert LARGEST_REFERENCE_BYTES / 2 < len(data) <= LARGEST_REFERENCE_BYTES
    kept = parse_reference(data)
    assert [one.name for one in kept.inputs] == names[: len(kept.inputs)]
    assert len(kept.outputs) == 1


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_, np.float16])
def test_every_type_has_a_distribution(dtype: type[np.generic]) -> None:
    found = distribution_of("a", RANDOM.integers(0, 2, (50, 3)).astype(dtype))
    assert sum(found.counts) == 150
