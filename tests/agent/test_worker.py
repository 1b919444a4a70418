"""What a worker answers, and how it comes up by itself."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec.structs import replace

from tests.agent.bundles import (
    a_bundle,
    a_litert_bundle,
    an_onnx_model,
    images,
    logits_of,
    write_bundle,
)
from wherry.blobs import WrongBytes
from wherry.bundle import Bundle
from wherry.manifest import BadManifest
from wherry.reasons import Reason
from wherry.signature import Datatype
from wherry_agent import frames, worker
from wherry_agent.runtimes.base import Array, BadModel, MissingRuntime, RunFailed
from wherry_agent.runtimes.variant import Variant

IMAGE = frames.Tensor("image", Datatype.FP32, (2, 2, 2), images(2).tobytes())
REQUEST = frames.Infer(7, frames.heads_of([IMAGE]))


class Failing:
    def run(self, inputs: Sequence[Array]) -> list[Array]:
        raise RunFailed("it is out of memory")


def a_place(bundle: Bundle, folder: Path) -> worker.Place:
    manifest, blobs = write_bundle(bundle, folder)
    return worker.Place(bundle.digest, manifest, blobs)


def read(frame: bytes) -> tuple[frames.Head, bytes]:
    ((head, body),) = frames.Reader().feed(frame)
    return head, body


@pytest.mark.system
@pytest.mark.parametrize("bundle", [a_bundle(), a_litert_bundle()], ids=["onnx", "litert"])
def test_a_loaded_bundle_answers_in_the_signatures_terms(tmp_path: Path, bundle: Bundle) -> None:
    loaded = worker.load(a_place(bundle, tmp_path), bundle.manifest)
    head, body = read(worker.answer(loaded, REQUEST, bytes(IMAGE.data)))
    assert isinstance(head, frames.Answered)
    assert head.number == 7
    assert head.compute_ns > 0
    (logits,) = frames.tensors_of(head.tensors, body)
    assert (logits.name, logits.shape) == ("logits", (2, 4))
    values = np.frombuffer(logits.data, np.float32).reshape(2, 4)
    assert np.abs(values - logits_of(images(2))).max() <= bundle.manifest.golden.tolerance


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
    refused = pytest.raises(worker.GoldenMismatch, match=r"0\.01 is allowed")
    with nullcontext() if faithful else refused:
        worker.load(a_place(bundle, tmp_path), manifest)


@pytest.mark.system
def test_a_model_that_cannot_run_its_golden_inputs_is_to_be_built_again(tmp_path: Path) -> None:
    model = onnx.load_from_string(an_onnx_model())
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    bundle = a_bundle(model=model.SerializeToString())
    with pytest.raises(BadModel, match=r"build the bundle again\.$"):
        worker.load(a_place(bundle, tmp_path), bundle.manifest)


def test_a_run_that_breaks_off_is_refused_and_the_worker_goes_on() -> None:
    manifest = a_bundle().manifest
    loaded = worker.Loaded(Variant(Failing(), manifest), manifest, "1")
    head, _ = read(worker.answer(loaded, REQUEST, bytes(IMAGE.data)))
    assert isinstance(head, frames.Refused)
    assert (head.number, head.fault) == (7, frames.Fault.RUNTIME_FAILED)
    assert "it is out of memory" in head.detail


@pytest.mark.system
def test_a_worker_says_that_it_is_ready_and_ends_with_its_stream(tmp_path: Path) -> None:
    place = a_place(a_bundle(), tmp_path)
    ours, theirs = socket.socketpair()
    command = [
        *(sys.executable, "-m", "wherry_agent.worker", "--bundle", place.bundle),
        *("--manifest", str(place.manifest), "--blobs", str(place.blobs)),
        *("--socket", str(theirs.fileno())),
    ]
    with subprocess.Popen(command, pass_fds=[theirs.fileno()]) as process, ours:
        theirs.close()
        ours.settimeout(30)
        head, _ = read(ours.recv(1 << 16))
        assert isinstance(head, frames.Ready)
        ours.close()
        assert process.wait(timeout=30) == 0


@pytest.mark.system
def test_a_manifest_that_was_altered_is_not_read(tmp_path: Path) -> None:
    place = a_place(a_bundle(), tmp_path)
    place.manifest.write_bytes(place.manifest.read_bytes().replace(b'"v1"', b'"v2"'))
    with pytest.raises(WrongBytes):
        worker.read_manifest(place)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MissingRuntime("a", "b"), Reason.MISSING_RUNTIME),
        (worker.GoldenMismatch("y", 1.0, 0.5), Reason.GOLDEN_MISMATCH),
        (worker.GoldenNotFinite("y"), Reason.NOT_FINITE),
        (WrongBytes("a", "b"), Reason.WRONG_BYTES),
        (BadModel("it is none"), Reason.LOAD_FAILED),
        (BadManifest("it is none"), Reason.LOAD_FAILED),
        (OSError("gone"), Reason.LOAD_FAILED),
    ],
)
def test_every_refusal_to_load_has_its_reason(error: Exception, reason: Reason) -> None:
    assert worker.reason_of(error) is reason
