"""What a worker answers, and how it comes up by itself."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.agent.bundles import (
    a_bundle,
    a_litert_bundle,
    images,
    logits_of,
    write_bundle,
)
from wherry.bundle import Bundle
from wherry.names import Digest
from wherry.signature import Datatype
from wherry_agent import frames, worker
from wherry_agent.asking import Bringing, Proof
from wherry_agent.bringup import Loaded, Place, bring_up
from wherry_agent.runtimes.base import Array, RunFailed
from wherry_agent.runtimes.variant import Variant

IMAGE = frames.Tensor("image", Datatype.FP32, (2, 2, 2), images(2).tobytes())
PROOF = Proof("1", Digest("0" * 64), 0.0, 0, 0)
REQUEST = frames.Infer(7, frames.heads_of([IMAGE]))


class Failing:
    def run(self, inputs: Sequence[Array]) -> list[Array]:
        raise RunFailed("it is out of memory")


def a_place(bundle: Bundle, folder: Path) -> Place:
    manifest, blobs = write_bundle(bundle, folder)
    return Place(bundle.digest, manifest, blobs)


def read(frame: bytes) -> tuple[frames.Head, bytes]:
    ((head, body),) = frames.Reader().feed(frame)
    return head, body


@pytest.mark.system
@pytest.mark.parametrize("bundle", [a_bundle(), a_litert_bundle()], ids=["onnx", "litert"])
def test_a_loaded_bundle_answers_in_the_signatures_terms(tmp_path: Path, bundle: Bundle) -> None:
    loaded = bring_up(a_place(bundle, tmp_path), bundle.manifest, Bringing())
    head, body = read(worker.answer(loaded, REQUEST, bytes(IMAGE.data)))
    assert isinstance(head, frames.Answered)
    assert head.number == 7
    assert head.compute_ns > 0
    (logits,) = frames.tensors_of(head.tensors, body)
    assert (logits.name, logits.shape) == ("logits", (2, 4))
    values = np.frombuffer(logits.data, np.float32).reshape(2, 4)
    assert np.abs(values - logits_of(images(2))).max() <= bundle.manifest.golden.tolerance


def test_a_run_that_breaks_off_is_refused_and_the_worker_goes_on() -> None:
    manifest = a_bundle().manifest
    loaded = Loaded(Variant(Failing(), manifest), manifest, PROOF, 0)
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
