"""Tests of damage to LiteRT files, on a small residual net that was quantized just now."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from wherry.profile import Precision, Runtime
from wherry_controller.builder.data.rows import Array
from wherry_controller.builder.judging.damage import damages_of
from wherry_controller.builder.judging.damage_lite import layers_of, ranges_of
from wherry_controller.builder.passes import litert
from wherry_controller.core.recipe import Recipe

MODEL = Path(__file__).parents[3] / "vectors/models/residual.tflite"
CLASSES = 10
TAKEN = "args_0"
RANDOM = np.random.default_rng(4)


def run_lite(file: Path) -> Array:
    """Return the model's integers or scores for five fixed inputs."""
    loaded = Interpreter(model_path=str(file), num_threads=1)
    loaded.allocate_tensors()
    (taken,), (given,) = loaded.get_input_details(), loaded.get_output_details()
    random = np.random.default_rng(2)
    outputs = []
    for _ in range(5):
        row = random.random(tuple(taken["shape"]))
        row = row * 200 - 100 if taken["dtype"] == np.int8 else row
        loaded.set_tensor(taken["index"], row.astype(taken["dtype"]))
        loaded.invoke()
        outputs.append(loaded.get_tensor(given["index"])[0])
    return np.stack(outputs)


def made(precision: Precision, folder: Path) -> Path:
    """Return the net quantized as the builder does it."""
    quantized = Recipe(runtime=Runtime.LITERT, precision=precision)
    ranges = None
    if quantized.is_calibrated:
        rows = ({TAKEN: RANDOM.random((1, 1, 8, 8)).astype(np.float32)} for _ in range(8))
        ranges = litert.calibrate(MODEL, quantized, rows, folder / "ranges.json")
    litert.make(MODEL, quantized, ranges, folder / "model.tflite")
    return folder / "model.tflite"


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(Precision.INT8, tmp_path_factory.mktemp("int8"))


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(Precision.INT8_DYNAMIC, tmp_path_factory.mktemp("dynamic"))


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(Precision.FP16, tmp_path_factory.mktemp("half"))


@pytest.mark.parametrize("name", ["float", "int8", "dynamic", "half"])
def test_damage_reaches_its_layer_and_its_channel(
    request: pytest.FixtureRequest, tmp_path: Path, name: str
) -> None:
    file: Path = MODEL if name == "float" else request.getfixturevalue(name)
    layers = layers_of(file)
    assert [len(layer.strengths()) for layer in layers] == [8, 8, 8, 8, 8, CLASSES]
    good = run_lite(file)
    layers[-1].zeroed(np.array([3]), tmp_path / "damaged.tflite")
    hurt = run_lite(tmp_path / "damaged.tflite")
    # What is left of the channel is its bias.
    assert len(set(hurt[:, 3].tolist())) == 1
    assert np.array_equal(np.delete(hurt, 3, axis=1), np.delete(good, 3, axis=1))
    assert file.read_bytes() != (tmp_path / "damaged.tflite").read_bytes()


def test_quantized_channels_are_as_strong_as_the_float_ones(int8: Path) -> None:
    for left, right in zip(layers_of(MODEL), layers_of(int8), strict=True):
        assert right.strengths() == pytest.approx(left.strengths(), rel=0.05)


def test_only_a_calibrated_file_has_ranges(int8: Path, dynamic: Path) -> None:
    assert ranges_of(MODEL) is None
    assert ranges_of(dynamic) is None
    assert ranges_of(int8) is not None


@pytest.mark.parametrize("factor", [0.5, 0.25])
def test_the_runtime_takes_a_file_with_narrow_ranges_and_answers_otherwise(
    int8: Path, tmp_path: Path, factor: float
) -> None:
    scaled = ranges_of(int8)
    assert scaled is not None
    scaled(factor, tmp_path / "damaged.tflite")
    off = run_lite(tmp_path / "damaged.tflite").astype(int) - run_lite(int8).astype(int)
    assert np.abs(off).max() > 1


def biases_of(file: Path) -> list[Array]:
    """Return the real values of the integer biases."""
    loaded = Interpreter(model_path=str(file))
    found = []
    for entry in loaded.get_tensor_details():
        scales = entry["quantization_parameters"]["scales"]
        if entry["dtype"] == np.int32 and len(scales):
            found.append(loaded.get_tensor(entry["index"]) * scales)
    return found


def test_biases_keep_their_values_when_ranges_are_narrowed(int8: Path, tmp_path: Path) -> None:
    scaled = ranges_of(int8)
    assert scaled is not None
    scaled(0.5, tmp_path / "damaged.tflite")
    before, after = biases_of(int8), biases_of(tmp_path / "damaged.tflite")
    assert len(before) == len(after) == 6
    assert all(np.allclose(*pair, atol=1e-2) for pair in zip(before, after, strict=True))


def test_a_lite_file_has_the_sides_of_an_onnx_file(int8: Path) -> None:
    assert [side.name for side in damages_of(int8, Runtime.LITERT)] == [
        "the first layers",
        "the last layers",
        "ranges that are too narrow",
    ]
