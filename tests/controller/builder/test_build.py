"""Tests of the builder's process with a real net, real digits and the real runtimes."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import onnx
import pytest

from tests.controller.builder.versions import (
    SIGNATURE,
    Build,
    a_card,
    a_profile_named,
    run_build,
)
from wherry.manifest import MODEL_FILE, blobs_of
from wherry.profile import Precision
from wherry.signature import Datatype
from wherry_controller.builder import onnx_file
from wherry_controller.core.recipe import Progress

pytestmark = pytest.mark.system

FP32, INT8, LITE = "x86-onnx-fp32", "x86-onnx-int8", "x86-litert-int8"


def test_every_profile_gets_its_variant(build: Build) -> None:
    assert build.refused == []
    assert set(build.built) == {FP32, INT8, LITE}


def test_stdout_has_messages_only_and_progress_only_grows(build: Build) -> None:
    steps = [message for message in build.messages if isinstance(message, Progress)]
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert all(step.done < step.total for step in steps)


def test_quantized_variants_are_smaller_and_nearly_as_good(build: Build) -> None:
    reports = {name: build.manifest(name).report for name in build.built}
    for name in (INT8, LITE):
        assert reports[name].size_bytes * 3 < reports[FP32].size_bytes
        assert reports[name].accuracy > reports[FP32].accuracy - 0.02
    assert reports[FP32].accuracy == reports[FP32].reference_accuracy
    assert all(report.samples == 1000 for report in reports.values())


def test_a_variant_s_latency_says_what_it_was_measured_on(build: Build) -> None:
    latencies = {name: built.latency for name, built in build.built.items()}
    assert all(0 < latency.p50_ms <= latency.p99_ms for latency in latencies.values())
    assert "onnxruntime 1." in latencies[INT8].measured_on
    assert "litert 2." in latencies[LITE].measured_on
    assert "1 thread" in latencies[LITE].measured_on


def test_a_report_says_on_which_runtime_the_accuracy_was_seen(build: Build) -> None:
    assert build.manifest(INT8).report.evaluated_on.startswith("onnxruntime 1.")
    assert build.manifest(LITE).report.evaluated_on.startswith("litert 2.")


def test_a_bundle_is_named_by_its_manifest_and_has_every_blob(build: Build) -> None:
    for name, built in build.built.items():
        assert hashlib.sha256(build.document(name)).hexdigest() == built.bundle
        for blob in blobs_of(build.manifest(name)):
            assert hashlib.sha256(build.blob(blob.digest)).hexdigest() == blob.digest


def test_all_variants_share_signature_lineage_and_golden_inputs(build: Build) -> None:
    manifests = [build.manifest(name) for name in build.built]
    assert {manifest.lineage for manifest in manifests} == {manifests[0].lineage}
    assert all(manifest.signature == SIGNATURE for manifest in manifests)
    assert all(manifest.golden.inputs == manifests[0].golden.inputs for manifest in manifests)
    assert manifests[0].golden.inputs[0].shape == (10, 1, 28, 28)


def test_onnx_takes_any_batch_by_the_signatures_names(build: Build) -> None:
    manifest = build.manifest(INT8)
    assert manifest.static_batch is None
    assert manifest.precision is Precision.INT8
    assert "reduced_range" in manifest.recipe
    assert [binding.runtime_name for binding in manifest.inputs] == ["image"]
    assert [binding.datatype for binding in manifest.outputs] == [Datatype.FP32]


def test_onnx_files_import_what_they_use_and_name_the_batch(build: Build) -> None:
    for name in (FP32, INT8):
        model = onnx.load_from_string(build.blob(build.manifest(name).files[MODEL_FILE].digest))
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
        assert model.ir_version == 10
        for tensor in (*model.graph.input, *model.graph.output):
            assert tensor.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_a_reduced_range_leaves_weights_seven_bits(build: Build, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(build.blob(build.manifest(INT8).files[MODEL_FILE].digest))
    values = [layer.values.astype(int) for layer in onnx_file.weights(file)]
    assert len(values) == 4
    assert all(32 < abs(array).max() <= 64 for array in values)


def test_litert_takes_one_row_of_integers_with_a_scale(build: Build) -> None:
    manifest = build.manifest(LITE)
    assert manifest.static_batch == 1
    for binding in (*manifest.inputs, *manifest.outputs):
        assert binding.datatype is Datatype.INT8
        assert binding.scale


def test_blobs_hold_no_path_of_the_machine_that_built_them(build: Build, version: Path) -> None:
    for name in build.built:
        model = build.blob(build.manifest(name).files[MODEL_FILE].digest)
        assert b"site-packages" not in model
        assert str(version).encode() not in model


def test_the_same_version_built_in_another_place_gives_the_same_bundles(
    build: Build, version: Path, tmp_path: Path
) -> None:
    elsewhere = shutil.copytree(version, tmp_path / "elsewhere")
    profiles = [a_profile_named(name) for name in (LITE, INT8, FP32)]
    again = run_build(a_card(), elsewhere, tmp_path / "again", profiles)
    for profile in profiles:
        assert blobs_of(again.manifest(profile.name)) == blobs_of(build.manifest(profile.name))
        assert again.built[profile.name].bundle == build.built[profile.name].bundle


def test_a_build_leaves_the_versions_folder_as_it_was(build: Build, version: Path) -> None:
    assert build.built
    assert not (version / "__pycache__").exists()
