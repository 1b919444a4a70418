"""Tests of strayed calibration: another preparation is seen, chance and constants are not."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.builders import a_signature
from tests.controller.builder.data.cards import an_image
from wherry.signature import StatePair
from wherry_controller.builder.data.ranges import Floats, Spans, differ, range_factor, stray
from wherry_controller.builder.data.rows import write_rows
from wherry_controller.core.fault import LARGEST_RANGE_FACTOR, BuildReason

KINDS = (
    "normal",
    "uniform",
    "exponential",
    "lognormal",
    "cauchy",
    "flags",
    "mostly zero",
    "loud rows",
    "constant",
)


def drawn(kind: str, random: np.random.Generator, rows: int, width: int) -> Floats:
    """Return honest rows of one kind: heavy tails, zeros and loud rows among them."""
    shape = (rows, width)
    match kind:
        case "normal":
            return random.normal(3, 2, shape)
        case "uniform":
            return random.random(shape)
        case "exponential":
            return random.exponential(1, shape)
        case "lognormal":
            return random.lognormal(0, 1.5, shape)
        case "cauchy":
            return random.standard_cauchy(shape)
        case "flags":
            return (random.random(shape) < 0.02).astype(np.float64)
        case "mostly zero":
            return np.where(random.random(shape) < 0.9, 0, random.random(shape))
        case "loud rows":
            return random.normal(0, 1, shape) * random.lognormal(0, 2, (rows, 1))
        case _:
            return np.full(shape, 16_000.0)


def spans(rows: Floats) -> Spans:
    return Spans(rows.min(axis=1), rows.max(axis=1))


def strays(calibration: Floats, search: Floats) -> bool:
    one, other = spans(calibration), spans(search)
    return range_factor(one, other) > LARGEST_RANGE_FACTOR and differ(one, other)


@settings(derandomize=True, max_examples=400)
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**32 - 1),
    calibration=st.integers(20, 300),
    search=st.integers(1, 300),
    width=st.sampled_from([1, 4, 100]),
)
@example(kind="lognormal", seed=1, calibration=20, search=5, width=1)
@example(kind="flags", seed=2, calibration=20, search=300, width=1)
def test_honest_rows_never_stray(
    *, kind: str, seed: int, calibration: int, search: int, width: int
) -> None:
    random = np.random.default_rng(seed)
    assert not strays(drawn(kind, random, calibration, width), drawn(kind, random, search, width))


@pytest.mark.parametrize("kind", ["normal", "uniform", "exponential", "mostly zero", "loud rows"])
@pytest.mark.parametrize("scale", [255, 1 / 255, 10, 0.1])
@pytest.mark.parametrize("search", [10, 200])
def test_another_scale_strays(kind: str, scale: float, search: int) -> None:
    random = np.random.default_rng(3)
    if kind == "loud rows" and (search < 200 or scale in (10, 0.1)):
        search, scale = 400, scale * scale  # What one row may have by chance takes more to see.
    ours, theirs = drawn(kind, random, 40, 64), drawn(kind, random, search, 64)
    assert strays(ours * scale, theirs)


def test_a_factor_below_four_is_let_through_and_one_above_is_not() -> None:
    random = np.random.default_rng(3)
    ours, theirs = random.random((60, 100)), random.random((60, 100))
    assert not strays(ours * 3.5, theirs)
    assert not strays(ours / 3.5, theirs)
    assert strays(ours * 4.5, theirs)
    assert strays(ours / 4.5, theirs)


def test_an_offset_strays_where_it_is_wider_than_the_rows() -> None:
    random = np.random.default_rng(3)
    ours, theirs = random.random((60, 100)), random.random((60, 100))
    assert strays(ours + 100, theirs)
    assert not strays(ours - 0.5, theirs)


def test_constants_stray_only_if_they_differ() -> None:
    ones = np.ones((40, 3))
    assert not strays(ones, ones)
    assert not strays(ones, ones * (1 + 1e-8))
    assert strays(ones, ones * 2)
    assert strays(ones * 0, np.random.default_rng(0).random((40, 3)))


def test_the_input_that_strays_is_named_with_its_ranges() -> None:
    random = np.random.default_rng(0)
    rows = random.random((40, 2)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        ours = write_rows(Path(folder, "a"), {"image": rows * 255}, {})
        theirs = write_rows(Path(folder, "b"), {"image": rows[::-1]}, {})
        fault = stray(a_signature(), ours, theirs)
        assert stray(a_signature(), theirs, theirs) is None
    assert fault is not None
    assert fault.reason is BuildReason.CALIBRATION_STRAYS
    assert "'image' is from" in fault.sentence


def test_states_may_start_at_zero_to_evaluate(tmp_path: Path) -> None:
    image, state = an_image(2), an_image(2)
    rows = np.random.default_rng(0).random((40, 2)).astype(np.float32)
    signature = a_signature(
        inputs=(image, type(state)("state", state.datatype, state.shape)),
        states=(StatePair("scores", "state"),),
    )
    ours = write_rows(tmp_path / "a", {"image": rows, "state": rows}, {})
    theirs = write_rows(tmp_path / "b", {"image": rows, "state": rows * 0}, {})
    assert stray(signature, ours, theirs) is None
