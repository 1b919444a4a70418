"""What brings a bundle up, and what is refused by which word."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec.structs import replace

from tests.agent.bundles import (
    KEY,
    a_bundle,
    a_litert_bundle,
    a_profile,
    an_onnx_model,
    images,
    logits_of,
    write_bundle,
)
from tests.hostile import models
from wherry.blobs import WrongBytes
from wherry.bundle import Bundle, seal
from wherry.manifest import BadManifest, Manifest
from wherry.reasons import Reason
from wherry_agent import bringup, limits
from wherry_agent.asking import Bringing, encode_bringing
from wherry_agent.bringup import OverMemory, bring_up
from wherry_agent.golden import GoldenMismatch, GoldenNotFinite, GoldenSet
from wherry_agent.runtimes.base import Array, BadModel, MissingRuntime, RunFailed
from wherry_agent.runtimes.variant import Variant


def a_place(bundle: Bundle, folder: Path) -> bringup.Place:
    manifest, blobs = write_bundle(bundle, folder)
    return bringup.Place(bundle.digest, manifest, blobs)


@pytest.mark.system
@pytest.mark.parametrize(
    ("widest", "own", "faithful"),
    [(0.1, {}, True), (0.1, {"logits": 0.01}, False), (0.01, {"logits": 0.1}, True)],
)
def test_an_output_is_held_to_its_own_tolerance_where_it_has_one(
    tmp_path: Path, widest: float, own: dict[str, float], faithful: bool
) -> None:
    bundle = a_bundle(golden_error=0.05)
    golden = replace(bundle.manifest.golden, tolerance=widest, tolerances=own)
    manifest = replace(bundle.manifest, golden=golden)
    refused = pytest.raises(GoldenMismatch, match=r"0\.01 is allowed")
    with nullcontext() if faithful else refused:
        bring_up(a_place(bundle, tmp_path), manifest, Bringing())


@pytest.mark.system
def test_a_model_that_cannot_run_its_golden_inputs_is_to_be_built_again(tmp_path: Path) -> None:
    model = onnx.load_from_string(an_onnx_model())
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    bundle = a_bundle(model=model.SerializeToString())
    with pytest.raises(BadModel, match=r"build the bundle again\.$"):
        bring_up(a_place(bundle, tmp_path), bundle.manifest, Bringing())


@pytest.mark.system
def test_a_manifest_that_was_altered_is_not_read(tmp_path: Path) -> None:
    place = a_place(a_bundle(), tmp_path)
    place.manifest.write_bytes(place.manifest.read_bytes().replace(b'"v1"', b'"v2"'))
    with pytest.raises(WrongBytes):
        bringup.read_manifest(place)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MissingRuntime("a", "b"), Reason.MISSING_RUNTIME),
        (GoldenMismatch("y", 1.0, 0.5), Reason.GOLDEN_MISMATCH),
        (GoldenNotFinite("y"), Reason.NOT_FINITE),
        (OverMemory(1 << 20, "bad_alloc"), Reason.OVER_MEMORY),
        (limits.MissingCores((1,), (0,)), Reason.LOAD_FAILED),
        (WrongBytes("a", "b"), Reason.WRONG_BYTES),
        (BadModel("it is none"), Reason.LOAD_FAILED),
        (BadManifest("it is none"), Reason.LOAD_FAILED),
        (OSError("gone"), Reason.LOAD_FAILED),
    ],
)
def test_every_refusal_to_load_has_its_reason(error: Exception, reason: Reason) -> None:
    assert bringup.reason_of(error) is reason


@dataclass
class Counting:
    """A model that answers zeros, and counts its runs by their rows."""

    runs: Counter[int] = field(default_factory=Counter)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        self.runs[len(inputs[0])] += 1
        return [np.zeros((len(inputs[0]), 4), np.float32)]


def with_batches(*, runtime: int, signature: int, static: int | None = None) -> Manifest:
    manifest = a_bundle(profile=replace(a_profile(), max_batch=runtime)).manifest
    signed = replace(manifest.signature, max_batch=signature)
    return replace(manifest, signature=signed, static_batch=static)


@pytest.mark.parametrize(
    ("manifest", "sizes"),
    [
        (with_batches(runtime=16, signature=64), [1, 5, 2, 4, 8, 16]),
        (with_batches(runtime=64, signature=12), [1, 5, 2, 4, 8, 12]),
        (with_batches(runtime=64, signature=1), [1, 5]),
        (with_batches(runtime=64, signature=64, static=2), [1, 5]),
    ],
)
def test_batches_are_of_one_row_of_the_golden_rows_and_of_powers_of_two(
    manifest: Manifest, sizes: list[int]
) -> None:
    assert list(bringup.batch_sizes(manifest, 5)) == sizes


def test_a_variant_is_warmed_up_ten_times_at_each_batch_size() -> None:
    manifest, model = with_batches(runtime=16, signature=16), Counting()
    golden = GoldenSet((images(5),), (logits_of(images(5)),))
    bringup.warm_up(Variant(model, manifest), manifest, golden, within_s=30.0)
    assert model.runs == dict.fromkeys((1, 2, 4, 5, 8, 16), bringup.WARM_UP_RUNS)


def test_what_was_up_before_is_warm_after_one_run() -> None:
    manifest, model = with_batches(runtime=16, signature=16), Counting()
    golden = GoldenSet((images(5),), (logits_of(images(5)),))
    bringup.warm_up_as(Bringing(is_proved=True), Variant(model, manifest), manifest, golden)
    assert model.runs == {1: 1}


def test_a_slow_variant_runs_once_where_it_must_when_the_time_is_over() -> None:
    manifest, model = with_batches(runtime=16, signature=16), Counting()
    golden = GoldenSet((images(5),), (logits_of(images(5)),))
    bringup.warm_up(Variant(model, manifest), manifest, golden, within_s=0.0)
    assert model.runs == {1: 1, 5: 1}


@dataclass
class Keeping(Counting):
    """A model that keeps memory for each batch, as runtimes with arenas do."""

    kept: list[bytes] = field(default_factory=list)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        self.kept.append(b"x" * (len(inputs[0]) << 20))
        return super().run(inputs)


def test_larger_batches_stay_cold_where_they_would_make_the_worker_much_larger() -> None:
    manifest, model = with_batches(runtime=1024, signature=1024), Keeping()
    golden = GoldenSet((images(5),), (logits_of(images(5)),))
    bringup.warm_up(Variant(model, manifest), manifest, golden, within_s=30.0)
    assert set(model.runs) == {1, 5}


@pytest.mark.parametrize(
    ("profile_bytes", "available_bytes", "bound_bytes"),
    [
        (None, None, 6 * 1000 + (512 << 20)),
        (200 << 20, None, 200 << 20),
        (200 << 20, 50 << 20, 50 << 20),
        (None, 50 << 20, 50 << 20),
    ],
)
def test_memory_is_bound_by_profile_or_by_size_and_by_what_is_there(
    profile_bytes: int | None,
    available_bytes: int | None,
    bound_bytes: int,
) -> None:
    manifest = a_bundle(profile=replace(a_profile(), memory_bytes=profile_bytes)).manifest
    model = replace(manifest.files["model"], size_bytes=1000)
    manifest = replace(manifest, files={"model": model})
    bounds = bringup.bounds_of(manifest, Bringing(), available_bytes=available_bytes)
    assert bounds.memory_bytes == bound_bytes


def test_processor_time_is_bound_by_the_time_to_load_for_each_thread() -> None:
    manifest = a_bundle(profile=a_profile(threads=3)).manifest
    bringing = Bringing(load_timeout_s=10.0, niceness=15)
    bounds = bringup.bounds_of(manifest, bringing, available_bytes=None)
    assert (bounds.cpu_s, bounds.threads) == (15.0, 3)
    assert bounds.niceness == 15


@pytest.mark.parametrize(
    ("error", "lacks"),
    [
        (MemoryError(), True),
        (BadModel("std::bad_alloc"), True),
        (BadModel("bfc_arena.cc:360 Failed to allocate memory for requested buffer"), True),
        (RunFailed("Unable to allocate 9.3 GiB for an array"), True),
        (BadModel("no such operator"), False),
    ],
)
def test_what_lacks_memory_is_told_from_what_is_broken(error: Exception, lacks: bool) -> None:
    assert bringup.lacks_memory(error) is lacks


@pytest.mark.system
@pytest.mark.parametrize("bundle", [a_bundle(), a_litert_bundle()], ids=["onnx", "litert"])
def test_what_was_shown_stands_in_the_proof(tmp_path: Path, bundle: Bundle) -> None:
    loaded = bring_up(a_place(bundle, tmp_path), bundle.manifest, Bringing())
    answer = loaded.variant.run([images(5)]).outputs[0]
    assert loaded.proof.outputs == hashlib.sha256(answer.tobytes()).hexdigest()
    assert loaded.proof.runtime_version
    assert 0 < loaded.proof.memory_bytes <= loaded.proof.peak_bytes
    assert loaded.proof.load_ms > 0


# In a process of its own

CHILD = """
import sys
from pathlib import Path
from wherry.errors import REFUSALS
from wherry_agent import bringup, limits
from wherry_agent.asking import decode_bringing

digest, manifest, blobs, bringing = sys.argv[1:]
limits.enclose()
place = bringup.Place(digest, Path(manifest), Path(blobs))
try:
    loaded = bringup.bring_up_alone(place, decode_bringing(bringing.encode()))
except REFUSALS as error:
    print(bringup.reason_of(error).value, error)
else:
    print("loaded", loaded.proof.outputs)
"""


def told_by_a_child(
    bundle: Bundle, folder: Path, bringing: Bringing | None = None
) -> tuple[str, int]:
    """Have a process bring `bundle` up; return what it said of it, and how it ended."""
    place = a_place(bundle, folder)
    how = encode_bringing(bringing or Bringing()).decode()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, place.bundle, str(place.manifest), str(place.blobs), how],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout, done.returncode


@pytest.mark.system
def test_a_process_of_its_own_shows_what_this_one_shows(tmp_path: Path) -> None:
    bundle = a_bundle()
    here = bring_up(a_place(bundle, tmp_path), bundle.manifest, Bringing())
    assert told_by_a_child(bundle, tmp_path) == (f"loaded {here.proof.outputs}\n", 0)


@pytest.mark.system
@pytest.mark.parametrize("model", [models.memory_bomb(), models.growing_bomb()])
def test_a_memory_bomb_is_refused_by_its_memory(tmp_path: Path, model: bytes) -> None:
    told, _ = told_by_a_child(a_bundle(model=model), tmp_path)
    assert told.startswith("over_memory the bundle needs more than the ")
    assert "free memory on the device" in told


@pytest.mark.system
def test_a_model_that_never_ends_is_ended_by_its_processor_time(tmp_path: Path) -> None:
    bundle = a_bundle(model=models.endless_loop())
    told = told_by_a_child(bundle, tmp_path, Bringing(load_timeout_s=0.4))
    assert told == ("", -signal.SIGXCPU)


@pytest.mark.system
def test_a_profile_that_wants_other_cores_is_refused(tmp_path: Path) -> None:
    bundle = a_bundle(profile=replace(a_profile(), affinity=(4095,)))
    told, _ = told_by_a_child(bundle, tmp_path)
    assert told.startswith("load_failed the profile pins models to the cores 4095")


@pytest.mark.system
def test_a_bundle_is_read_by_its_own_name_only(tmp_path: Path) -> None:
    bundle = a_bundle()
    other = seal(replace(bundle.manifest, labels=("a",)), bundle.blobs, KEY)
    place = a_place(bundle, tmp_path)
    place.manifest.write_bytes(other.envelope)
    assert json.loads(other.envelope)["signed"]["labels"] == ["a"]
    with pytest.raises(WrongBytes):
        bringup.read_manifest(place)
