"""Tests of environments made for a runtime version that this interpreter has not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.builders import a_profile
from tests.controller.builder.running.nets import LITE_WEIGHTS, a_dense_variant, a_lite_variant
from wherry.profile import Arch, Runtime
from wherry_controller.builder.data.rows import Rows, write_rows
from wherry_controller.builder.running.environments import (
    Readiness,
    install,
    installed_version,
    state_of,
)
from wherry_controller.builder.running.place import Place, Places, places_of, this_arch
from wherry_controller.builder.running.runners import Runners
from wherry_controller.builder.running.server import RunFailed
from wherry_controller.core.fault import BuildReason, BuildRefused

TFLITE = Place(Runtime.TFLITE, "2.14.0", this_arch())
PROFILE = a_profile(runtime=Runtime.TFLITE, runtime_floor="2.14", runtime_below="2.15")


@pytest.fixture(scope="module")
def runners(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runners]:
    folder = tmp_path_factory.mktemp("runtimes")
    assert state_of(TFLITE, folder) is Readiness.INSTALLABLE
    install(TFLITE, folder)
    assert state_of(TFLITE, folder) is Readiness.READY
    with Runners(folder) as started:
        yield started


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return write_rows(tmp_path / "rows", {"image": np.full((5, 2, 2), 0.25, np.float32)}, {})


@pytest.mark.system
def test_a_variant_runs_on_the_old_runtime_that_is_on_the_device(
    runners: Runners, rows: Rows, tmp_path: Path
) -> None:
    ran = runners.run(TFLITE, a_lite_variant(tmp_path, batch=2), PROFILE, rows, tmp_path / "to")
    wanted = np.full((5, 4), 0.25, np.float32) @ LITE_WEIGHTS
    assert np.allclose(ran.outputs["scores"], wanted, rtol=0, atol=1.5 * 4 / 128)
    assert ran.on == f"tflite-runtime 2.14.0 on {this_arch().value}"


@pytest.mark.system
def test_a_file_that_crashes_the_runtime_is_told_by_the_signals_name(
    runners: Runners, rows: Rows, tmp_path: Path
) -> None:
    good = a_lite_variant(tmp_path, batch=2)
    file = tmp_path / "crash.tflite"
    file.write_bytes(b"\x00\x00\x00\x70" + good.file.read_bytes()[4:])
    with pytest.raises(RunFailed, match="SIGSEGV"):
        runners.run(TFLITE, replace(good, file=file), PROFILE, rows, tmp_path / "to")
    assert len(runners.run(TFLITE, good, PROFILE, rows, tmp_path / "to").outputs["scores"]) == 5


def test_this_interpreter_is_ready_for_the_version_that_it_has(tmp_path: Path) -> None:
    version = installed_version(Runtime.ONNXRUNTIME) or ""
    for part in (version, version.rsplit(".", 1)[0], version.split(".")[0]):
        place = Place(Runtime.ONNXRUNTIME, part, this_arch())
        assert state_of(place, tmp_path) is Readiness.READY
    assert not list(tmp_path.iterdir())


@pytest.mark.system
def test_a_version_that_nobody_has_is_refused_with_pips_reason(tmp_path: Path) -> None:
    place = Place(Runtime.ONNXRUNTIME, "0.0.99", this_arch())
    with pytest.raises(BuildRefused, match=r"No matching distribution") as caught:
        install(place, tmp_path)
    assert caught.value.fault.reason is BuildReason.RUNTIME_MISSING
    assert state_of(place, tmp_path) is Readiness.INSTALLABLE


def test_an_environment_that_was_broken_off_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "tflite-runtime-2.14.0" / "numpy").mkdir(parents=True)
    assert state_of(TFLITE, tmp_path) is Readiness.INSTALLABLE


@pytest.mark.parametrize(
    ("place", "why"),
    [
        (Place(Runtime.ONNXRUNTIME, "1.31", Arch.AARCH64), "no processor of aarch64 is named"),
        (Place(Runtime.ONNXRUNTIME, "1.31", Arch.AARCH64, "cortex-a53"), "make arm-roots"),
        (Place(Runtime.ONNXRUNTIME, "1.31", Arch.X86_64, "Abacus"), "knows no processor 'Abacus'"),
    ],
)
def test_a_place_that_cannot_be_emulated_says_what_is_missing(
    place: Place, why: str, tmp_path: Path
) -> None:
    with Runners(tmp_path) as runners:
        assert why in runners.can_emulate(place)
        with pytest.raises(BuildRefused, match=why):
            runners.run(
                place, a_dense_variant(tmp_path), a_profile(), Rows({}, {}), tmp_path, span=range(1)
            )
    assert state_of(place, tmp_path) is Readiness.MISSING


def test_without_qemu_the_package_that_has_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with Runners(tmp_path) as runners:
        said = runners.can_emulate(Place(Runtime.ONNXRUNTIME, "1.31", Arch.X86_64, "Haswell"))
    assert said == "Haswell cannot be emulated without Debian's package qemu-user-static"


def test_a_profile_is_evaluated_here_and_proved_on_each_of_its_processors() -> None:
    profile = msgspec.structs.replace(
        a_profile(),
        arch=Arch.AARCH64,
        runtime_floor="1.23",
        runtime_version="1.31",
        emulated_cpus=("cortex-a53", "cortex-a72"),
    )
    onnx = Runtime.ONNXRUNTIME
    assert places_of(profile) == Places(
        evaluated=Place(onnx, "1.31", this_arch()),
        floor=Place(onnx, "1.23", this_arch()),
        emulated=(
            Place(onnx, "1.31", Arch.AARCH64, "cortex-a53"),
            Place(onnx, "1.31", Arch.AARCH64, "cortex-a72"),
        ),
    )
