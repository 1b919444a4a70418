"""Tests of rows from `.parquet`: columns of numbers, of lists, and of names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from tests.builders import a_signature
from tests.controller.builder.data.cards import (
    LABELS,
    PAIRS,
    ROWS,
    a_card,
    an_image,
    everything,
    in_order,
    read,
    refused,
)
from wherry.signature import Datatype
from wherry_controller.core.card import Data
from wherry_controller.core.fault import BuildReason

LISTED = Data(evaluation="rows.parquet")
SPREAD = Data(evaluation="rows.parquet", columns={"image": ("x", "y")})
FLOWERS = ("rose", "tulip", "lily")


def write(folder: Path, columns: dict[str, object]) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "rows.parquet", row_group_size=50)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_columns_are_an_input(tmp_path: Path, kind: type[np.floating]) -> None:
    x, y = PAIRS.astype(kind).T
    write(tmp_path, {"x": x, "y": y, "labels": LABELS, "note": ["unused"] * ROWS})
    assert np.array_equal(everything(read(a_card(SPREAD), tmp_path)), in_order(PAIRS))


def test_lists_are_an_input_and_names_are_labels(tmp_path: Path) -> None:
    names = pyarrow.array([FLOWERS[label] for label in LABELS]).dictionary_encode()
    write(tmp_path, {"image": PAIRS.tolist(), "labels": names})
    datasets = read(a_card(LISTED, labels=FLOWERS), tmp_path)
    assert np.array_equal(everything(datasets), in_order(PAIRS))
    label_of = {tuple(pair): label for pair, label in zip(PAIRS, LABELS, strict=True)}
    found = zip(datasets.final.inputs["image"], datasets.final.labels["labels"], strict=True)
    assert all(label_of[tuple(pair)] == label for pair, label in found)


def test_lists_of_lists_are_axes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((60, 3, 2)).astype(np.float32)
    write(tmp_path, {"image": values.tolist(), "labels": LABELS[:60]})
    card = a_card(LISTED, signature=a_signature(inputs=(an_image("length", 2),)))
    assert np.array_equal(everything(read(card, tmp_path)), in_order(values))


def test_cells_that_are_no_rows_of_the_input_are_refused(tmp_path: Path) -> None:
    x, y = PAIRS.T
    ragged = [[1.0, 2.0], [1.0]] * 60
    for columns, words in (
        ({"x": x, "labels": LABELS}, "no column 'y'"),
        ({"x": x, "y": y}, "no column 'labels' of labels"),
        ({"x": x, "y": [None, *y[1:].tolist()], "labels": LABELS}, "'y' of rows.parquet has empty"),
        ({"x": x, "y": ["1"] * ROWS, "labels": LABELS}, "holds <U1, not FP32"),
        ({"x": x, "y": ragged, "labels": LABELS}, "'y' of rows.parquet differ in length"),
        ({"x": x, "y": np.where(LABELS == 1, np.nan, y), "labels": LABELS}, "NaN"),
        ({"x": x, "y": np.full(ROWS, 1e99), "labels": LABELS}, "too large for FP32"),
        ({"x": x, "y": PAIRS.tolist(), "labels": LABELS}, "3 values a row for 'image'"),
    ):
        write(tmp_path, columns)
        refused(a_card(SPREAD), tmp_path, BuildReason.MALFORMED_DATA, words)


def test_fractions_fill_no_whole_numbers(tmp_path: Path) -> None:
    card = a_card(SPREAD, signature=a_signature(inputs=(an_image(2, datatype=Datatype.UINT8),)))
    write(tmp_path, {"x": LABELS, "y": LABELS + 0.0, "labels": LABELS})
    refused(card, tmp_path, BuildReason.MALFORMED_DATA, "holds float64, not UINT8")
    write(tmp_path, {"x": LABELS, "y": LABELS + 255, "labels": LABELS})
    refused(card, tmp_path, BuildReason.MALFORMED_DATA, "outside of UINT8")


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 and no more")
    refused(a_card(LISTED), tmp_path, BuildReason.MALFORMED_DATA, "rows.parquet cannot be read")
