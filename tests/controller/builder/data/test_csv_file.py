"""Tests of rows from `.csv`: a line a row, every cell read strictly and named by its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.builders import a_signature
from tests.controller.builder.data.cards import (
    LABELS,
    PAIRS,
    a_card,
    an_image,
    everything,
    in_order,
    read,
    refused,
)
from wherry.signature import BATCH, Datatype, Tensor
from wherry_controller.core.card import Card, Data, MetricName, Task
from wherry_controller.core.fault import BuildReason

DATA = Data(evaluation="rows.csv", label="kind", columns={"image": ("x", "y")})
FLOWERS = ("rose", "tulip", "lily")


def lines(labels: tuple[str, ...] = ("0", "1", "2")) -> list[str]:
    pairs = zip(PAIRS.tolist(), LABELS, strict=True)
    return ["id,y,x,kind", *(f"a {n},{y!r},{x!r},{labels[n]}" for (x, y), n in pairs)]


def write(folder: Path, written: list[str]) -> None:
    (folder / "rows.csv").write_text("\n".join(written) + "\n")


def a_table(*, labels: tuple[str, ...] = ()) -> Card:
    return a_card(DATA, labels=labels)


def test_the_columns_of_the_card_are_an_input_in_their_order(tmp_path: Path) -> None:
    write(tmp_path, lines())
    assert np.array_equal(everything(read(a_table(), tmp_path)), in_order(PAIRS))


def test_labels_may_be_names_of_the_card(tmp_path: Path) -> None:
    write(tmp_path, lines(FLOWERS))
    datasets = read(a_table(labels=FLOWERS), tmp_path)
    label_of = {tuple(pair): label for pair, label in zip(PAIRS, LABELS, strict=True)}
    found = zip(datasets.final.inputs["image"], datasets.final.labels["labels"], strict=True)
    assert all(label_of[tuple(pair)] == label for pair, label in found)


def test_labels_that_are_numbers_by_name_are_no_class_numbers(tmp_path: Path) -> None:
    write(tmp_path, lines(("0", "1", "2")))
    card = a_table(labels=("1", "2", "3"))
    refused(card, tmp_path, BuildReason.LABELS_MISFIT, "line 2 of rows.csv", "'0'")


def test_a_name_that_the_card_does_not_know_is_refused_by_its_line(tmp_path: Path) -> None:
    written = lines(FLOWERS)
    written[5] = written[5].replace("tulip", "daisy")
    write(tmp_path, written)
    card = a_table(labels=FLOWERS)
    refused(card, tmp_path, BuildReason.LABELS_MISFIT, "line 6 of rows.csv", "'daisy'")


@pytest.mark.parametrize(
    "cell", ["", "nan", "inf", " 1", "1_0", "0x1", "1,5", "1e", "--1", "1e99", "one", "١"]
)
def test_a_cell_that_is_no_number_is_refused_by_its_line(tmp_path: Path, cell: str) -> None:
    written = lines()
    written[7] = f'a,"{cell}",1,0'
    write(tmp_path, written)
    refused(a_table(), tmp_path, BuildReason.MALFORMED_DATA, "line 8 of rows.csv")


@pytest.mark.parametrize(
    ("cell", "datatype"),
    [
        ("1.0", Datatype.INT32),
        ("300", Datatype.UINT8),
        ("-1", Datatype.UINT8),
        ("2", Datatype.BOOL),
    ],
)
def test_whole_numbers_must_fit_their_type(tmp_path: Path, cell: str, datatype: Datatype) -> None:
    card = a_card(DATA, signature=a_signature(inputs=(an_image(2, datatype=datatype),)))
    write(tmp_path, ["x,y,kind", "1,0,0", f"1,{cell},0"])
    refused(card, tmp_path, BuildReason.MALFORMED_DATA, "line 3 of rows.csv")


def test_a_header_or_a_line_that_misfits_is_refused(tmp_path: Path) -> None:
    for written, words in (
        (["x,kind", "1,0"], "no column 'y' for the input 'image'"),
        (["x,y", "1,0"], "no column 'kind' of labels"),
        (["x,y,x,kind", "1,0,1,0"], "the column 'x' twice"),
        (["x,y,kind", "1,0,0", "1,0"], "line 3 of rows.csv has 2 cells and the header has 3"),
        (["x,y,kind"], "rows.csv has no rows"),
        (["x,y,kind", '1,"0'], "rows.csv cannot be read"),
    ):
        write(tmp_path, written)
        refused(a_table(), tmp_path, BuildReason.MALFORMED_DATA, words)


def test_values_to_be_met_are_numbers_shaped_like_the_output(tmp_path: Path) -> None:
    signature = a_signature(outputs=(Tensor("scores", Datatype.FP32, (BATCH, 1)),))
    task = Task(output="scores", metric=MetricName.MAE)
    write(tmp_path, [line + ".5" if "kind" not in line else line for line in lines()])
    labels = read(a_card(DATA, signature=signature, task=task), tmp_path).final.labels["labels"]
    assert labels.shape[1:] == (1,)
    assert set(labels[:, 0]) == {0.5, 1.5, 2.5}
