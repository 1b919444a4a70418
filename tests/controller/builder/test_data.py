"""Tests of how data files are read: strictly, bounded by the signature, and told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.builders import a_signature
from wherry_controller.builder.data import (
    Rows,
    read_calibration,
    read_evaluation,
    refuse_overlap,
)
from wherry_controller.core.recipe import BuildReason, BuildRefused

IMAGES = np.arange(60, dtype=np.float32).reshape(30, 2)
LABELS = np.arange(30) % 3


def saved(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez(folder / "rows.npz", **arrays)  # type: ignore[arg-type]
    return folder / "rows.npz"


def the_reason(refusal: pytest.ExceptionInfo[BuildRefused]) -> BuildReason:
    return refusal.value.fault.reason


def test_rows_and_labels_come_as_they_were_written(tmp_path: Path) -> None:
    file = saved(tmp_path, image=IMAGES, labels=LABELS)
    rows = read_evaluation(file, a_signature(), classes=3)
    assert len(rows) == 30
    assert np.array_equal(rows.inputs["image"], IMAGES)


@pytest.mark.parametrize(
    "arrays",
    [
        {"image": IMAGES},
        {"labels": LABELS},
        {"image": IMAGES, "labels": LABELS[:7]},
        {"image": IMAGES, "labels": LABELS + 1},
        {"image": IMAGES, "labels": LABELS - 1},
        {"image": IMAGES, "labels": LABELS / 2},
        {"image": IMAGES.astype(np.float64), "labels": LABELS},
        {"image": IMAGES[:, :1], "labels": LABELS},
        {"image": np.where(IMAGES == 4, np.nan, IMAGES), "labels": LABELS},
        {"image": IMAGES[:0], "labels": LABELS[:0]},
    ],
)
def test_data_that_contradicts_the_signature_is_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    with pytest.raises(BuildRefused) as refusal:
        read_evaluation(saved(tmp_path, **arrays), a_signature(), classes=3)
    assert the_reason(refusal) is BuildReason.MALFORMED_DATA


def test_a_file_that_is_no_npz_or_holds_objects_is_refused(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.npz"
    garbage.write_bytes(b"no arrays")
    objects = saved(tmp_path, image=np.array([{}, {}], dtype=object), labels=LABELS[:2])
    for file in (garbage, objects):
        with pytest.raises(BuildRefused) as refusal:
            read_evaluation(file, a_signature(), classes=3)
        assert the_reason(refusal) is BuildReason.MALFORMED_DATA


def test_too_few_calibration_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildRefused) as refusal:
        read_calibration(saved(tmp_path, image=IMAGES[:19]), a_signature())
    assert the_reason(refusal) is BuildReason.CALIBRATION_SHORT
    assert len(read_calibration(saved(tmp_path, image=IMAGES[:20]), a_signature())) == 20


def test_a_calibration_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BuildRefused) as refusal:
        read_calibration(tmp_path / "nothing.npz", a_signature())
    assert the_reason(refusal) is BuildReason.CALIBRATION_MISSING


def test_one_row_in_both_files_is_an_overlap() -> None:
    calibration, apart, shared = (
        Rows({"image": IMAGES[rows]}, LABELS[rows])
        for rows in (slice(0, 10), slice(10, 30), slice(9, 30))
    )
    refuse_overlap(calibration, apart)
    with pytest.raises(BuildRefused, match="1 of the evaluation rows") as refusal:
        refuse_overlap(calibration, shared)
    assert the_reason(refusal) is BuildReason.DATA_OVERLAP
