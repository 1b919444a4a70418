"""Tests of `wherry model add` beside files that have no card yet."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import save_file
from typer.testing import CliRunner

from tests.controller.builder.sources.cards import silero
from tests.controller.cli.conftest import Wherry
from tests.controller.scripted import write_version
from wherry.signature import BATCH, Datatype, StatePair, Tensor
from wherry_controller.cli import make_app
from wherry_controller.cli.drafting.describing import ask_file
from wherry_controller.cli.outcome import Ended, Exit
from wherry_controller.core.card import Card, MetricName, SourceKind, parse_card

NET = """
import torch
from blocks import Block


def make_net():
    return Block()
"""
BLOCKS = """
import torch


class Block(torch.nn.Module):
    def forward(self, image):
        return image.flatten(1)
"""


@dataclass(frozen=True)
class Asked:
    """How a dialogue ended: exit status, what was printed, what was asked and said."""

    status: int
    out: str
    said: str
    ended: Ended | None


def dialogue(*words: str | Path, answers: str) -> Asked:
    """Answer `wherry model add` line by line, as a person would."""
    arguments = ["model", "add", *map(str, words), "--ask"]
    done = CliRunner().invoke(make_app(arguments), arguments, input=answers)
    ended = done.exception if isinstance(done.exception, Ended) else None
    assert ended or not done.exception or isinstance(done.exception, SystemExit), done.exception
    return Asked(done.exit_code, done.stdout, done.stderr, ended)


def card_in(folder: Path) -> Card:
    return parse_card((folder / "model.toml").read_bytes())


@pytest.fixture
def line(tmp_path: Path) -> Path:
    """A folder with an ONNX file of two classes, its labels and its rows."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "w"], ["scores"])],
        "line",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor("w", TensorProto.FLOAT, [4, 2], np.ones(8))],
    )
    folder = tmp_path / "Line Net"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    (folder / "labels.txt").write_text("no\nyes\n")
    np.savez(folder / "evaluation.npz", features=np.zeros((3, 4)), target=np.zeros(3))
    np.savez(folder / "calibration.npz", features=np.zeros((3, 4)))
    return folder


@pytest.mark.system
def test_a_person_is_asked_only_what_no_file_tells(online: Wherry, line: Path) -> None:
    # model, version, metric, claimed, evaluation, calibration, label, labels, floor, drop, licence
    asked = dialogue(line, answers="Line!\n\n2026.1\n\n0.9\n\n\n\n\n0.8\nmuch\n0.02\nMIT\n")
    assert asked.status == 0, asked.said
    card = card_in(line)
    assert (card.model, card.version) == ("line-net", "2026.1")
    assert card.signature.inputs == (Tensor("features", Datatype.FP32, (BATCH, 4)),)
    assert (card.task.metric, card.task.claimed) == (MetricName.ACCURACY, 0.9)
    assert (card.data.evaluation, card.data.calibration) == ("evaluation.npz", "calibration.npz")
    assert (card.data.label, card.labels) == ("target", ("no", "yes"))
    assert (card.goal.floor, card.goal.largest_drop, card.lineage.licence) == (0.8, 0.02, "MIT")
    assert "'Line!' is no model name" in asked.said and "'much' is no number" in asked.said
    assert "--" not in asked.said and "Input" not in asked.said
    assert 'kind = "onnx"' in asked.out and "line-net:2026.1 is registered" in asked.out
    again = online("model", "add", line)
    assert again.status == 0, again.err


@pytest.mark.system
def test_a_script_is_told_every_flag_that_it_lacks(online: Wherry, tmp_path: Path) -> None:
    shutil.copy(silero("silero_vad.onnx"), tmp_path)
    ended = online("model", "add", tmp_path, "--no-input")
    assert ended.status == Exit.USAGE
    (said,) = [text for text in ended.err.splitlines() if text.startswith("wherry: ")]
    assert all(flag in said for flag in ("--constant sr=VALUE", "--metric", "--evaluation"))
    assert not (tmp_path / "model.toml").exists()


@pytest.mark.system
def test_flags_alone_make_the_card_of_a_stateful_net(online: Wherry, tmp_path: Path) -> None:
    shutil.copy(silero("silero_vad.onnx"), tmp_path)
    (tmp_path / "speech.npz").touch()
    flags = ("--no-input", "--constant", "sr=16000", "--metric", "auc")
    given = (
        "--evaluation",
        "speech.npz",
        "--input",
        "input:FP32:batch,576",
        "--licence",
        "MIT",
        "--max-batch",
        "1",
    )
    done = online("model", "add", tmp_path / "silero_vad.onnx", *flags, *given, "--json")
    assert done.status == 0, done.err
    assert (done.json["model"], done.json["name"]) == ("silero-vad", "v1")
    card = card_in(tmp_path)
    shapes = {tensor.name: tensor.shape for tensor in card.signature.inputs}
    assert shapes == {"input": (BATCH, 576), "state": (BATCH, 2, 128)}
    assert card.signature.states == (StatePair("stateN", "state"),)
    assert card.signature.max_batch == 1 and card.source.constants == {"sr": 16000}
    assert "'state' is ['batch', 2, 128] in the signature, which has the batch first" in done.err


@pytest.mark.system
def test_a_factory_tells_the_names_of_its_nets_inputs(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "blocks.py").write_text(BLOCKS)
    save_file({"w": np.zeros((2, 2))}, tmp_path / "weights.safetensors")
    (tmp_path / "test").mkdir()
    for label in ("cat", "dog"):
        (tmp_path / "test" / label).mkdir()
        (tmp_path / "test" / label / "1.png").touch()
    # Down to the factory by default; input, output, no more; down to the pixels' mean by default.
    answers = "\n\n\nFP32:1,1,1,2:NCHW\nlogits:FP32:batch,2\nnone\n\n\n\n\n\n0.5\n0.25\n\n\n\n\n"
    asked = dialogue(tmp_path, "--dry-run", answers=answers)
    assert asked.status == 0, asked.said
    card = parse_card(asked.out[asked.out.index("model =") :].encode())
    assert (card.source.factory, card.source.code) == ("net.py:make_net", ("blocks.py",))
    assert card.source.kind is SourceKind.STATE_DICT
    assert card.signature.inputs == (Tensor("image", Datatype.FP32, (BATCH, 1, 1, 2), "NCHW"),)
    assert (card.data.evaluation, card.labels) == ("test.zip", ("cat", "dog"))
    assert (card.data.images.mean, card.data.images.deviation) == ((0.5,), (0.25,))
    assert not (tmp_path / "model.toml").exists()


def test_a_card_that_is_there_is_never_replaced(online: Wherry, tmp_path: Path) -> None:
    folder = write_version(tmp_path / "v1")
    (folder / "net.onnx").touch()
    before = (folder / "model.toml").read_bytes()
    beside = online("model", "add", folder / "net.onnx", "--no-input")
    flagged = online("model", "add", folder, "--input", "x:FP32:batch")
    for ended, word in ((beside, "beside net.onnx already"), (flagged, "--input is given too")):
        assert ended.status == Exit.USAGE
        assert word in ended.err and len(ended.err.splitlines()) == 1
    assert (folder / "model.toml").read_bytes() == before
    printed = online("model", "add", folder, "--dry-run")
    assert printed.out.encode().strip() == before.strip()
    assert online("model", "list", "--json").items == []


def test_a_folder_of_no_model_or_of_several_is_refused(online: Wherry, tmp_path: Path) -> None:
    ended = online("model", "add", tmp_path, "--no-input")
    assert (ended.status, "give the model file" in ended.err) == (Exit.USAGE, True)
    for name in ("a.onnx", "b.pt2"):
        (tmp_path / name).touch()
    ended = online("model", "add", tmp_path, "--no-input")
    assert (ended.status, "(a.onnx, b.pt2)" in ended.err) == (Exit.USAGE, True)
    ended = online("model", "add", tmp_path / "other", "--no-input")
    assert (ended.status, "is not there" in ended.err) == (Exit.USAGE, True)


@pytest.mark.system
def test_a_file_that_is_no_model_ends_in_the_builders_sentence(
    online: Wherry, tmp_path: Path
) -> None:
    (tmp_path / "net.onnx").write_bytes(b"no graph")
    ended = online("model", "add", tmp_path, "--no-input")
    assert ended.status == Exit.USAGE
    assert "net.onnx" in ended.err and len(ended.err.splitlines()) == 1


def test_without_a_builder_one_sentence_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(Ended, match="install wherry-controller with its extra `builder`") as ended:
        ask_file(tmp_path / "net.onnx", command=(sys.executable, "-c", "import no_such_module"))
    assert ended.value.code is Exit.UNAVAILABLE
    assert "no_such_module" in str(ended.value) and "\n" not in str(ended.value)


@pytest.mark.system
def test_what_does_not_fit_is_said_in_the_files_own_names(online: Wherry, line: Path) -> None:
    flags = ("--no-input", "--dry-run", "--label", "target")
    ended = online("model", "add", line, *flags, "--input", "image:FP32:batch,4")
    assert ended.status == Exit.USAGE
    assert "no input 'image' but features" in ended.err and "--name" in ended.err
    named = ("--name", "image=features", "--input", "image:FP32:batch,4")
    done = online("model", "add", line, *flags, *named)
    assert parse_card(done.out.encode()).source.names == {"image": "features"}
    ended = online("model", "add", line, *flags, "--labels", "no,yes,perhaps")
    assert (ended.status, "2 classes and 3" in ended.err) == (Exit.USAGE, True)
