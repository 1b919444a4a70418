"""Tests of what the builder refuses: each by its name, with a sentence, and with exit status 0."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.controller.builder.versions import (
    RUNTIMES,
    SIGNATURE,
    a_card,
    a_profile_named,
    run_build,
    with_budgets,
)
from wherry.names import parse_profile_name
from wherry.profile import Precision, Profile
from wherry.signature import BATCH, Datatype, Tensor
from wherry_controller.core.card import Card
from wherry_controller.core.fault import REMEDIES, BuildReason

pytestmark = pytest.mark.system

FP32 = a_profile_named("x86-onnx-fp32")
INT8 = a_profile_named("x86-onnx-int8")
WHOLE_SCORES = replace(SIGNATURE, outputs=(Tensor("scores", Datatype.INT64, (BATCH, 10)),))

SICK_VERSIONS = [
    (a_card(factory="unimportable.py:make_net"), BuildReason.FACTORY_NOT_IMPORTABLE),
    (a_card(factory="quits.py:make_net"), BuildReason.FACTORY_NOT_IMPORTABLE),
    (a_card(factory="net.py:make_nothing"), BuildReason.FACTORY_NOT_IMPORTABLE),
    (a_card(factory="net.py:make_other_net"), BuildReason.STATE_DICT_MISFIT),
    (a_card(state_dict="garbage.pt"), BuildReason.SOURCE_UNREADABLE),
    (a_card(state_dict="nan.pt"), BuildReason.OUTPUT_NOT_FINITE),
    (a_card(state_dict="damaged.pt"), BuildReason.BELOW_FLOOR),
    (a_card(claimed=0.5), BuildReason.CLAIM_DIFFERS),
    (a_card(signature=WHOLE_SCORES), BuildReason.SIGNATURE_MISFIT),
    (a_card(calibration="overlapping.npz"), BuildReason.DATA_OVERLAP),
]
SICK_NAMES = [f"{reason}-{card.source.factory}" for card, reason in SICK_VERSIONS]


@pytest.mark.parametrize(("card", "reason"), SICK_VERSIONS, ids=SICK_NAMES)
def test_a_sick_version_is_refused_by_name(
    version: Path, tmp_path: Path, card: Card, reason: BuildReason
) -> None:
    build = run_build(card, version, tmp_path / "output", [FP32])
    (refused,) = build.refused
    assert (refused.reason, refused.profile) == (reason, None)
    assert refused.detail.endswith(f"{REMEDIES[reason]}.")
    assert not build.built
    assert not list((build.output / "blobs").iterdir())
    assert not list(build.output.glob("*.manifest.json"))


def test_one_build_refuses_each_profile_by_its_own_reason(version: Path, tmp_path: Path) -> None:
    sick: dict[Profile, BuildReason] = {
        _named("uncalibrated", INT8): BuildReason.CALIBRATION_MISSING,
        _named("too-big", with_budgets(FP32, size_bytes=1000)): BuildReason.OVER_BUDGET,
        _named("too-slow", with_budgets(FP32, latency_ms=1e-6)): BuildReason.OVER_BUDGET,
        _named("gone", replace(FP32, runtime_floor="1.2.99", runtime_below="1.3")): (
            BuildReason.RUNTIME_MISSING
        ),
    }
    either = replace(FP32, precisions=(Precision.INT8, Precision.FP32))
    profiles = [*sick, _named("good", FP32), _named("stated-fall", either)]
    build = run_build(a_card(calibration=None), version, tmp_path / "output", profiles)
    expected = {profile.name: reason for profile, reason in sick.items()}
    assert {item.profile: item.reason for item in build.refused} == expected
    assert set(build.built) == {"good", "stated-fall"}
    assert "static int8 needs calibration data" in build.built["stated-fall"].report.why


def test_a_profile_gets_its_next_precision_where_the_first_one_fails(
    version: Path, tmp_path: Path
) -> None:
    card = a_card(
        factory="net.py:make_recurrent_net",
        state_dict="recurrent.pt",
        floor=0,
        largest_drop=1,
        claimed=0.1,
    )
    either = _named("either", replace(INT8, precisions=(Precision.INT8, Precision.FP32)))
    build = run_build(card, version, tmp_path / "output", [either, _named("int8-only", INT8)])
    assert build.manifest("either").precision is Precision.FP32
    (refused,) = build.refused
    assert refused.profile == "int8-only"
    assert refused.reason is BuildReason.PASS_CHANGED_NOTHING
    assert refused.report is not None
    assert [one.fault for one in refused.report.candidates][1:] == [refused.reason]


def test_a_versions_code_cannot_change_the_runtimes_of_others(
    version: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(version, tmp_path / "nosy")
    planted = RUNTIMES / "planted.py"
    code = f"def make_net():\n    open({str(planted)!r}, 'w').write('evil')\n"
    (folder / "nosy.py").write_text(code)
    build = run_build(a_card(factory="nosy.py:make_net"), folder, tmp_path / "output", [FP32])
    (refused,) = build.refused
    assert refused.reason is BuildReason.FACTORY_NOT_IMPORTABLE
    assert "PermissionError" in refused.detail
    assert not planted.exists()


def test_a_build_leaves_no_temporary_folder(
    version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Short, since sockets lie in it; and its own, since other builds of this machine have theirs.
    with tempfile.TemporaryDirectory() as own:
        monkeypatch.setenv("TMPDIR", own)
        run_build(a_card(state_dict="garbage.pt"), version, tmp_path / "output", [FP32])
        assert not list(Path(own).iterdir())


def test_a_request_that_is_none_ends_the_process_and_says_nothing_on_stdout(tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_bytes(b'{"card": {}}')
    command = [sys.executable, "-m", "wherry_controller.builder", str(file)]
    done = subprocess.run(command, check=False, capture_output=True)
    assert done.returncode != 0
    assert done.stdout == b""
    assert b"this is no BuildRequest" in done.stderr


def test_where_no_builders_are_installed_a_build_says_what_to_install(
    version: Path, tmp_path: Path
) -> None:
    without = (
        "import runpy, sys; sys.modules['onnx'] = None; "
        "runpy.run_module('wherry_controller.builder', run_name='__main__', alter_sys=True)"
    )
    command = (sys.executable, "-c", without)
    build = run_build(a_card(), version, tmp_path / "output", [FP32], command=command)
    (refused,) = build.refused
    assert refused.reason is BuildReason.RUNTIME_MISSING
    assert "pip install 'wherry-controller[builder]'" in refused.detail
    assert "\n" not in refused.detail


def _named(name: str, profile: Profile) -> Profile:
    return replace(profile, name=parse_profile_name(name))
