"""Tests of damage to ONNX files: it reaches what it names, in every form that weights have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from tests.controller.builder.judging.nets import (
    CHANNELS,
    CLASSES,
    CONV,
    DEAD,
    HEAD,
    HIDDEN,
    IMAGES,
    SIDE,
    a_branching_net,
    a_net,
    run_onnx,
    write_onnx,
)
from wherry.profile import Runtime
from wherry_controller.builder.data.rows import Array
from wherry_controller.builder.judging.damage import damages_of
from wherry_controller.builder.judging.damage_onnx import layers_of, ranges_of
from wherry_controller.builder.judging.layer import Layer

BLOCK = 16


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Calibration rows as onnxruntime asks for them."""

    def __init__(self) -> None:
        self._rows: Iterator[Array] = iter(IMAGES)

    def get_next(self) -> dict[str, Array] | None:
        row = next(self._rows, None)
        return None if row is None else {"image": row[None]}


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return a_net(tmp_path / "net.onnx")


@pytest.fixture
def int8(net: Path, tmp_path: Path) -> Path:
    file = tmp_path / "int8.onnx"
    quantize_static(
        net, file, Reader(), per_channel=True, activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )  # fmt: skip
    return file


@pytest.fixture
def dynamic(net: Path, tmp_path: Path) -> Path:
    file = tmp_path / "dynamic.onnx"
    quantize_dynamic(net, file, per_channel=True, weight_type=QuantType.QInt8)
    return file


def without(layer: Layer, channels: list[int], folder: Path) -> Array:
    """Return the scores of the net without those channels of a layer."""
    layer.zeroed(np.array(channels), folder / "damaged.onnx")
    return run_onnx(folder / "damaged.onnx")["scores"]


def test_the_layers_stand_in_the_order_of_the_graph(net: Path) -> None:
    layers = layers_of(net)
    assert [layer.name for layer in layers] == ["conv", "dense", "head"]
    assert [len(layer.strengths()) for layer in layers] == [CHANNELS, HIDDEN, CLASSES]


def test_the_strength_of_a_channel_is_the_sum_of_its_weights(net: Path) -> None:
    conv, _, head = layers_of(net)
    assert conv.strengths() == pytest.approx(np.abs(CONV).sum(axis=(1, 2, 3)))
    assert head.strengths() == pytest.approx(np.abs(HEAD).sum(axis=1))


@pytest.mark.parametrize("name", ["net", "int8", "dynamic"])
def test_a_channel_of_the_head_that_is_zeroed_gives_zero(
    request: pytest.FixtureRequest, tmp_path: Path, name: str
) -> None:
    file: Path = request.getfixturevalue(name)
    good = run_onnx(file)["scores"]
    scores = without(layers_of(file)[-1], [2], tmp_path)
    assert np.all(scores[:, 2] == 0)
    assert np.array_equal(np.delete(scores, 2, axis=1), np.delete(good, 2, axis=1))


@pytest.mark.parametrize("name", ["int8", "dynamic"])
def test_quantized_channels_are_as_strong_as_the_float_ones(
    request: pytest.FixtureRequest, net: Path, name: str
) -> None:
    if name == "dynamic":
        # Its scales are multiplied in later, so only channels of one scale can be compared.
        assert all(layer.strengths().any() for layer in layers_of(request.getfixturevalue(name)))
        return
    for left, right in zip(layers_of(net), layers_of(request.getfixturevalue(name)), strict=True):
        assert right.strengths() == pytest.approx(left.strengths(), rel=0.05)


def test_a_dead_channel_changes_nothing(net: Path, tmp_path: Path) -> None:
    conv = layers_of(net)[0]
    assert np.argmax(conv.strengths()) == DEAD
    assert np.array_equal(without(conv, [DEAD], tmp_path), run_onnx(net)["scores"])


def test_weights_are_found_behind_transposes_and_casts(tmp_path: Path) -> None:
    half = np.random.default_rng(1).normal(size=(CLASSES, SIDE * SIDE)).astype(np.float16)
    nodes = [
        helper.make_node("Flatten", ["image"], ["f"]),
        helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["wide"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["f", "turned"], ["scores"], "head"),
    ]
    file = write_onnx(tmp_path / "half.onnx", nodes, {"w": half})
    (layer,) = layers_of(file)
    assert len(layer.strengths()) == CLASSES
    assert np.all(without(layer, [1], tmp_path)[:, 1] == 0)


def test_a_zero_point_is_what_zero_is(tmp_path: Path) -> None:
    weights = np.random.default_rng(1).integers(0, 255, (SIDE * SIDE, CLASSES), np.uint8)
    nodes = [
        helper.make_node("Flatten", ["image"], ["f"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wide"]),
        helper.make_node("MatMul", ["f", "wide"], ["scores"], "head"),
    ]
    constants = {"w": weights, "s": np.float32(0.1), "z": np.uint8(128)}
    file = write_onnx(tmp_path / "u8.onnx", nodes, {k: np.asarray(v) for k, v in constants.items()})
    (layer,) = layers_of(file)
    real = np.abs(weights.astype(np.float64) - 128).sum(axis=0) * 0.1
    assert layer.strengths() == pytest.approx(real)
    # The runtime takes the zero point off after the product, which rounds.
    assert np.abs(without(layer, [0], tmp_path)[:, 0]).max() < 1e-3


def test_packed_weights_of_four_bits_lose_their_scales(tmp_path: Path) -> None:
    blocks = -(-SIDE * SIDE // BLOCK)
    random = np.random.default_rng(1)
    constants = {
        "b": random.integers(0, 255, (CLASSES, blocks, BLOCK // 2), np.uint8),
        "s": random.random(CLASSES * blocks).astype(np.float32),
    }
    nodes = [
        helper.make_node("Flatten", ["image"], ["f"]),
        helper.make_node(
            "MatMulNBits", ["f", "b", "s"], ["scores"], "head", domain="com.microsoft",
            K=SIDE * SIDE, N=CLASSES, bits=4, block_size=BLOCK,
        ),
    ]  # fmt: skip
    file = write_onnx(tmp_path / "int4.onnx", nodes, constants)
    (layer,) = layers_of(file)
    scores = without(layer, [1], tmp_path)
    assert np.all(scores[:, 1] == 0) and np.all(scores[:, 2] != 0)


def linear_classifier() -> NodeProto:
    return helper.make_node(
        "LinearRegressor", ["f"], ["scores"], "linear", domain="ai.onnx.ml", targets=CLASSES,
        coefficients=np.arange(CLASSES * SIDE * SIDE, dtype=np.float32).tolist(),
    )  # fmt: skip


def test_weights_in_attributes_are_damaged_too(tmp_path: Path) -> None:
    nodes = [helper.make_node("Flatten", ["image"], ["f"]), linear_classifier()]
    file = write_onnx(tmp_path / "linear.onnx", nodes, {})
    model = onnx.load(file)
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    onnx.save(model, file)
    (layer,) = layers_of(file)
    assert layer.strengths().argmax() == CLASSES * SIDE * SIDE - 1
    last = list(range(CLASSES * SIDE * SIDE - SIDE * SIDE, CLASSES * SIDE * SIDE))
    assert np.all(without(layer, last, tmp_path)[:, -1] == 0)


def test_layers_in_branches_are_found(tmp_path: Path) -> None:
    file = a_branching_net(tmp_path / "if.onnx")
    assert {layer.name for layer in layers_of(file)} == {"never.layer", "always.layer", "head"}


def test_only_a_calibrated_file_has_ranges(net: Path, int8: Path, dynamic: Path) -> None:
    assert ranges_of(net) is None
    assert ranges_of(dynamic) is None
    assert ranges_of(int8) is not None


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_wrong_ranges_change_the_activations_and_not_the_biases(
    int8: Path, tmp_path: Path, factor: float
) -> None:
    scaled = ranges_of(int8)
    assert scaled is not None
    scaled(factor, tmp_path / "damaged.onnx")
    before, after = (
        {one.name: numpy_helper.to_array(one) for one in onnx.load(file).graph.initializer}
        for file in (int8, tmp_path / "damaged.onnx")
    )
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert "image_scale" in changed
    assert after["image_scale"] == pytest.approx(before["image_scale"] * factor)
    assert not any(name.startswith(("conv.w", "dense.w", "head.w")) for name in changed)
    assert not np.array_equal(
        run_onnx(int8)["scores"], run_onnx(tmp_path / "damaged.onnx")["scores"]
    )


def test_a_side_goes_from_one_channel_to_a_quarter(int8: Path, net: Path) -> None:
    first, last, narrow = damages_of(int8, Runtime.ONNXRUNTIME)
    assert [damage.what for damage in first.layers[1]] == [
        "1 of the 16 channels of 'dense' zeroed",
        "4 of the 16 channels of 'dense' zeroed",
    ]
    assert last.layers[0][0].what == "1 of the 4 channels of 'head' zeroed"
    narrowed = [f"ranges times {factor}" for factor in (0.5, 0.25, 0.0625)]
    assert [damage.what for damage in narrow.layers[0]] == narrowed
    assert len(damages_of(net, Runtime.ONNXRUNTIME)) == 2
