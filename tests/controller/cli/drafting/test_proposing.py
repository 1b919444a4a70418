"""Tests of what a folder lets one propose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wherry.signature import BATCH, Datatype, StatePair, Tensor
from wherry_controller.cli.drafting import proposing
from wherry_controller.core.card import MetricName

FLOAT = Datatype.FP32


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("Silero_VAD.onnx", "silero-vad"),
        ("my-folder/model.onnx", "my-folder"),
        ("my-folder/Weights.pt", "my-folder"),
        ("___.onnx", "model"),
    ],
)
def test_a_model_is_named_by_its_file_or_its_folder(file: str, name: str) -> None:
    assert proposing.model_name(Path(file)) == name


def test_rows_are_told_by_name_and_folders_by_their_images(tmp_path: Path) -> None:
    for name in ("mnist_test.npz", "calibration.csv", "eval.txt"):
        (tmp_path / name).touch()
    (tmp_path / "tests").mkdir()
    assert proposing.rows_in(tmp_path, proposing.EVALUATION) == "mnist_test.npz"
    assert proposing.rows_in(tmp_path, proposing.CALIBRATION) == "calibration.csv"
    (tmp_path / "evaluation" / "cat").mkdir(parents=True)
    (tmp_path / "evaluation" / "cat" / "1.PNG").touch()
    assert proposing.rows_in(tmp_path, proposing.EVALUATION) == "evaluation.zip"
    assert proposing.folders_in(tmp_path, "evaluation.zip") == ("cat",)


@pytest.mark.parametrize(
    ("code", "factory"),
    [
        ("def make_net(): ...", "net.py:make_net"),
        ("def build(size=3): ...\ndef train(): ...", "net.py:build"),
        ("def make_net(size): ...", None),
        ("def make_a(): ...\ndef make_b(): ...", None),
        ("def make_net(: ...", None),
    ],
)
def test_the_one_function_that_makes_a_net_is_proposed(
    tmp_path: Path, code: str, factory: str | None
) -> None:
    (tmp_path / "net.py").write_text(code)
    assert proposing.factory_in(tmp_path) == factory


def test_modules_are_found_however_far_they_are_imported(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("import torch\nfrom blocks import Block\n")
    (tmp_path / "blocks.py").write_text("def f():\n    import layers.deep, net\n")
    (tmp_path / "layers.py").touch()
    (tmp_path / "unused.py").touch()
    named = ("net.py:make_net", None, "rows.npz")
    assert proposing.code_beside(tmp_path, named) == ("blocks.py", "layers.py")


def test_names_of_arrays_and_columns_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", image=np.zeros(3), labels=np.zeros(3))
    (tmp_path / "rows.csv").write_text("\ufeffage,sum\n1,2\n")
    (tmp_path / "torn.npz").write_bytes(b"PK no zip")
    names = [proposing.names_in(tmp_path / name) for name in ("rows.npz", "rows.csv", "torn.npz")]
    assert names == [("image", "labels"), ("age", "sum"), ()]


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((BATCH, 3, 224, 224), "NCHW"),
        ((BATCH, 224, 224, 3), "NHWC"),
        ((BATCH, 64, 7, 7), ""),
        ((BATCH, 3), ""),
    ],
)
def test_few_channels_tell_the_layout(shape: tuple[int | str, ...], layout: str) -> None:
    assert proposing.layout_of(shape) == layout


def test_a_row_of_scores_is_judged_by_its_accuracy() -> None:
    scores = Tensor("scores", FLOAT, (BATCH, 10))
    label = Tensor("label", Datatype.INT64, (BATCH,))
    assert proposing.task_output((label, scores)) is scores
    assert proposing.metric_for(scores) is MetricName.ACCURACY
    assert proposing.metric_for(Tensor("speech", FLOAT, (BATCH, 1))) is None


def test_states_are_possible_where_type_and_shape_are_the_same() -> None:
    x, h = Tensor("x", FLOAT, (BATCH, 9)), Tensor("h", FLOAT, (BATCH, 4))
    y, hn = Tensor("y", FLOAT, (BATCH, 2)), Tensor("hn", FLOAT, (BATCH, 4))
    assert proposing.states_among((x, h), (y, hn)) == (StatePair("hn", "h"),)
    assert not proposing.states_among((h,), (hn,))
