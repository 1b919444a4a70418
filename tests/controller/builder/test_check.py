"""What a build for a profile would miss is told place by place, in an order that people follow."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.builders import a_profile
from wherry.profile import Profile
from wherry_controller.builder.check import NOT_YET, Look, check, install_first, look_only
from wherry_controller.builder.running.environments import installed_version
from wherry_controller.builder.running.place import Place, this_arch
from wherry_controller.core.profiles import Use

HERE = replace(
    a_profile(),
    arch=this_arch(),
    runtime_floor="1.23.2",
    runtime_version="1.31.1",
    emulated_cpus=("Haswell", "SandyBridge"),
)


def misses_floors(place: Place, runtimes: Path) -> str:
    return f"nothing is in {runtimes}" if place.version == "1.23.2" else ""


def told(profile: Profile) -> list[tuple[Use, str, str]]:
    checked = check(profile, Path("runtimes"), misses_floors)
    return [(one.use, one.place, one.problem) for one in checked]


def test_each_place_is_told_with_what_it_lacks() -> None:
    assert told(HERE) == [
        (Use.EVALUATED, "onnxruntime 1.31.1", ""),
        (Use.FLOOR, "onnxruntime 1.23.2", "nothing is in runtimes"),
        (Use.EMULATED, "onnxruntime 1.31.1 on Haswell", ""),
        (Use.EMULATED, "onnxruntime 1.31.1 on SandyBridge", ""),
        (Use.PROCESSOR, HERE.arch.value, ""),
    ]


def test_a_floor_that_is_evaluated_on_anyway_is_told_once() -> None:
    profile = replace(HERE, runtime_version="", emulated_cpus=())
    assert [use for use, _, _ in told(profile)] == [Use.EVALUATED, Use.PROCESSOR]


def test_a_processor_that_lacks_a_feature_builds_with_figures_that_are_off() -> None:
    *_, (use, _, problem) = told(replace(HERE, cpu_features=("time_travel",)))
    assert use is Use.PROCESSOR
    assert "time_travel" in problem and "measure on one" in problem


def test_a_runtime_of_this_interpreter_is_ready_and_another_is_not_yet(tmp_path: Path) -> None:
    installed = installed_version(HERE.runtime)
    assert installed is not None
    ready = Place(HERE.runtime, installed, HERE.arch)
    assert look_only(ready, tmp_path) == install_first(ready, tmp_path) == ""
    assert look_only(Place(HERE.runtime, "1.20.0", HERE.arch), tmp_path) == NOT_YET


@pytest.mark.parametrize("look", [look_only, install_first], ids=["look", "install"])
def test_a_processor_that_nobody_knows_is_never_ready(tmp_path: Path, look: Look) -> None:
    place = Place(HERE.runtime, "1.31.1", HERE.arch, "abacus")
    assert "abacus" in look(place, tmp_path)
