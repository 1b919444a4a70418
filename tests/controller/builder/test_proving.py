"""A candidate is shipped once its golden set held on processors, damage and the version before."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from tests.controller.builder.workshops import WEIGHTS, WIDTH, a_net, a_task, here
from wherry.profile import Precision, Profile
from wherry_controller.builder.cache import digest_of_file
from wherry_controller.builder.data.rows import Rows
from wherry_controller.builder.explore import explore, try_out
from wherry_controller.builder.finish import finish, offer, on_devices
from wherry_controller.builder.proving import Proved, prove
from wherry_controller.builder.running.place import Place
from wherry_controller.builder.running.runners import Ran, Runners
from wherry_controller.builder.running.server import RunFailed
from wherry_controller.builder.stages import Explored, Task
from wherry_controller.builder.timing import time_all
from wherry_controller.builder.variant import Variant
from wherry_controller.builder.workshop import file_of, open_workshop, variant_of
from wherry_controller.core.build import BLOBS, PREVIOUS_MANIFEST, manifest_file
from wherry_controller.core.choice import DeviceFigures
from wherry_controller.core.fault import BuildReason, BuildRefused
from wherry_controller.core.recipe import baseline

pytestmark = pytest.mark.system

FP32 = here()
HASWELL = here(emulated_cpus=("Haswell",))
EITHER = replace(FP32, precisions=(Precision.FP32, Precision.INT8))


class Emulating(Runners):
    """Runners on which an emulated processor answers as this machine does, and is off or dies."""

    def __init__(
        self, runtimes: Path, *, off: float = 0.0, dies: str = "", lacks: str = ""
    ) -> None:
        super().__init__(runtimes)
        self.off, self.dies, self.lacks = np.float32(off), dies, lacks

    def can_emulate(self, place: Place) -> str:
        return self.lacks

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
        if place.cpu and self.dies:
            raise RunFailed(self.dies)
        at = Place(place.runtime, place.version, place.arch)
        ran = super().run(at, variant, profile, rows, to, span=span)
        off = self.off if place.cpu else np.float32(0)
        outputs = {name: np.asarray(array, np.float32) + off for name, array in ran.outputs.items()}
        return Ran(outputs, ran.load_ms, ran.memory_bytes, ran.on)


def say(_: str) -> None: ...


@pytest.fixture
def runners(tmp_path: Path) -> Iterator[Runners]:
    with Emulating(tmp_path / "runtimes") as started:
        yield started


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a built bundle of the version, laid out as the version before."""
    folder = tmp_path_factory.mktemp("shipped")
    task = a_task(folder, FP32)
    assert finish(task, explore(task, say), say).bundle is not None
    output = Path(task.request.output)
    shutil.copy(output / manifest_file(FP32.name), output / PREVIOUS_MANIFEST)
    return output


def proved(task: Task, runners: Runners) -> Proved:
    shop = open_workshop(task, runners)
    recipe = baseline(task.profile)
    return prove(shop, try_out(shop, recipe), variant_of(shop, file_of(shop, recipe)))


def fault_of_proof(task: Task, runners: Runners) -> tuple[BuildReason, str]:
    with pytest.raises(BuildRefused) as refusal:
        proved(task, runners)
    return refusal.value.fault.reason, refusal.value.fault.problem


def with_another(explored: Explored, file: Path) -> Explored:
    """Return what was explored with an int8 candidate in `file` that is the smallest of all."""
    base = explored.candidates[0]
    recipe = replace(base.recipe, precision=Precision.INT8)
    other = replace(
        base, recipe=recipe, name=recipe.name, digest=digest_of_file(file), size_bytes=1
    )
    files = explored.files | {other.name: str(file)}
    return replace(explored, candidates=(base, other), files=files)


def a_version_before(shipped: Path, folder: Path) -> Path:
    """Return a copy of the bundle, whose blobs a test may change."""
    before = folder / "before"
    shutil.copytree(shipped / BLOBS, before / BLOBS)
    shutil.copy(shipped / PREVIOUS_MANIFEST, before)
    return before


def figures(recipe: str, p50_ms: float) -> DeviceFigures:
    return DeviceFigures(
        profile=FP32.name,
        recipe=recipe,
        devices=2,
        faithful=True,
        p50_ms=p50_ms,
        p99_ms=2 * p50_ms,
        memory_bytes=5_000_000,
    )


def measured(folder: Path, *found: DeviceFigures) -> Task:
    task = a_task(folder, FP32)
    return dataclasses.replace(task, request=replace(task.request, measured=found))


def unloadable(folder: Path) -> Path:
    """Return a model file that can be read and no runtime loads."""
    return a_net(folder / "unloadable.onnx", np.ones((WIDTH - 1, WIDTH), np.float32))


def test_a_golden_set_that_holds_everywhere_names_the_processors(
    tmp_path: Path, runners: Runners
) -> None:
    found = proved(a_task(tmp_path, HASWELL), runners)
    assert (found.emulated_on, found.not_emulated) == (("Haswell (emulated)",), ())
    assert found.golden.outputs["scores"].shape == (8, WIDTH)


def test_other_answers_on_an_emulated_processor_are_refused(tmp_path: Path) -> None:
    with Emulating(tmp_path / "runtimes", off=0.1) as runners:
        reason, _ = fault_of_proof(a_task(tmp_path, HASWELL), runners)
    assert reason is BuildReason.DIFFERS_ON_CPU


def test_a_crash_on_an_emulated_processor_is_a_difference(tmp_path: Path) -> None:
    with Emulating(tmp_path / "runtimes", dies="it crashed the runtime (SIGILL)") as runners:
        reason, problem = fault_of_proof(a_task(tmp_path, HASWELL), runners)
    assert reason is BuildReason.DIFFERS_ON_CPU
    assert problem == (
        "on Haswell (emulated) the variant does not run (it crashed the runtime (SIGILL))"
    )


def test_a_processor_that_cannot_be_emulated_is_told(tmp_path: Path) -> None:
    with Emulating(tmp_path / "runtimes", lacks="there is no QEMU") as runners:
        found = proved(a_task(tmp_path, HASWELL), runners)
    assert (found.emulated_on, found.not_emulated) == ((), ("Haswell: there is no QEMU",))


def test_rows_that_use_nothing_of_the_net_show_no_damage(tmp_path: Path, runners: Runners) -> None:
    reason, _ = fault_of_proof(
        a_task(tmp_path, FP32, golden=np.zeros((8, WIDTH), np.float32)), runners
    )
    assert reason is BuildReason.GOLDEN_BLIND


def test_golden_inputs_that_do_not_tell_the_version_before_are_refused(
    shipped: Path, tmp_path: Path, runners: Runners
) -> None:
    before = a_version_before(shipped, tmp_path)
    # They differ where the golden inputs have zeros.
    golden = np.random.default_rng(6).random((8, WIDTH), np.float32)
    golden[:, 0] = 0
    (model,) = [one for one in (before / BLOBS).iterdir() if b"product" in one.read_bytes()]
    weights = WEIGHTS.copy()
    weights[0] *= 3
    model.unlink()
    a_net(model, weights)
    previous = {FP32.name: str(before)}
    blind = a_task(tmp_path / "second", FP32, golden=golden, previous=previous)
    reason, problem = fault_of_proof(blind, runners)
    assert (reason, problem) == (
        BuildReason.GOLDEN_BLIND,
        "the version before gives the same golden outputs",
    )
    proved(a_task(tmp_path / "third", FP32, previous=previous), runners)


def test_a_version_before_that_this_runtime_does_not_take_is_not_compared_with(
    shipped: Path, tmp_path: Path, runners: Runners
) -> None:
    before = a_version_before(shipped, tmp_path)
    for blob in (before / BLOBS).iterdir():
        blob.unlink()
        blob.write_bytes(b"made for another runtime")
    proved(a_task(tmp_path / "second", FP32, previous={FP32.name: str(before)}), runners)


def test_what_cannot_be_proved_is_neither_shipped_nor_offered(tmp_path: Path) -> None:
    explored = with_another(explore(a_task(tmp_path, FP32), say), unloadable(tmp_path))
    task = a_task(tmp_path, EITHER)
    outcome = finish(task, explored, say)
    assert outcome.bundle is not None
    assert outcome.report.chosen == "fp32"
    assert outcome.report.candidates[1].fault is BuildReason.RUN_FAILED
    assert outcome.report.candidates[1].problem.startswith("the runtime fails with it (")
    assert [one.recipe for one in offer(task, explored, say)] == ["fp32"]


def test_what_crashes_while_it_is_timed_leaves_its_profile_without_a_choice(
    tmp_path: Path,
) -> None:
    explored = explore(a_task(tmp_path / "good", FP32), say)
    other = with_another(explored, unloadable(tmp_path))
    tasks = [a_task(tmp_path / "sick", EITHER), a_task(tmp_path / "good", FP32)]
    sick, good = time_all(tasks, [other, explored], say)
    assert {one.fault for one in sick.candidates} == {BuildReason.RUN_FAILED}
    assert good.candidates[0].fault is None
    assert good.candidates[0].latency is not None


def test_what_devices_found_takes_the_place_of_what_was_timed_here(tmp_path: Path) -> None:
    explored = with_another(explore(a_task(tmp_path, FP32), say), unloadable(tmp_path))
    base, other = explored.candidates
    found = on_devices(explored.candidates, measured(tmp_path, figures("fp32", 4.0)))
    assert found[0].latency is not None
    assert (found[0].latency.p50_ms, found[0].latency.speed_ratio) == (4.0, 1.0)
    assert found[0].memory_bytes == 5_000_000
    assert found[1] == other
    found = on_devices(
        explored.candidates, measured(tmp_path, figures("fp32", 4.0), figures(other.name, 1.0))
    )
    assert found[1].latency is not None
    assert (found[1].latency.speed_ratio, found[1].fault) == (4.0, None)
    assert found[1].latency.measured_on == "2 devices of x86-onnx-fp32"
    assert on_devices(explored.candidates, measured(tmp_path, figures(other.name, 1.0))) == [
        base,
        other,
    ]


def test_a_candidate_that_devices_answer_otherwise_with_is_out(tmp_path: Path) -> None:
    explored = with_another(explore(a_task(tmp_path, FP32), say), unloadable(tmp_path))
    name = explored.candidates[1].name
    unfaithful = replace(figures(name, 1.0), faithful=False)
    task = measured(tmp_path, figures("fp32", 4.0), unfaithful)
    base, other = on_devices(explored.candidates, task)
    assert (base.fault, other.fault) == (None, BuildReason.DIFFERS_ON_CPU)


def test_latencies_are_of_the_runtime_that_they_name(tmp_path: Path) -> None:
    task = a_task(tmp_path, FP32)
    explored = explore(task, say)
    line = FP32.runtime_floor.rpartition(".")[0]
    other = replace(FP32, runtime_floor=line)
    for profile in (FP32, FP32, other):
        time_all([dataclasses.replace(task, profile=profile)], [explored], say)
    assert len([one for one in (tmp_path / "cache" / "timing").iterdir() if one.is_dir()]) == 2
