"""Tests that ARM processors give this machine's answers; `make test-arm` runs them by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.builders import a_profile
from tests.controller.builder.running.nets import (
    LITE_WEIGHTS,
    WIDE,
    a_conv_variant,
    a_dense_variant,
    a_lite_variant,
    an_int8_variant,
    int8_answers,
)
from wherry.profile import Arch, Runtime
from wherry_controller.builder.data.rows import Array, Rows, write_rows
from wherry_controller.builder.running.environments import installed_version
from wherry_controller.builder.running.place import Place, this_arch
from wherry_controller.builder.running.roots import make_root
from wherry_controller.builder.running.runners import Runners
from wherry_controller.builder.variant import Variant

RUNTIMES = Path(__file__).parents[2] / "build" / "runtimes"
CORES = ("cortex-a53", "cortex-a72", "cortex-a76")
ONNXRUNTIME = installed_version(Runtime.ONNXRUNTIME) or ""
HERE = Place(Runtime.ONNXRUNTIME, ONNXRUNTIME, this_arch())
# Of the largest answer; what golden outputs of fp32 are held to.
FLOAT_TOLERANCE = 5e-6
HALF_STEPS = 1.5 * 4 / 128


@pytest.fixture(scope="module")
def runners() -> Iterator[Runners]:
    for arch in (Arch.AARCH64, Arch.ARMV7L):
        make_root(arch, RUNTIMES)
    with Runners(RUNTIMES) as started:
        yield started


@pytest.fixture(params=CORES)
def core(request: pytest.FixtureRequest) -> Place:
    return Place(Runtime.ONNXRUNTIME, ONNXRUNTIME, Arch.AARCH64, str(request.param))


def a_random(*shape: int) -> Array:
    return np.random.default_rng(7).random(shape, np.float32)


def answers(
    runners: Runners, place: Place, variant: Variant, rows: Rows, folder: Path
) -> npt.NDArray[np.float32]:
    name = f"{place.runtime.value}-{place.cpu}"
    ran = runners.run(place, variant, a_profile(runtime=place.runtime), rows, folder / name)
    return np.asarray(ran.outputs["scores"], np.float32)


def stray(given: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> float:
    return float(np.abs(given - wanted).max() / np.abs(wanted).max())


def test_float_layers_answer_as_here(runners: Runners, core: Place, tmp_path: Path) -> None:
    image = a_random(8, 256)
    rows, variant = write_rows(tmp_path, {"image": image}, {}), a_dense_variant(tmp_path, width=256)
    here = answers(runners, HERE, variant, rows, tmp_path)
    assert stray(answers(runners, core, variant, rows, tmp_path), here) < FLOAT_TOLERANCE


def test_convolutions_answer_as_here(runners: Runners, core: Place, tmp_path: Path) -> None:
    image = a_random(4, 3, 16, 16)
    rows, variant = write_rows(tmp_path, {"image": image}, {}), a_conv_variant(tmp_path)
    here = answers(runners, HERE, variant, rows, tmp_path)
    assert stray(answers(runners, core, variant, rows, tmp_path), here) < FLOAT_TOLERANCE


def test_int8_is_exact_with_the_whole_range(runners: Runners, core: Place, tmp_path: Path) -> None:
    image = 1 + np.asarray(a_random(8, WIDE), np.float32)
    rows, variant = (
        write_rows(tmp_path, {"image": image}, {}),
        an_int8_variant(tmp_path, largest=127),
    )
    exact = int8_answers(image, largest=127)
    assert stray(answers(runners, core, variant, rows, tmp_path), exact) < 1e-6


@pytest.mark.parametrize(
    "place",
    [
        Place(Runtime.LITERT, installed_version(Runtime.LITERT) or "", Arch.AARCH64, "cortex-a53"),
        Place(Runtime.TFLITE, "2.14.0", Arch.AARCH64, "cortex-a53"),
        Place(Runtime.TFLITE, "2.14.0", Arch.ARMV7L, "cortex-a7"),
    ],
    ids=lambda place: f"{place.runtime.value} on {place.cpu}",
)
def test_litert_of_any_age_answers_within_a_step(
    runners: Runners, place: Place, tmp_path: Path
) -> None:
    image = a_random(5, 2, 2)
    rows, variant = write_rows(tmp_path, {"image": image}, {}), a_lite_variant(tmp_path, batch=2)
    wanted = np.asarray(image, np.float32).reshape(5, 4) @ LITE_WEIGHTS
    given = answers(runners, place, variant, rows, tmp_path)
    assert np.allclose(given, wanted, rtol=0, atol=HALF_STEPS)
