"""Tests of what a model file says of itself (torch's files are described in `sources`)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from sklearn.linear_model import LinearRegression, LogisticRegression

from tests.controller.builder.sources.cards import magika, silero
from wherry.signature import BATCH, Datatype
from wherry_controller.builder.describe import (
    Described,
    Description,
    State,
    batch_first,
    describe,
    guess_states,
)
from wherry_controller.core.card import SourceKind
from wherry_controller.core.fault import BuildReason, BuildRefused

pytestmark = pytest.mark.system


def test_silero_tells_its_tensors_its_states_and_what_is_to_be_fixed() -> None:
    state = Described("state", Datatype.FP32, (BATCH, 2, 128), batch_axis=1)
    assert describe(silero("silero_vad.onnx")) == Description(
        SourceKind.ONNX,
        inputs=(
            Described("input", Datatype.FP32, (BATCH, "axis_1")),
            state,
            Described("sr", Datatype.INT64, ()),
        ),
        outputs=(
            Described("output", Datatype.FP32, (BATCH, 1)),
            Described("stateN", Datatype.FP32, state.shape),
        ),
        states=(State("stateN", "state"),),
    )


def test_magika_tells_its_tensors() -> None:
    described = describe(magika())
    assert described.inputs == (Described("bytes", Datatype.INT32, (BATCH, 2048)),)
    assert described.outputs == (Described("target_label", Datatype.FP32, (BATCH, 214)),)
    assert not described.states


@pytest.mark.parametrize(
    ("key", "written", "labels"),
    [
        ("names", "{1: 'dog', 0: 'cat'}", ("cat", "dog")),
        ("labels", '["cat", "dog"]', ("cat", "dog")),
        ("classes", "cat, dog", ("cat", "dog")),
        ("author", "cat, dog", ()),
    ],
)
def test_labels_and_files_of_weights_are_read_from_an_onnx_file(
    tmp_path: Path, key: str, written: str, labels: tuple[str, ...]
) -> None:
    weights = numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="weights.bin")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "line",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [weights],
    )
    model = helper.make_model(graph)
    model.metadata_props.add(key=key, value=written)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    described = describe(tmp_path / "net.onnx")
    assert described.labels == labels
    assert described.external_data == ("weights.bin",)
    assert described.inputs == (Described("x", Datatype.FP32, (BATCH, 4)),)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (("n", 3, 224, 224), (BATCH, 3, 224, 224)),
        ((2, "n", 128), (BATCH, 2, 128)),
        ((1, 3, "height", "?"), (BATCH, 3, "height", "axis_3")),
        ((8, 3), (BATCH, 3)),
        ((), ()),
        (None, None),
    ],
)
def test_the_batch_of_a_shape_comes_first(
    shape: tuple[int | str, ...] | None, expected: tuple[int | str, ...] | None
) -> None:
    assert batch_first(shape) == expected


@pytest.mark.parametrize(
    ("given", "taken"),
    [("hn", "h"), ("h_out", "h_in"), ("new_cache", "cache"), ("present.0.key", "past.0.key")],
)
def test_a_state_is_told_by_its_name_and_shape(given: str, taken: str) -> None:
    shape = (BATCH, 2, 64)
    inputs = (Described("x", Datatype.FP32, (BATCH, 9)), Described(taken, Datatype.FP32, shape))
    output = Described(given, Datatype.FP32, shape)
    assert guess_states(inputs, (output,)) == (State(given, taken),)
    wider = Described(given, Datatype.FP32, (BATCH, 2, 65))
    assert not guess_states(inputs, (wider, Described("y", Datatype.FP32, (BATCH, 9))))


def test_an_estimator_tells_its_columns_and_classes(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).standard_normal((30, 5))
    classifier = LogisticRegression().fit(rows, np.arange(30) % 3)
    joblib.dump(classifier, tmp_path / "net.joblib")
    assert describe(tmp_path / "net.joblib") == Description(
        SourceKind.SKLEARN,
        inputs=(Described("features", Datatype.FP32, (BATCH, 5)),),
        outputs=(
            Described("probabilities", Datatype.FP32, (BATCH, 3)),
            Described("label", Datatype.INT64, (BATCH,)),
        ),
        labels=("0", "1", "2"),
    )
    joblib.dump(LinearRegression().fit(rows, rows[:, 0]), tmp_path / "net.joblib")
    (value,) = describe(tmp_path / "net.joblib").outputs
    assert value == Described("variable", Datatype.FP32, (BATCH, 1))


def test_safetensors_are_counted_by_their_header(tmp_path: Path) -> None:
    save_file({"w": np.zeros((3, 4)), "b": np.zeros(3)}, tmp_path / "net.safetensors")
    described = describe(tmp_path / "net.safetensors")
    assert described == Description(SourceKind.STATE_DICT, parameters=15)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("net.onnx", b"no graph"),
        ("net.safetensors", b"\xff" * 20),
        ("net.bin", b"no model"),
        ("net.joblib", b"no pickle"),
    ],
)
def test_what_is_no_model_ends_in_one_line_and_status_one(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    done = _asked(tmp_path / name)
    assert done.returncode == 1
    assert done.stdout == b""
    (line,) = done.stderr.splitlines()
    assert name.encode() in line


def test_a_described_file_is_one_line_of_json() -> None:
    done = _asked(magika())
    assert done.returncode == 0
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["kind"] == "onnx"


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BuildRefused) as refusal:
        describe(tmp_path / "net.onnx")
    assert refusal.value.fault.reason is BuildReason.SOURCE_UNREADABLE


def test_code_beside_a_file_reads_no_other_folder(tmp_path: Path) -> None:
    folder, scratch, key = tmp_path / "v1", tmp_path / "scratch", tmp_path / "key"
    for made in (folder, scratch):
        made.mkdir()
    key.write_text("secret")
    (folder / "net.py").write_text(f"raise ValueError(open({str(key)!r}).read())\n")
    save_file({"w": np.zeros(3)}, folder / "net.safetensors")
    words = ("--factory", "net.py:make")
    assert b"secret" in _asked(folder / "net.safetensors", *words).stderr
    confined = _asked(folder / "net.safetensors", *words, "--scratch", str(scratch))
    assert confined.returncode == 1
    assert b"secret" not in confined.stderr and b"Permission denied" in confined.stderr


def _asked(file: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "wherry_controller.builder.describe", str(file), *words]
    return subprocess.run(command, check=False, capture_output=True)
