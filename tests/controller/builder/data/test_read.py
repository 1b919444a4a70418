"""Tests of how a version's rows are told apart: disjoint, whole, and the same in any order."""

from __future__ import annotations

import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import a_signature
from tests.controller.builder.data.cards import (
    LABELS,
    PAIRS,
    Array,
    a_card,
    an_image,
    everything,
    in_order,
    read,
    refused,
    save,
)
from wherry_controller.builder.data.read import read_datasets, row_digests
from wherry_controller.core.card import Data
from wherry_controller.core.fault import FEWEST_EVALUATION_ROWS, BuildReason

ALL = Data(evaluation="rows.npz", calibration="more.npz", search="search.npz")
CALIBRATED = Data(evaluation="rows.npz", calibration="more.npz")
HALVES = PAIRS / 2


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(80, 200), copies=st.integers(1, 3))
def test_a_split_is_whole_disjoint_and_the_same_in_any_order(
    seed: int, rows: int, copies: int
) -> None:
    random = np.random.default_rng(seed)
    unlike = random.random((rows, 2)).astype(np.float32)
    given = unlike.repeat(copies, axis=0)
    with tempfile.TemporaryDirectory() as folder:
        digests: list[tuple[frozenset[bytes], frozenset[bytes]]] = []
        for order in (np.arange(len(given)), random.permutation(len(given))):
            save(Path(folder), image=given[order], labels=np.zeros(len(given), np.int64))
            datasets = read_datasets(a_card(), Path(folder), Path(folder, str(len(digests))))
            search, final = row_digests(datasets.search), row_digests(datasets.final)
            assert not search & final
            assert len(search) + len(final) == rows
            assert np.array_equal(everything(datasets), in_order(given))
            digests.append((search, final))
        assert digests[0] == digests[1]


def test_about_a_quarter_of_the_evaluation_is_for_search(tmp_path: Path) -> None:
    rows = np.arange(8000, dtype=np.float32).reshape(4000, 2)
    save(tmp_path, image=rows, labels=np.zeros(4000, np.int64))
    assert 900 < len(read(a_card(), tmp_path).search) < 1100


def test_more_rows_move_no_row_to_the_other_side(tmp_path: Path) -> None:
    save(tmp_path, image=PAIRS[:100], labels=LABELS[:100])
    before = row_digests(read_datasets(a_card(), tmp_path, tmp_path / "before").search)
    save(tmp_path, image=PAIRS, labels=LABELS)
    assert before <= row_digests(read_datasets(a_card(), tmp_path, tmp_path / "after").search)


def test_rows_for_search_may_come_in_a_file_of_their_own(tmp_path: Path) -> None:
    save(tmp_path, image=PAIRS[:60], labels=LABELS[:60])
    save(tmp_path, "search.npz", image=PAIRS[60:], labels=LABELS[60:])
    save(tmp_path, "more.npz", image=HALVES)
    datasets = read(a_card(ALL), tmp_path)
    assert np.array_equal(datasets.final.inputs["image"], PAIRS[:60])
    assert np.array_equal(datasets.search.inputs["image"], PAIRS[60:])
    assert datasets.calibration is not None
    assert datasets.calibration.labels == {}


@pytest.mark.parametrize(
    ("calibration", "search", "name"),
    [
        (PAIRS[40:80], PAIRS[80:], "more.npz"),
        (PAIRS[90:], PAIRS[60:], "more.npz"),
        (HALVES, PAIRS[59:], "search.npz"),
    ],
)
def test_a_row_in_two_files_is_an_overlap(
    tmp_path: Path, calibration: Array, search: Array, name: str
) -> None:
    save(tmp_path, image=PAIRS[:60], labels=LABELS[:60])
    save(tmp_path, "search.npz", image=search, labels=LABELS[: len(search)])
    save(tmp_path, "more.npz", image=calibration)
    refused(a_card(ALL), tmp_path, BuildReason.DATA_OVERLAP, name)


def test_the_shared_rows_are_counted(tmp_path: Path) -> None:
    save(tmp_path, image=PAIRS, labels=LABELS)
    save(tmp_path, "more.npz", image=np.concatenate([HALVES, PAIRS[:3], PAIRS[:1]]))
    refused(a_card(CALIBRATED), tmp_path, BuildReason.DATA_OVERLAP, "3 of the rows in more.npz")


def test_calibration_takes_twenty_rows_that_differ(tmp_path: Path) -> None:
    save(tmp_path, image=PAIRS, labels=LABELS)
    for rows, words in (
        (HALVES[:19], "19 rows, of which 19 differ"),
        (HALVES[:1].repeat(500, axis=0), "500 rows, of which 1 differ"),
    ):
        save(tmp_path, "more.npz", image=rows)
        refused(a_card(CALIBRATED), tmp_path, BuildReason.CALIBRATION_SHORT, words)
    save(tmp_path, "more.npz", image=HALVES[:20])
    assert read(a_card(CALIBRATED), tmp_path).calibration is not None


def test_calibration_on_another_scale_is_refused(tmp_path: Path) -> None:
    save(tmp_path, image=PAIRS, labels=LABELS)
    save(tmp_path, "more.npz", image=HALVES * 255)
    refused(a_card(CALIBRATED), tmp_path, BuildReason.CALIBRATION_STRAYS, "'image'")


def test_a_calibration_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    save(tmp_path, image=PAIRS, labels=LABELS)
    refused(a_card(CALIBRATED), tmp_path, BuildReason.CALIBRATION_MISSING, "more.npz")
    assert read(a_card(), tmp_path).calibration is None


def test_an_evaluation_too_small_to_judge_by_is_refused(tmp_path: Path) -> None:
    save(tmp_path, image=PAIRS[:FEWEST_EVALUATION_ROWS], labels=LABELS[:FEWEST_EVALUATION_ROWS])
    refused(
        a_card(), tmp_path, BuildReason.EVALUATION_SHORT, "rows.npz leaves", "20 rows to judge by"
    )
    save(tmp_path, image=PAIRS[:1].repeat(200, axis=0), labels=LABELS[:1].repeat(200))
    refused(a_card(), tmp_path, BuildReason.EVALUATION_SHORT, "rows.npz leaves")


def test_a_file_of_another_form_is_refused(tmp_path: Path) -> None:
    card = a_card(Data(evaluation="rows.xlsx"))
    refused(card, tmp_path, BuildReason.MALFORMED_DATA, "rows.xlsx ends in none of .npz")


def test_more_bytes_than_a_build_may_keep_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wherry_controller.builder.data.read.LARGEST_BYTES", 500)
    save(tmp_path, image=PAIRS, labels=LABELS)
    refused(a_card(), tmp_path, BuildReason.MALFORMED_DATA, "500 bytes")


def peak_bytes(calibration: int) -> int:
    """Return the most memory that reading so many calibration rows of 100 KB takes."""
    with tempfile.TemporaryDirectory() as folder:
        save_wide(Path(folder), "rows.npz", range(100))
        save_wide(Path(folder), "more.npz", range(100, 100 + calibration))
        card = a_card(CALIBRATED, signature=a_signature(inputs=(an_image(25_600),)))
        tracemalloc.start()
        read(card, Path(folder))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak


def save_wide(folder: Path, name: str, numbers: range) -> None:
    image = np.zeros((len(numbers), 25_600), np.float32)
    image[:, 0] = 1 + np.array(numbers) / 10_000
    save(folder, name, image=image, labels=np.zeros(len(numbers), np.int64))


def test_memory_does_not_grow_with_the_calibration_rows() -> None:
    assert peak_bytes(2000) < 1.1 * peak_bytes(100)
