"""Tests of rows on disk: what is written part by part is read back, and told apart by digest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry_controller.builder.data.read import row_digests
from wherry_controller.builder.data.rows import (
    PART_BYTES,
    Writer,
    digests_of,
    open_rows,
    rows_a_part,
    write_rows,
)

VALUES = np.arange(60, dtype=np.float32).reshape(30, 2)
NUMBERS = np.arange(30)


def test_rows_and_labels_come_back_as_they_were_written(tmp_path: Path) -> None:
    write_rows(tmp_path, {"in/0:x": VALUES, "mask": NUMBERS > 3}, {"labels": NUMBERS})
    rows = open_rows(tmp_path)
    assert len(rows) == 30
    assert np.array_equal(rows.inputs["in/0:x"], VALUES)
    assert np.array_equal(rows.inputs["mask"], NUMBERS > 3)
    assert np.array_equal(rows.labels["labels"], NUMBERS)


def test_rows_that_grow_by_parts_are_one_array(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    for start in range(0, 30, 7):
        writer.append({"x": VALUES[start : start + 7]}, {})
    rows = writer.finish()
    assert np.array_equal(rows.inputs["x"], VALUES)
    assert rows.labels == {}


def test_a_part_unlike_the_first_is_not_written(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.append({"x": VALUES}, {})
    with pytest.raises(ValueError, match="follows float32"):
        writer.append({"x": VALUES[:, :1]}, {})
    writer.close()


def test_chosen_rows_are_copies_in_memory(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, {"x": VALUES}, {})
    assert np.array_equal(rows.part(np.array([4, 2]))["x"], VALUES[[4, 2]])
    assert not isinstance(rows.part(slice(0, 2))["x"], np.memmap)


def test_parts_are_all_rows_in_order_and_no_larger_than_a_part(tmp_path: Path) -> None:
    wide = np.arange(40, dtype=np.float64).repeat(50_000).reshape(40, -1)
    parts = [part["x"] for part in write_rows(tmp_path, {"x": wide}, {}).parts()]
    assert np.array_equal(np.concatenate(parts), wide)
    assert len(parts) > 1
    assert max(part.nbytes for part in parts) <= PART_BYTES


def test_a_row_larger_than_a_part_is_read_alone() -> None:
    assert rows_a_part(PART_BYTES * 3) == 1


@given(st.permutations(range(30)))
def test_a_row_has_one_digest_wherever_it_stands(order: list[int]) -> None:
    digests = digests_of({"x": VALUES, "n": NUMBERS})
    moved = digests_of({"n": NUMBERS[order], "x": VALUES[order]})
    assert moved == [digests[at] for at in order]
    assert len(set(digests)) == 30


def test_digests_of_files_are_those_of_their_arrays(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, {"x": VALUES, "n": NUMBERS}, {"labels": NUMBERS})
    assert row_digests(rows) == frozenset(digests_of({"x": VALUES, "n": NUMBERS}))
