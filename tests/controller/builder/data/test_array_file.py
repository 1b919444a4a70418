"""Tests of rows from `.npz` and `.npy`: strict, piece by piece, and never a pickle."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

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
from wherry.signature import BATCH, StatePair, Tensor
from wherry_controller.core.card import Data
from wherry_controller.core.fault import BuildReason


def npy(array: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def save_members(folder: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(folder / "rows.npz", "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)


def test_all_rows_and_their_labels_come_as_they_were_written(tmp_path: Path) -> None:
    save(tmp_path, image=PAIRS, labels=LABELS, unused=np.zeros(3))
    datasets = read(a_card(), tmp_path)
    assert np.array_equal(everything(datasets), in_order(PAIRS))
    label_of = {tuple(pair): label for pair, label in zip(PAIRS, LABELS, strict=True)}
    found = zip(datasets.final.inputs["image"], datasets.final.labels["labels"], strict=True)
    assert all(label_of[tuple(pair)] == label for pair, label in found)


def test_a_compressed_file_holds_the_same_rows(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "rows.npz", image=PAIRS, labels=LABELS)
    assert np.array_equal(everything(read(a_card(), tmp_path)), in_order(PAIRS))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"image": PAIRS}, "nothing named 'labels'"),
        ({"labels": LABELS}, "nothing named 'image'"),
        ({"image": PAIRS, "labels": LABELS[:7]}, "differ in rows (120 of 'image', 7 of 'labels')"),
        ({"image": PAIRS, "labels": LABELS / 2}, "'labels' in rows.npz is float64"),
        ({"image": PAIRS.astype(np.float64), "labels": LABELS}, "is float64, not FP32"),
        ({"image": PAIRS[:, :1], "labels": LABELS}, "shape [120, 1], not [batch, 2]"),
        ({"image": np.asfortranarray(PAIRS), "labels": LABELS}, "numpy.ascontiguousarray"),
        ({"image": PAIRS[:0], "labels": LABELS[:0]}, "no rows"),
        ({"image": np.array([{}, {}]), "labels": LABELS[:2]}, "holds Python objects"),
        ({"image": np.float32(1), "labels": LABELS}, "no rows"),
    ],
)
def test_arrays_that_contradict_the_signature_are_refused(
    tmp_path: Path, arrays: dict[str, Array], words: str
) -> None:
    save(tmp_path, "rows.npz", **arrays)
    refused(a_card(), tmp_path, BuildReason.MALFORMED_DATA, "rows.npz", words)


@pytest.mark.parametrize("strange", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_named(tmp_path: Path, strange: float) -> None:
    sick = PAIRS.copy()
    sick[41, 1] = strange
    save(tmp_path, image=sick, labels=LABELS)
    refused(a_card(), tmp_path, BuildReason.MALFORMED_DATA, "NaN or infinity in row 41 of rows.npz")


def test_broken_members_are_named(tmp_path: Path) -> None:
    whole, labels = npy(PAIRS), npy(LABELS)
    for broken, words in (
        (whole[:-4], "'image' of rows.npz ends before its last row"),
        (whole + b"more", "'image' of rows.npz goes on after its last row"),
        (b"no array", "'image' of rows.npz is no numpy array"),
    ):
        save_members(tmp_path, {"image": broken, "labels": labels})
        refused(a_card(), tmp_path, BuildReason.MALFORMED_DATA, words)


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    file = save(tmp_path, image=PAIRS, labels=LABELS)
    data = bytearray(file.read_bytes())
    at = data.find(PAIRS.tobytes()[:16])
    data[at + 2] ^= 1
    file.write_bytes(data)
    refused(a_card(), tmp_path, BuildReason.MALFORMED_DATA, "of rows.npz", "Bad CRC")


def test_a_file_that_is_no_archive_or_not_there_is_refused(tmp_path: Path) -> None:
    refused(a_card(), tmp_path, BuildReason.MALFORMED_DATA, "rows.npz cannot be read")
    (tmp_path / "rows.npz").write_bytes(b"no arrays")
    refused(a_card(), tmp_path, BuildReason.MALFORMED_DATA, "rows.npz cannot be read")


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    save(tmp_path, image=PAIRS, labels=LABELS)
    with (
        pytest.warns(UserWarning, match="Duplicate"),
        zipfile.ZipFile(tmp_path / "rows.npz", "a") as archive,
    ):
        archive.writestr("image.npy", npy(PAIRS))
    refused(a_card(), tmp_path, BuildReason.MALFORMED_DATA, "holds 'image' twice")


def test_a_bare_array_calibrates_and_judges_nothing(tmp_path: Path) -> None:
    save(tmp_path, image=PAIRS, labels=LABELS)
    np.save(tmp_path / "more.npy", PAIRS[:40] / 2)
    calibrated = a_card(Data(evaluation="rows.npz", calibration="more.npy"))
    calibration = read(calibrated, tmp_path).calibration
    assert calibration is not None
    assert np.array_equal(calibration.inputs["image"], PAIRS[:40] / 2)
    judged = a_card(Data(evaluation="more.npy"))
    refused(judged, tmp_path, BuildReason.MALFORMED_DATA, "more.npy has no place for labels")


def test_every_input_needs_rows_and_a_named_axis_takes_any_length(tmp_path: Path) -> None:
    signature = a_signature(
        inputs=(an_image("length", 2), Tensor("mask", an_image().datatype, (BATCH,)))
    )
    image = np.random.default_rng(0).random((60, 5, 2)).astype(np.float32)
    save(tmp_path, image=image, labels=LABELS[:60])
    card = a_card(signature=signature)
    refused(card, tmp_path, BuildReason.MALFORMED_DATA, "nothing named 'mask'")
    save(tmp_path, image=image, mask=image[:, 0, 0], labels=LABELS[:60])
    assert read(card, tmp_path).final.inputs["image"].shape[1:] == (5, 2)


def test_rows_of_a_signature_with_states_are_sequences(tmp_path: Path) -> None:
    state = Tensor("state", an_image().datatype, (BATCH, 4))
    signature = a_signature(
        inputs=(an_image(2), state),
        outputs=(
            Tensor("scores", state.datatype, (BATCH, 3)),
            Tensor("next", *(state.datatype, state.shape)),
        ),
        states=(StatePair("next", "state"),),
    )
    card = a_card(signature=signature)
    sequences = np.random.default_rng(0).random((60, 7, 2)).astype(np.float32)
    save(tmp_path, image=sequences, labels=np.zeros((60, 7), np.int64))
    datasets = read(card, tmp_path)
    assert set(datasets.final.files) == {"image"}
    assert datasets.final.labels["labels"].shape[1:] == (7,)
    save(tmp_path, image=sequences, state=np.zeros((60, 4), np.float32), labels=LABELS[:60])
    assert set(read(card, tmp_path).final.files) == {"image", "state"}
    save(tmp_path, image=sequences[:, 0], labels=LABELS[:60])
    refused(card, tmp_path, BuildReason.MALFORMED_DATA, "not [batch, steps, 2]")
