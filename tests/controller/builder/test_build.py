"""Tests of the builder's process with a real net, real digits and the real runtimes."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import onnx
import pytest
from msgspec.structs import replace

from tests.controller.builder.passes import onnx_weights
from tests.controller.builder.versions import (
    SIGNATURE,
    Build,
    a_card,
    a_profile_named,
    run_build,
)
from wherry import codec
from wherry.manifest import MODEL_FILE, REFERENCE_FILE, blobs_of
from wherry.names import parse_profile_name
from wherry.profile import Precision, Runtime
from wherry.reference import Reference
from wherry.signature import Datatype
from wherry_controller.core.build import Kept, Progress
from wherry_controller.core.fault import BuildReason

pytestmark = pytest.mark.system

FP32, INT8, LITE = "x86-onnx-fp32", "x86-onnx-int8", "x86-litert-int8"


def test_every_profile_gets_its_variant(build: Build) -> None:
    assert build.refused == []
    assert set(build.built) == {FP32, INT8, LITE}


def test_stdout_has_messages_only_and_progress_only_grows(build: Build) -> None:
    steps = [message for message in build.messages if isinstance(message, Progress)]
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert all(step.done < step.total for step in steps)
    assert {step.profile for step in steps} == {None, FP32, INT8, LITE}


def test_quantized_variants_are_smaller_and_nearly_as_good(build: Build) -> None:
    reports = {name: build.manifest(name).report for name in build.built}
    for name in (INT8, LITE):
        assert reports[name].size_bytes * 3 < reports[FP32].size_bytes
        drop = reports[FP32].value - reports[name].value
        assert reports[name].drop_low <= drop + 1e-9 <= reports[name].drop_high + 1e-9 <= 0.03
    assert reports[FP32].value == reports[FP32].reference_value
    assert reports[FP32].agreement == 1.0


def test_a_quarter_of_the_evaluation_is_left_to_the_search(build: Build) -> None:
    samples = {build.manifest(name).report.samples for name in build.built}
    (final,) = samples
    assert 700 <= final <= 800
    searched = build.chosen(INT8).searched
    assert searched is not None
    assert searched.samples == 1000 - final


def test_a_variant_s_latency_says_what_it_was_measured_on(build: Build) -> None:
    for name, runtime in ((INT8, "onnxruntime 1."), (LITE, "litert 2.")):
        latency = build.chosen(name).latency
        assert latency is not None
        assert 0 < latency.p50_ms <= latency.p99_ms
        assert latency.speed_ratio >= 1
        assert runtime in latency.measured_on
        assert "1 thread" in latency.measured_on


def test_a_report_says_what_was_tried_and_why_one_was_chosen(build: Build) -> None:
    report = build.built[INT8].report
    assert [one.recipe.precision for one in report.candidates] == [Precision.FP32, Precision.INT8]
    assert report.candidates[0].fault is BuildReason.NO_RECIPE
    assert "times smaller" in report.why
    chosen = build.chosen(INT8)
    assert chosen.on_pareto
    assert chosen.float_layers == ()
    assert chosen.load_ms
    assert chosen.memory_bytes


def test_a_report_says_on_which_runtime_the_metric_was_seen(build: Build) -> None:
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


def test_a_bundle_carries_what_its_rows_looked_like(build: Build) -> None:
    reference = build.manifest(INT8).files[REFERENCE_FILE]
    found = codec.decode(Reference, build.blob(reference.digest))
    assert [one.name for one in (*found.inputs, *found.outputs)] == ["image", "scores"]


def test_the_weights_stay_with_the_version(build: Build) -> None:
    (kept,) = (message for message in build.messages if isinstance(message, Kept))
    data = build.blob(kept.weights.digest)
    assert b'"5.weight"' in data[:2000]  # The header of safetensors is JSON.


def test_onnx_takes_any_batch_by_the_signatures_names(build: Build) -> None:
    manifest = build.manifest(INT8)
    assert manifest.static_batch is None
    assert manifest.precision is Precision.INT8
    assert "int8-s8s8-reduced_range" in manifest.recipe
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
    values = [layer.values.astype(int) for layer in onnx_weights.weights(file)]
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


def test_an_unchanged_version_is_looked_up_and_not_made_again(
    build: Build, version: Path, tmp_path: Path
) -> None:
    profiles = [a_profile_named(name) for name in (FP32, INT8, LITE)]
    again = run_build(a_card(), version, tmp_path / "again", profiles, cache=build.cache)
    assert again.built == build.built
    assert not [message for message in again.messages if isinstance(message, Progress)]
    for name in again.built:
        assert again.document(name) == build.document(name)
        assert all(
            (again.output / "blobs" / one.digest).is_file()
            for one in blobs_of(build.manifest(name))
        )


def test_another_profile_needs_no_second_look_at_what_is_known(
    build: Build, version: Path, tmp_path: Path
) -> None:
    profile = replace(
        a_profile_named(INT8), name=parse_profile_name("x86-onnx-any"), precisions=tuple(Precision)
    )
    more = run_build(a_card(), version, tmp_path / "more", [profile], cache=build.cache)
    report = more.built["x86-onnx-any"].report
    tried = {one.recipe.precision: one for one in report.candidates}
    assert {Precision.FP32, Precision.FP16, Precision.INT8} <= tried.keys()
    assert tried[Precision.INT8].digest == build.chosen(INT8).digest
    assert tried[Precision.INT8].searched == build.chosen(INT8).searched


def test_a_build_leaves_the_versions_folder_as_it_was(build: Build, version: Path) -> None:
    assert build.built
    assert not (version / "__pycache__").exists()


@pytest.mark.parametrize("runtime", [Runtime.ONNXRUNTIME, Runtime.LITERT])
def test_operators_that_eight_bits_ruin_are_returned_to_float(
    version: Path, tmp_path: Path, runtime: Runtime
) -> None:
    name = INT8 if runtime is Runtime.ONNXRUNTIME else LITE
    profile = replace(a_profile_named(name), precisions=(Precision.INT8,))
    card = a_card(factory="net.py:make_uneven_net", state_dict="uneven.pt", largest_drop=0.01)
    build = run_build(card, version, tmp_path / "output", [profile])
    report = build.built[name].report
    plain = next(one for one in report.candidates if one.recipe.precision is Precision.INT8)
    assert plain.fault is BuildReason.BELOW_FLOOR
    chosen = build.chosen(name)
    assert chosen.recipe.kept_float
    assert chosen.judged is not None
    assert chosen.judged.drop <= 0.01
    ranked = [one.operator for one in report.sensitivities]
    assert list(chosen.recipe.kept_float) == ranked[: len(chosen.recipe.kept_float)]
    errors = [one.output_error for one in report.sensitivities]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 10 * errors[-1]
    assert "head" in build.manifest(name).report.float_layers
    assert len(build.manifest(name).report.float_layers) < 4
    assert "back in float" in report.why
