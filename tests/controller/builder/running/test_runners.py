"""Tests of variants that run in children of a server, on the runtimes of this interpreter."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.builders import a_profile
from tests.controller.builder.running.nets import (
    LITE_WEIGHTS,
    a_dense_variant,
    a_greedy_variant,
    a_lite_variant,
    a_running_sum,
    an_endless_variant,
    an_int8_variant,
    int8_answers,
)
from wherry.profile import Arch, Runtime
from wherry_controller.builder.data.rows import Array, Rows, write_rows
from wherry_controller.builder.running.environments import installed_version
from wherry_controller.builder.running.place import Place, this_arch
from wherry_controller.builder.running.runners import Runners
from wherry_controller.builder.running.server import RunFailed
from wherry_controller.builder.variant import Variant

pytestmark = pytest.mark.system
MEGABYTE = 1024 * 1024


def here(runtime: Runtime = Runtime.ONNXRUNTIME) -> Place:
    """Return this interpreter as a place."""
    return Place(runtime, installed_version(runtime) or "", this_arch())


@pytest.fixture(scope="module")
def runners(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runners]:
    folder = tmp_path_factory.mktemp("runtimes")
    with Runners(folder, memory_bytes=2000 * MEGABYTE, deadline_s=5.0) as started:
        yield started


def rows_of(folder: Path, **inputs: Array) -> Rows:
    return write_rows(folder / "rows", inputs, {})


def images(rows: int, width: int = 2) -> Array:
    return np.random.default_rng(3).random((rows, width), np.float32)


def test_a_variant_answers_every_row_in_signature_terms(runners: Runners, tmp_path: Path) -> None:
    image = images(150)
    rows = rows_of(tmp_path, image=image)
    ran = runners.run(here(), a_dense_variant(tmp_path), a_profile(), rows, tmp_path / "to")
    assert np.allclose(ran.outputs["scores"], image @ np.array([[0, 1], [2, 3]], np.float32))
    assert isinstance(ran.outputs["scores"], np.memmap)
    assert ran.on == f"onnxruntime {installed_version(Runtime.ONNXRUNTIME)} on {this_arch().value}"
    assert ran.load_ms > 0


def test_only_the_rows_of_a_span_are_run(runners: Runners, tmp_path: Path) -> None:
    image = images(20)
    rows, variant = rows_of(tmp_path, image=image), a_dense_variant(tmp_path, static_batch=4)
    ran = runners.run(here(), variant, a_profile(), rows, tmp_path / "to", span=range(3, 9))
    assert np.allclose(ran.outputs["scores"], image[3:9] @ np.array([[0, 1], [2, 3]], np.float32))


def test_sequences_carry_the_state_and_begin_at_zero(runners: Runners, tmp_path: Path) -> None:
    rows = rows_of(tmp_path, number=np.ones((70, 5, 1), np.float32))
    ran = runners.run(here(), a_running_sum(tmp_path), a_profile(), rows, tmp_path / "to")
    assert ran.outputs["sum"][69, :, 0].tolist() == [1, 2, 3, 4, 5]
    assert ran.outputs["next"].shape == (70, 5, 1)


def test_a_single_step_takes_the_state_that_is_given(runners: Runners, tmp_path: Path) -> None:
    given = {"number": np.ones((3, 1), np.float32), "state": np.full((3, 1), 7, np.float32)}
    rows = rows_of(tmp_path, **given)
    ran = runners.run(here(), a_running_sum(tmp_path), a_profile(), rows, tmp_path / "to")
    assert ran.outputs["sum"].tolist() == [[8.0]] * 3


def test_litert_is_asked_through_its_scale_and_static_batch(
    runners: Runners, tmp_path: Path
) -> None:
    image = np.random.default_rng(3).integers(-60, 60, (7, 2, 2)).astype(np.float32) / 128
    rows = rows_of(tmp_path, image=image)
    profile = a_profile(runtime=Runtime.LITERT, runtime_floor="2", runtime_below="3")
    variant = a_lite_variant(tmp_path, batch=4)
    ran = runners.run(here(Runtime.LITERT), variant, profile, rows, tmp_path / "to")
    wanted = image.reshape(7, 4) @ LITE_WEIGHTS
    assert np.allclose(ran.outputs["scores"], wanted, rtol=0, atol=1.5 * 4 / 128)


def test_a_file_that_is_no_model_fails_with_the_runtimes_words(
    runners: Runners, tmp_path: Path
) -> None:
    file = tmp_path / "broken.onnx"
    file.write_bytes(b"nonsense")
    broken = replace(a_dense_variant(tmp_path), file=file)
    with pytest.raises(RunFailed, match="parsing failed"):
        runners.run(here(), broken, a_profile(), rows_of(tmp_path, image=images(2)), tmp_path)


def test_a_variant_that_never_answers_ends_at_its_deadline(tmp_path: Path) -> None:
    rows, variant = rows_of(tmp_path, image=images(2)), an_endless_variant(tmp_path)
    with (
        Runners(tmp_path, deadline_s=0.5) as hurried,
        pytest.raises(RunFailed, match=r"did not finish within 0\.5 s"),
    ):
        hurried.run(here(), variant, a_profile(), rows, tmp_path / "to")


def test_a_variant_that_wants_too_much_memory_fails_alone(runners: Runners, tmp_path: Path) -> None:
    rows = rows_of(tmp_path, image=images(2))
    with pytest.raises(RunFailed, match=r"memory|alloc"):
        runners.run(here(), a_greedy_variant(tmp_path), a_profile(), rows, tmp_path / "to")
    good = a_dense_variant(tmp_path)
    assert len(runners.run(here(), good, a_profile(), rows, tmp_path / "to").outputs["scores"]) == 2


def test_a_server_that_was_killed_is_started_anew(runners: Runners, tmp_path: Path) -> None:
    rows, variant = rows_of(tmp_path, image=images(2)), a_dense_variant(tmp_path)
    runners.run(here(), variant, a_profile(), rows, tmp_path / "to")
    process = runners.processes()[here()]
    os.kill(process, signal.SIGKILL)
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    assert runners.run(here(), variant, a_profile(), rows, tmp_path / "to").outputs


def test_a_larger_model_shows_a_larger_peak_of_memory(runners: Runners, tmp_path: Path) -> None:
    small, large = (_memory_of(runners, tmp_path / str(width), width) for width in (512, 4096))
    assert 64 * MEGABYTE < large - small < 4 * 64 * MEGABYTE


def _memory_of(runners: Runners, folder: Path, width: int) -> int:
    """Return the peak of a dense net with four bytes a weight."""
    folder.mkdir()
    rows, variant = rows_of(folder, image=images(2, width)), a_dense_variant(folder, width=width)
    return runners.run(here(), variant, a_profile(), rows, folder / "to").memory_bytes


def test_a_variant_with_more_to_compute_takes_longer_in_the_same_rounds(
    runners: Runners, tmp_path: Path
) -> None:
    folders = [tmp_path / "small", tmp_path / "large"]
    for folder in folders:
        folder.mkdir()
    large = a_dense_variant(folders[1], width=1024)
    small = replace(large, file=a_dense_variant(folders[0], width=1024).file)
    rows = rows_of(tmp_path, image=images(1, 1024))
    timings = runners.time(here(), [small, large], a_profile(), rows)
    assert all(0 < timing.p50_ms <= timing.p99_ms for timing in timings)


def test_an_emulated_processor_is_never_timed(runners: Runners, tmp_path: Path) -> None:
    place = replace(here(), cpu="Haswell")
    with pytest.raises(RunFailed, match="says nothing"):
        runners.time(place, [], a_profile(), rows_of(tmp_path, image=images(1)))


def test_int8_overflows_on_haswell_unless_its_range_is_reduced(tmp_path: Path) -> None:
    haswell = Place(Runtime.ONNXRUNTIME, here().version, Arch.X86_64, "Haswell")
    image = 1 + images(8, 64)
    rows = rows_of(tmp_path, image=image)
    with Runners(tmp_path) as runners:
        full, reduced = (_stray(runners, haswell, rows, tmp_path, largest) for largest in (127, 64))
    assert full > 0.1
    assert reduced < 1e-6


def _stray(runners: Runners, place: Place, rows: Rows, folder: Path, largest: int) -> float:
    """Return how far answers stray from exact ones, as a share of the largest."""
    variant: Variant = an_int8_variant(folder, largest=largest)
    ran = runners.run(place, variant, a_profile(), rows, folder / str(largest))
    exact = int8_answers(np.asarray(rows.inputs["image"], np.float32), largest=largest)
    given = np.asarray(ran.outputs["scores"], np.float32)
    return float(np.abs(given - exact).max() / np.abs(exact).max())
