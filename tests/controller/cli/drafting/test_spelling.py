"""Tests of what flags and answers spell."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.signature import BATCH, Datatype, StatePair, Tensor
from wherry_controller.cli.drafting import spelling
from wherry_controller.cli.outcome import Ended, Exit


@pytest.mark.parametrize(
    ("text", "tensor", "is_moved"),
    [
        ("image:FP32:batch,1,28,28:NCHW", ("image", "FP32", (BATCH, 1, 28, 28), "NCHW"), False),
        ("a:0:INT64:[batch, tokens]", ("a:0", "INT64", (BATCH, "tokens"), ""), False),
        ("h:FP32:2,batch,128", ("h", "FP32", (BATCH, 2, 128), ""), True),
        ("h:FP32:2,?,128", ("h", "FP32", (BATCH, 2, 128), ""), True),
        ("x:FP32:1,3,-1,*", ("x", "FP32", (BATCH, 3, "axis_2", "axis_3"), ""), True),
        ("x:UINT8:?,3", ("x", "UINT8", (BATCH, 3), ""), True),
    ],
)
def test_a_tensor_has_its_batch_first(
    text: str, tensor: tuple[str, str, tuple[int | str, ...], str], is_moved: bool
) -> None:
    name, kind, shape, layout = tensor
    spelled = spelling.spelled_tensor(text)
    assert spelled.tensor == Tensor(name, Datatype(kind), shape, layout)
    assert bool(spelled.note) is is_moved


@pytest.mark.parametrize(
    "text",
    [
        "image",
        "image:FP31:batch",
        ":FP32:batch",
        "x:FP32:3,4",
        "x:FP32:batch,a b",
        "x:FP32:batch,batch",
    ],
)
def test_what_spells_no_tensor_ends_with_how_to_write_one(text: str) -> None:
    with pytest.raises(Ended, match=r"is no .+: .+\.") as ended:
        spelling.spelled_tensor(text)
    assert ended.value.code is Exit.USAGE


@given(
    st.sampled_from(Datatype),
    st.lists(st.integers(1, 99) | st.sampled_from(["steps", "width"]), max_size=4),
)
def test_a_written_tensor_is_read_back(kind: Datatype, axes: list[int | str]) -> None:
    tensor = Tensor("x:0", kind, (BATCH, *axes), "N" * (len(axes) + 1))
    assert spelling.spelled_tensor(spelling.written_tensor(tensor), name="x:0").tensor == tensor


def test_a_state_is_parted_where_both_names_are_known() -> None:
    (pair,) = spelling.spelled_states(["h:1:h:0"], ["x", "h:0"], ["y", "h:1"])
    assert pair == StatePair("h:1", "h:0")
    with pytest.raises(Ended, match="outputs are y; inputs x"):
        spelling.spelled_states(["h:1"], ["x"], ["y"])


@pytest.mark.parametrize(
    ("text", "value"), [("16000", 16000), ("0.5", 0.5), ("[1, 2.5]", [1, 2.5]), ("-1e3", -1000.0)]
)
def test_a_constant_is_a_number_or_several(text: str, value: object) -> None:
    assert spelling.constant(text) == value


@pytest.mark.parametrize("text", ["yes", '"1"', "", "true", "{}", "NaN", "1e999"])
def test_what_is_no_number_fixes_nothing(text: str) -> None:
    with pytest.raises(Ended, match="is no number"):
        spelling.constant(text)


def test_pairs_name_each_once() -> None:
    assert spelling.pairs(["a=b=1"], "NAME=VALUE", spelling.whole) == {"a=b": 1}
    for texts in (["a"], ["=1"], ["a=1", "a=2"]):
        with pytest.raises(Ended, match="NAME=VALUE"):
            spelling.pairs(texts, "NAME=VALUE", spelling.whole)


def test_numbers_of_channels_may_be_fractions() -> None:
    assert spelling.numbers("0.5, 1/4") == (0.5, 0.25)
    assert spelling.numbers("none") == ()
    with pytest.raises(Ended):
        spelling.fraction("1/0")


def test_labels_stand_in_the_answer_or_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\n\nsea lion, brown\n")
    assert spelling.spelled_labels(tmp_path, "labels.txt") == ("cat", "sea lion, brown")
    assert spelling.spelled_labels(tmp_path, "cat, dog") == ("cat", "dog")
    assert spelling.spelled_labels(tmp_path, "none") == ()


def test_rows_are_a_file_a_function_or_a_folder_beside_the_model(tmp_path: Path) -> None:
    for name in ("rows.npz", "data.py"):
        (tmp_path / name).touch()
    (tmp_path / "images").mkdir()
    assert spelling.data_beside(tmp_path, str(tmp_path / "rows.npz")) == "rows.npz"
    assert spelling.data_beside(tmp_path, "data.py:rows") == "data.py:rows"
    assert spelling.data_beside(tmp_path, "images/") == "images.zip"
    assert spelling.data_beside(tmp_path, "images.zip") == "images.zip"


@pytest.mark.parametrize(
    "text", ["other.npz", "../rows.npz", "a b.npz", "other.py:rows", "/etc/hosts"]
)
def test_rows_elsewhere_or_of_no_name_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(Ended, match=r"beside the model") as ended:
        spelling.data_beside(tmp_path, text)
    assert ended.value.code is Exit.USAGE
