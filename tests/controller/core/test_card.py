"""Tests of the card: what `model.toml` may say, and what a version is named by."""

from __future__ import annotations

import msgspec
import pytest

from tests.builders import a_digest
from wherry.signature import BadSignature, Datatype
from wherry_controller.core.card import (
    BadCard,
    factory_file,
    factory_function,
    files_of,
    lineage_digest,
    parse_card,
)
from wherry_controller.core.written import BadFile

GOOD = """
model = "digits"
version = "v1"
class_output = "scores"
claimed_accuracy = 0.96
labels = ["0", "1"]

[source]
factory = "net.py:make_net"
state_dict = "weights.pt"

[data]
calibration = "calibration.npz"
evaluation = "evaluation.npz"

[goal]
floor = 0.9
largest_drop = 0.01

[signature]
max_batch = 32

[[signature.inputs]]
name = "image"
datatype = "FP32"
shape = ["batch", 1, 28, 28]
layout = "NCHW"

[[signature.outputs]]
name = "scores"
datatype = "FP32"
shape = ["batch", 2]

[lineage]
code_revision = "4f1c2aa"
licence = "Apache-2.0"
training_data = { train = "sha256:77" }
hyper_parameters = { epochs = 4, rate = 0.003, optimizer = "adam" }
metrics = { loss = 0.1 }
"""
FILES = ("net.py", "weights.pt", "evaluation.npz", "calibration.npz")


def with_line(old: str, new: str) -> bytes:
    assert old in GOOD
    return GOOD.replace(old, new).encode()


def test_a_card_says_source_signature_data_goal_and_lineage() -> None:
    card = parse_card(GOOD.encode())
    assert (factory_file(card), factory_function(card)) == ("net.py", "make_net")
    assert files_of(card) == FILES
    assert card.signature.inputs[0].datatype is Datatype.FP32
    assert card.goal.largest_drop == 0.01
    assert card.lineage.hyper_parameters["epochs"] == 4


def test_calibration_data_and_lineage_may_be_left_out() -> None:
    text = GOOD.partition("[lineage]")[0].replace('calibration = "calibration.npz"\n', "")
    card = parse_card(text.encode())
    assert files_of(card) == FILES[:3]
    assert card.lineage.licence == ""


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        ('model = "digits"', 'modle = "digits"', "modle"),
        ('model = "digits"', 'model = "Digits!"', "regex"),
        ("max_batch = 32", "max_batches = 32", "signature.max_batches"),
        ('layout = "NCHW"', 'lay_out = "NCHW"', "signature.inputs.0.lay_out"),
        ("floor = 0.9", "floor = 90", "goal.floor"),
        ("floor = 0.9", "flor = 0.9", "flor"),
        ('"weights.pt"', '"../weights.pt"', "state_dict"),
        ('"net.py:make_net"', '"net.py"', "factory"),
        ('"net.py:make_net"', '"../net.py:make_net"', "factory"),
        ('datatype = "FP32"', 'datatype = "FP31"', "FP31"),
        ("metrics = { loss = 0.1 }", 'metrics = { loss = "low" }', "metrics"),
        ("[goal]", "[goal", "line"),
    ],
)
def test_a_slip_of_the_pen_is_named(old: str, new: str, hint: str) -> None:
    with pytest.raises(BadFile, match=r"correct the file\.$") as refusal:
        parse_card(with_line(old, new))
    assert hint in str(refusal.value)


def test_parts_must_fit_one_another() -> None:
    with pytest.raises(BadCard, match="there is no output 'answers'"):
        parse_card(with_line('class_output = "scores"', 'class_output = "answers"'))
    with pytest.raises(BadCard, match="has 2 classes and 3 have a label"):
        parse_card(with_line('labels = ["0", "1"]', 'labels = ["0", "1", "2"]'))
    with pytest.raises(BadSignature, match="the first axis"):
        parse_card(with_line('shape = ["batch", 2]', "shape = [2]"))


def test_bytes_that_are_no_text_or_too_many_are_no_card() -> None:
    for data in (b"\xff\xfe", b"#" * 300_000):
        with pytest.raises(BadFile):
            parse_card(data)


def test_the_lineage_digest_is_of_the_card_and_of_the_bytes_of_its_files() -> None:
    card = parse_card(GOOD.encode())
    files = {name: a_digest(name) for name in FILES}
    digest = lineage_digest(card, files)
    assert digest == lineage_digest(card, dict(reversed(files.items())) | {"other": a_digest()})
    assert digest != lineage_digest(card, files | {"weights.pt": a_digest("other weights")})
    other = msgspec.structs.replace(card, claimed_accuracy=0.95)
    assert digest != lineage_digest(other, files)
