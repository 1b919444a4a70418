"""Tests of outputs held against one another."""

from __future__ import annotations

import numpy as np
import pytest

from wherry_controller.builder.judging import outputs
from wherry_controller.builder.judging.outputs import (
    agreement_of,
    farthest_of,
    output_error_of,
    pieces,
    range_of,
    refuse_not_finite,
)
from wherry_controller.core.fault import BuildRefused

RANDOM = np.random.default_rng(5)
SCORES = RANDOM.normal(100, 2, (500, 3)).astype(np.float32)


def test_the_output_error_is_a_share_of_the_spread_and_not_of_the_size() -> None:
    strayed = SCORES + np.float32(0.2) * np.where(RANDOM.random(SCORES.shape) < 0.5, -1, 1)
    assert output_error_of({"a": SCORES}, {"a": strayed}) == pytest.approx(0.1, rel=0.05)
    assert output_error_of({"a": SCORES}, {"a": SCORES}) == 0.0


def test_each_output_is_measured_by_its_own_spread() -> None:
    small, large = SCORES / 1e4, SCORES * 1e4
    reference = {"small": small, "large": large}
    off = output_error_of(reference, {"small": small + small.std(), "large": large})
    assert off == pytest.approx(np.sqrt(1 / 2), rel=1e-3)


def test_a_constant_output_is_measured_by_its_size() -> None:
    constant = np.full((5, 2), 4.0, np.float32)
    assert output_error_of({"a": constant}, {"a": constant + 1}) == pytest.approx(0.25)


def test_pieces_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    other = SCORES[::-1]
    whole = (
        output_error_of({"a": SCORES}, {"a": other}),
        agreement_of(SCORES, other),
        farthest_of(SCORES, other),
        range_of(SCORES),
    )
    monkeypatch.setattr(outputs, "PIECE_BYTES", 100)
    assert len(list(pieces(SCORES, other))) == 125
    assert whole == pytest.approx(
        (
            output_error_of({"a": SCORES}, {"a": other}),
            agreement_of(SCORES, other),
            farthest_of(SCORES, other),
            range_of(SCORES),
        )
    )


def test_agreement_is_the_share_of_equal_answers() -> None:
    left = np.array([[[1, 0], [0, 1]], [[1, 0], [1, 0]]], np.float32)
    assert agreement_of(left, left[:, ::-1]) == 0.5


def test_a_range_reaches_to_zero() -> None:
    assert range_of(np.array([[290.0, 300.0]])) == 300.0
    assert range_of(np.array([[-1.0, 3.0]])) == 4.0


def test_an_output_that_is_not_finite_is_refused_with_its_rows() -> None:
    refuse_not_finite("the net", {"a": SCORES, "b": np.ones((2, 2), np.int64)})
    sick = SCORES.copy()
    sick[3, 1], sick[3, 2], sick[9, 0] = np.nan, np.inf, np.inf
    with pytest.raises(BuildRefused, match="the net gives NaN or infinity in 'a' for 2 rows"):
        refuse_not_finite("the net", {"a": sick})
