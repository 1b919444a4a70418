"""What is tried for a profile is held to the net, to the oldest runtime and to the final rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from tests.controller.builder.workshops import WEIGHTS, a_net, a_task, here
from wherry.profile import Profile
from wherry_controller.builder.data.rows import Rows
from wherry_controller.builder.explore import explore, try_out
from wherry_controller.builder.running.place import Place
from wherry_controller.builder.running.runners import Ran, Runners
from wherry_controller.builder.running.server import RunFailed
from wherry_controller.builder.stages import Task
from wherry_controller.builder.timing import time_all
from wherry_controller.builder.variant import Variant
from wherry_controller.builder.version import ONNX
from wherry_controller.builder.workshop import fault_of, open_workshop
from wherry_controller.core.fault import BuildReason, BuildRefused
from wherry_controller.core.recipe import baseline

pytestmark = pytest.mark.system

FP32 = here()


class WithoutTheFloor(Runners):
    """Runners on which nothing loads in the version 1.23."""

    def run(
        self,
        place: Place,
        variant: Variant,
        profile: Profile,
        rows: Rows,
        to: Path,
        *,
        span: range | None = None,
    ) -> Ran:
        if place.version == "1.23":
            raise RunFailed("it knows no such operator")
        return super().run(place, variant, profile, rows, to, span=span)


def say(_: str) -> None: ...


@pytest.fixture
def runners(tmp_path: Path) -> Iterator[Runners]:
    with WithoutTheFloor(tmp_path / "runtimes") as started:
        yield started


def with_export(task: Task, factor: float) -> Task:
    """Put another float export into the version's folder."""
    a_net(task.version / ONNX, WEIGHTS * np.float32(factor))
    return task


def test_float_is_scored_on_both_parts_and_says_where(tmp_path: Path) -> None:
    (base,) = explore(a_task(tmp_path, FP32), say).candidates
    assert base.searched is not None
    assert base.judged is not None
    assert (base.searched.samples, base.judged.samples) == (30, 40)
    assert base.evaluated_on.startswith("onnxruntime ")


def test_an_export_that_strays_from_the_net_is_refused(tmp_path: Path) -> None:
    explore(with_export(a_task(tmp_path / "near", FP32), 1.00001), say)
    with pytest.raises(BuildRefused) as refusal:
        explore(with_export(a_task(tmp_path / "far", FP32), 1.0002), say)
    assert refusal.value.fault.reason is BuildReason.EXPORT_DIFFERS


def test_a_variant_has_to_load_on_the_oldest_runtime_too(tmp_path: Path, runners: Runners) -> None:
    profile = replace(FP32, runtime_floor="1.23", runtime_version=FP32.runtime_floor)
    found = try_out(open_workshop(a_task(tmp_path, profile), runners), baseline(profile))
    assert (found.fault, found.problem) == (
        BuildReason.RUN_FAILED,
        "the runtime fails with it (it knows no such operator)",
    )


def test_figures_of_an_unverified_profile_say_what_was_not_run(tmp_path: Path) -> None:
    profile = replace(FP32, provider="TensorrtExecutionProvider", verified=False)
    task = a_task(tmp_path, profile)
    explored = explore(task, say)
    assert explored.candidates[0].evaluated_on.endswith(
        ", unverified: TensorrtExecutionProvider was not run"
    )
    (timed,) = time_all([task], [explored], say)
    assert timed.candidates[0].latency is None


def test_a_remedy_is_said_once(tmp_path: Path) -> None:
    sentence = fault_of(RunFailed("it crashed")).sentence
    assert sentence == (
        "the runtime fails with it (it crashed): "
        "look into the variant's log, and choose another runtime or precision."
    )
