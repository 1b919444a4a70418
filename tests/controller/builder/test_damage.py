"""Tests of damage to real model files: golden outputs must show it, and only it is changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.controller.builder.versions import SIGNATURE, Build
from wherry.manifest import MODEL_FILE, GoldenTensor, Manifest
from wherry_controller.builder import lite_file, onnx_file
from wherry_controller.builder.agreement import Golden
from wherry_controller.builder.damage import damage, refuse_blind
from wherry_controller.builder.data import NUMPY, Tensors
from wherry_controller.builder.variant import Variant
from wherry_controller.core.recipe import BuildReason, BuildRefused

pytestmark = pytest.mark.system

NAMES = ("x86-onnx-fp32", "x86-onnx-int8", "x86-litert-int8")
FILES = {"x86-onnx-fp32": onnx_file, "x86-onnx-int8": onnx_file, "x86-litert-int8": lite_file}


def the_variant(build: Build, manifest: Manifest, folder: Path) -> Variant:
    file = folder / "model"
    file.write_bytes(build.blob(manifest.files[MODEL_FILE].digest))
    return Variant(file, SIGNATURE, manifest.inputs, manifest.outputs, manifest.static_batch)


def the_tensors(build: Build, tensors: tuple[GoldenTensor, ...]) -> Tensors:
    return {
        tensor.name: np.frombuffer(build.blob(tensor.blob.digest), NUMPY[tensor.datatype]).reshape(
            tensor.shape
        )
        for tensor in tensors
    }


def the_golden(build: Build, manifest: Manifest, tolerance: float) -> Golden:
    golden = manifest.golden
    inputs, outputs = the_tensors(build, golden.inputs), the_tensors(build, golden.outputs)
    return Golden(inputs, outputs, tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_packed_golden_outputs_pass_the_variant_and_fail_damaged_ones(
    build: Build, tmp_path: Path, name: str
) -> None:
    manifest = build.manifest(name)
    variant = the_variant(build, manifest, tmp_path)
    golden = the_golden(build, manifest, manifest.golden.tolerance)
    refuse_blind(golden, variant, manifest.profile)


@pytest.mark.parametrize("name", NAMES)
def test_a_tolerance_that_lets_damage_through_is_refused(
    build: Build, tmp_path: Path, name: str
) -> None:
    manifest = build.manifest(name)
    variant = the_variant(build, manifest, tmp_path)
    with pytest.raises(BuildRefused, match="do not show damage") as refusal:
        refuse_blind(the_golden(build, manifest, 1e9), variant, manifest.profile)
    assert refusal.value.fault.reason is BuildReason.GOLDEN_BLIND


@pytest.mark.parametrize("name", NAMES)
def test_damage_reaches_its_layer_and_no_other(build: Build, tmp_path: Path, name: str) -> None:
    manifest, files = build.manifest(name), FILES[name]
    file = the_variant(build, manifest, tmp_path).file
    layers = files.weights(file)
    assert [layer.values.size for layer in layers] == [72, 1152, 301056, 3840]
    for hurt in layers:
        damaged = files.with_weights(file, hurt.name, damage(hurt), tmp_path / "damaged")
        for before, after in zip(layers, files.weights(damaged), strict=True):
            same = np.array_equal(before.values, after.values)
            assert same is (before.name != hurt.name)
