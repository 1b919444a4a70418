"""Tests of torch sources: state_dicts, programs and scripts, all asked in one process (`nets`)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import pytest

from wherry_controller.core.fault import BuildReason

pytestmark = pytest.mark.system

Outcomes: TypeAlias = Mapping[str, object]
REPOSITORY = Path(__file__).parents[4]
LARGEST_DISTANCE = 1e-5
EXPORTED = [
    f"{form} to {runtime}"
    for form in ("state_dict", "program", "script", "named")
    for runtime in ("onnx", "litert")
]


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    folder = tmp_path_factory.mktemp("nets")
    command = [sys.executable, "-m", "tests.controller.builder.sources.nets", str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def outcomes(process: subprocess.CompletedProcess[str]) -> Outcomes:
    found: Outcomes = json.loads(process.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("case", EXPORTED)
def test_an_export_answers_as_the_net_by_the_signatures_names(
    outcomes: Outcomes, case: str
) -> None:
    distance = outcomes[case]
    assert isinstance(distance, float), distance
    assert distance < LARGEST_DISTANCE


def test_every_way_to_the_same_weights_gives_the_same_answers(outcomes: Outcomes) -> None:
    assert outcomes["same answers"] == 0.0


def test_the_reference_that_is_kept_holds_the_weights_exactly(outcomes: Outcomes) -> None:
    assert outcomes["kept"] is True


def test_a_program_of_a_fixed_batch_keeps_it_and_fits_no_litert(outcomes: Outcomes) -> None:
    assert outcomes["fixed program to onnx"] == [2, 1, 8, 8]
    _assert_refused(outcomes, "fixed program to litert", BuildReason.DYNAMIC_SHAPE, "2 at a time")


def test_nothing_in_a_program_runs_while_it_is_read(outcomes: Outcomes) -> None:
    refusal = [BuildReason.SOURCE_UNREADABLE, "evil.pt2 is a pickle of more than tensors"]
    assert outcomes["evil program"] == [refusal, False]


@pytest.mark.parametrize(
    ("case", "reason", "words"),
    [
        ("whole net", BuildReason.SOURCE_UNREADABLE, "pickle of more than tensors"),
        ("misfit", BuildReason.STATE_DICT_MISFIT, "3.weight"),
        ("quantized", BuildReason.ALREADY_QUANTIZED, "3.weight"),
        ("no net", BuildReason.FACTORY_NOT_IMPORTABLE, "no torch.nn.Module"),
        ("odd to onnx", BuildReason.UNSUPPORTED_OPERATOR, "bessel_j0 of the layer '1'"),
        ("odd to litert", BuildReason.UNSUPPORTED_OPERATOR, "of the layer '1'"),
        ("attention to onnx", BuildReason.UNSUPPORTED_OPERATOR, "aten::is_autocast_enabled"),
        ("steps to litert", BuildReason.DYNAMIC_SHAPE, "'steps'"),
        ("counting script", BuildReason.SIGNATURE_MISFIT, "keeps a state between calls"),
        ("speech script", BuildReason.SIGNATURE_MISFIT, "keeps a state between calls"),
        ("other shape", BuildReason.SIGNATURE_MISFIT, "'scores' came with the shape [3, 3]"),
        ("other type", BuildReason.SIGNATURE_MISFIT, "not INT64"),
        ("more outputs", BuildReason.SIGNATURE_MISFIT, "gives 1 tensors, the signature 2"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name_and_place(
    outcomes: Outcomes, case: str, reason: BuildReason, words: str
) -> None:
    _assert_refused(outcomes, case, reason, words)


def test_torch_files_are_described_as_far_as_they_tell(outcomes: Outcomes) -> None:
    image = {"name": "input", "datatype": "FP32", "shape": ["batch", 1, 8, 8]}
    linear = {"name": "linear", "datatype": "FP32", "shape": ["batch", 3]}
    assert outcomes["described program"] == {
        "kind": "exported_program",
        "inputs": [image],
        "outputs": [linear],
        "parameters": 475,
    }
    assert outcomes["described script"] == {
        "kind": "torchscript",
        "inputs": [{"name": "input"}],
        "parameters": 475,
    }
    assert outcomes["described state_dict"] == {
        "kind": "state_dict",
        "inputs": [{"name": "right"}, {"name": "left"}, {"name": "scale"}],
        "parameters": 15,
    }


def test_converters_print_nothing_on_stdout(
    process: subprocess.CompletedProcess[str],
) -> None:
    printed = set(process.stdout.splitlines()[:-1])
    assert printed <= {"", "a net may print"}
    assert "LiteRT-Torch Convert" in process.stderr


def _assert_refused(outcomes: Outcomes, case: str, reason: BuildReason, words: str) -> None:
    refusal = outcomes[case]
    assert isinstance(refusal, list), refusal
    assert refusal[0] == reason
    assert words in refusal[1]
