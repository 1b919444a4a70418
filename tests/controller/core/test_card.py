"""Tests of the card: what `model.toml` may say, and what a version is named by."""

from __future__ import annotations

import msgspec
import pytest

from tests.builders import a_digest
from wherry.signature import BadSignature, Datatype
from wherry_controller.core.card import (
    BadCard,
    MetricName,
    SourceKind,
    file_of,
    files_of,
    function_of,
    lineage_digest,
    parse_card,
)
from wherry_controller.core.written import BadFile

GOOD = """
model = "digits"
version = "v1"
labels = ["0", "1"]

[source]
kind = "state_dict"
file = "weights.pt"
factory = "net.py:make_net"

[task]
output = "scores"
claimed = 0.96

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
    assert card.source.factory is not None
    assert (file_of(card.source.factory), function_of(card.source.factory)) == (
        "net.py",
        "make_net",
    )
    assert card.source.kind is SourceKind.STATE_DICT
    assert (card.task.metric, card.task.class_output) == (MetricName.ACCURACY, "scores")
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
        ("largest_drop = 0.01", "largest_drop = -1", "goal.largest_drop"),
        ("floor = 0.9", "flor = 0.9", "flor"),
        ('"weights.pt"', '"../weights.pt"', "source.file"),
        ('kind = "state_dict"', 'kind = "pickle"', "pickle"),
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


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('output = "scores"', 'output = "answers"', "there is no output 'answers'"),
        ('labels = ["0", "1"]', 'labels = ["0", "1", "2"]', "has 2 classes and 3 have a label"),
        ('factory = "net.py:make_net"\n', "", "a state_dict needs a factory"),
        ('kind = "state_dict"', 'kind = "onnx"', "no other kind of source has one"),
        ("claimed = 0.96", 'metric = "function"', "a task has a function"),
        ("claimed = 0.96", 'function = "score.py:score"', "a task has a function"),
        ("claimed = 0.96", 'metric = "map"', "needs the outputs boxes and classes"),
        ("[goal]", '[data.columns]\nage = ["age"]\n[goal]', "'age', which is no input"),
        (
            "max_batch = 32",
            'max_batch = 32\nstates = [{ output = "scores", input = "memory" }]',
            "names no such tensors",
        ),
        (
            "max_batch = 32",
            'max_batch = 32\nstates = [{ output = "scores", input = "image" }]',
            "changes type or shape",
        ),
    ],
)
def test_parts_must_fit_one_another(old: str, new: str, problem: str) -> None:
    with pytest.raises(BadCard, match=problem):
        parse_card(with_line(old, new))


def test_the_first_axis_of_every_tensor_is_the_batch() -> None:
    with pytest.raises(BadSignature, match="the first axis"):
        parse_card(with_line('shape = ["batch", 2]', "shape = [2]"))


def test_every_file_that_anything_names_belongs_to_the_version() -> None:
    text = GOOD.replace(
        'factory = "net.py:make_net"', 'factory = "net.py:make_net"\ncode = ["blocks.py"]'
    )
    text = text.replace("claimed = 0.96", 'metric = "function"\nfunction = "score.py:score"')
    text = text.replace('"evaluation.npz"', '"rows.py:evaluation"\nsearch = "rows.py:search"')
    card = parse_card((text + '[assets]\nvocabulary = "vocabulary.txt"\n').encode())
    assert files_of(card) == (
        "net.py",
        "weights.pt",
        "blocks.py",
        "rows.py",
        "calibration.npz",
        "score.py",
        "vocabulary.txt",
    )


@pytest.mark.parametrize(
    ("task", "grows"),
    [
        ('metric = "accuracy"', True),
        ('metric = "mae"', False),
        ('metric = "function"\nfunction = "score.py:score"', True),
        ('metric = "function"\nfunction = "score.py:score"\nhigher_is_better = false', False),
    ],
)
def test_a_metric_says_which_way_is_better(task: str, grows: bool) -> None:
    assert parse_card(with_line("claimed = 0.96", task)).task.grows is grows


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
    other = msgspec.structs.replace(card, labels=())
    assert digest != lineage_digest(other, files)
