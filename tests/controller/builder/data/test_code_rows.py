"""Tests of rows from a version's own function: taken one by one, as mappings."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.controller.builder.data.cards import a_card, read, refused
from wherry_controller.core.card import Data
from wherry_controller.core.fault import BuildReason

CARD = a_card(Data(evaluation="data.py:rows"))
HEAD = "import numpy as np\n\n\ndef rows():\n    for at in range(100):\n"


def write(folder: Path, body: str) -> None:
    (folder / "data.py").write_text(HEAD + "".join(f"        {line}\n" for line in body.split(";")))


def test_what_a_function_yields_are_rows(tmp_path: Path) -> None:
    write(tmp_path, "yield {'image': np.array([at, at % 3], np.float32), 'labels': at % 3}")
    final = read(CARD, tmp_path).final
    assert (final.inputs["image"][:, 1] == final.labels["labels"]).all()
    assert 20 <= len(final) < 100


def test_labels_may_be_names(tmp_path: Path) -> None:
    write(
        tmp_path,
        "name = ('ant', 'bee', 'grasshopper')[at % 3];"
        "yield {'image': np.array([at, at % 3], np.float32), 'labels': name}",
    )
    card = a_card(Data(evaluation="data.py:rows"), labels=("ant", "bee", "grasshopper"))
    final = read(card, tmp_path).final
    assert (final.inputs["image"][:, 1] == final.labels["labels"]).all()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("yield at", "row 0 of data.py:rows is int, not a mapping"),
        ("yield None", "row 0 of data.py:rows is NoneType, not a mapping"),
        ("yield {'labels': 0}", "row 0 of data.py:rows has nothing named 'image'"),
        ("yield {'image': object(), 'labels': 0}", "holds Python objects"),
        ("yield {'image': [[1], [1, 2]], 'labels': 0}", "is no array"),
        ("yield {'image': np.zeros(2), 'labels': 0}", "is float64, not FP32"),
        ("yield {'image': np.zeros(3, np.float32), 'labels': 0}", "shape [100, 3], not [batch, 2]"),
        (
            "yield {'image': np.zeros(2 + at, np.float32), 'labels': 0}",
            "differ in the type or shape",
        ),
        ("raise KeyError('lost');yield", "data.py:rows fails at row 0 (KeyError: 'lost')"),
        ("return;yield", "data.py:rows has no rows"),
    ],
)
def test_rows_that_are_none_are_refused(tmp_path: Path, body: str, words: str) -> None:
    write(tmp_path, body)
    refused(CARD, tmp_path, BuildReason.MALFORMED_DATA, words)


def test_a_function_that_yields_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text("def rows():\n    return 7\n")
    refused(CARD, tmp_path, BuildReason.MALFORMED_DATA, "returns int")


def test_a_file_without_the_function_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text("def others():\n    yield {}\n")
    refused(CARD, tmp_path, BuildReason.FACTORY_NOT_IMPORTABLE, "no function 'rows'")


def test_an_endless_function_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wherry_controller.builder.data.read.MOST_ROWS", 90)
    write(tmp_path, "yield {'image': np.array([at, 0], np.float32), 'labels': 0}")
    refused(CARD, tmp_path, BuildReason.MALFORMED_DATA, "more than 90 rows")
