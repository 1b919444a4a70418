"""Tests of the builder's process with models from other people's hands."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from msgspec.structs import replace

from tests.controller.builder.real.content import a_content_card, write_content_version
from tests.controller.builder.real.speech import a_speech_card, write_speech_version
from tests.controller.builder.real.tables import (
    write_digits_version,
    write_forest_version,
    write_line_version,
    write_wine_version,
)
from tests.controller.builder.sources.cards import silero
from tests.controller.builder.versions import REPOSITORY, Build, a_profile_named, run_build
from wherry.manifest import MODEL_FILE
from wherry.names import parse_model_name, parse_profile_name, parse_version_name
from wherry.profile import Arch, Objective, Precision, Profile
from wherry.signature import BATCH, Datatype, Signature, Tensor
from wherry_controller.core.card import Card, Data, Goal, Source, SourceKind, Task
from wherry_controller.core.fault import BuildReason

pytestmark = pytest.mark.system

FP32, LITE = a_profile_named("x86-onnx-fp32"), a_profile_named("x86-litert-int8")


def taking(*precisions: Precision) -> Profile:
    """Return a profile of other hardware: no speed of this machine can decide."""
    return replace(
        FP32,
        name=parse_profile_name("small"),
        arch=Arch.AARCH64,
        precisions=precisions,
        prefer=Objective.SIZE,
    )


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Build:
    folder = tmp_path_factory.mktemp("speech")
    write_speech_version(folder)
    small = taking(Precision.FP32, Precision.INT8_DYNAMIC)
    return run_build(a_speech_card(), folder, folder / "output", [small, LITE])


def test_a_net_with_states_is_built_and_judged_by_sequences(speech: Build) -> None:
    report = speech.built["small"].report
    assert report.chosen == "int8_dynamic"
    assert {one.name for one in report.candidates} == {"fp32", "int8_dynamic"}
    score = speech.chosen("small").judged
    assert score is not None
    assert (score.reference_value, score.drop <= 0.02) == (1.0, True)
    manifest = speech.manifest("small")
    assert manifest.signature.states == a_speech_card().signature.states
    assert manifest.report.size_bytes < 900_000


def test_what_the_card_fixes_is_gone_from_the_file(speech: Build) -> None:
    digest = speech.manifest("small").files[MODEL_FILE].digest
    graph = onnx.load_from_string(speech.blob(digest)).graph
    assert [value.name for value in graph.input] == ["input", "state"]
    assert "If" not in {node.op_type for node in graph.node}


def test_onnx_makes_no_litert_and_the_sentence_says_what_does(speech: Build) -> None:
    (refused,) = speech.refused
    assert (refused.profile, refused.reason) == (LITE.name, BuildReason.NO_RECIPE)
    assert "of a state_dict or a .pt2" in refused.detail


def test_a_net_of_whole_numbers_is_quantized_by_ranges_without_what_is_rare(tmp_path: Path) -> None:
    write_content_version(tmp_path)
    profile = taking(Precision.FP32, Precision.INT8)
    build = run_build(a_content_card(), tmp_path, tmp_path / "output", [profile])
    report = build.built["small"].report
    assert report.candidates[1].name == "int8-s8s8"
    assert report.candidates[1].fault is not None
    assert report.chosen in ("int8-s8s8-percentile", "int8-s8s8-entropy")
    score = build.chosen("small").judged
    assert score is not None
    assert score.reference_value > 0.8
    assert build.manifest("small").report.size_bytes < 1_000_000


def test_a_pipeline_is_quantized_where_it_is_a_net(tmp_path: Path) -> None:
    card = write_digits_version(tmp_path)
    profile = taking(Precision.FP32, Precision.INT8_DYNAMIC)
    build = run_build(card, tmp_path, tmp_path / "output", [profile])
    fp32, int8 = build.built["small"].report.candidates
    assert build.built["small"].report.chosen == int8.name
    assert fp32.size_bytes is not None
    assert int8.size_bytes is not None
    assert int8.size_bytes * 3 < fp32.size_bytes


@pytest.mark.parametrize("write", [write_wine_version, write_forest_version, write_line_version])
def test_trees_and_lines_stay_in_float_and_the_report_says_so(
    tmp_path: Path, write: Callable[[Path], Card]
) -> None:
    build = run_build(write(tmp_path), tmp_path, tmp_path / "output", [FP32])
    report = build.built[FP32.name].report
    assert report.chosen == "fp32"
    assert report.why.startswith("fp32 stays the best choice")


def test_a_script_that_keeps_its_state_inside_is_refused_by_name(tmp_path: Path) -> None:
    write_speech_version(tmp_path)
    card = a_speech_card()
    shutil.copy(silero("silero_vad.jit"), tmp_path)
    source = replace(card.source, kind=SourceKind.TORCHSCRIPT, file="silero_vad.jit")
    build = run_build(replace(card, source=source), tmp_path, tmp_path / "output", [FP32])
    (refused,) = build.refused
    assert refused.reason is BuildReason.SIGNATURE_MISFIT


def test_a_mapping_of_answers_is_taken_by_name_though_all_of_them_are_alike(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.controller.builder.real.two_heads", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY)
    heads = tuple(Tensor(name, Datatype.FP32, (BATCH, 5)) for name in ("size", "kind"))
    card = Card(
        model=parse_model_name("heads"),
        version=parse_version_name("v1"),
        source=Source(kind=SourceKind.EXPORTED_PROGRAM, file="net.pt2"),
        signature=Signature((Tensor("image", Datatype.FP32, (BATCH, 8)),), heads),
        task=Task(output="kind"),
        data=Data(evaluation="evaluation.npz"),
        goal=Goal(floor=1.0),
    )
    build = run_build(card, tmp_path, tmp_path / "output", [FP32])
    assert build.refused == []
    assert build.manifest(FP32.name).report.value == 1.0
