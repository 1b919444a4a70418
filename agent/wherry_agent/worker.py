"""The process that runs one bundle: `python -m wherry_agent.worker`, started by the engine.

    check the model's digest, load, warm up, check the golden outputs: Ready, then answers;
    or Failed with a reason, then ends; with --trial: measure, Tried, then ends

It loads in a thread of low priority, so that loading does not disturb what serves, and answers
at the ordinary one. It ends when the engine's end of the socket closes, however that came, and
it has nothing to save: the engine may kill it at any time.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wherry import codec
from wherry.blobs import Blob, WrongBytes, check_digest
from wherry.errors import REFUSALS, Malformed
from wherry.manifest import (
    MODEL_FILE,
    BadManifest,
    GoldenTensor,
    Manifest,
    open_manifest,
    tolerance_of,
)
from wherry.measures import TrialFigures
from wherry.messages import detail
from wherry.names import Digest, parse_digest
from wherry.reasons import Reason
from wherry_agent import frames, measuring, runtimes
from wherry_agent.runtimes.base import DTYPES, Array, BadModel, MissingRuntime, RunFailed
from wherry_agent.runtimes.variant import NotFinite, Variant

LOADING_NICENESS = 10  # Never SCHED_IDLE: beside a busy process that took 20 s to load.
WARM_UP_RUNS = 10
READ_BYTES = 1 << 18
PR_SET_PDEATHSIG = 1


class GoldenMismatch(Malformed):
    """The bundle's golden inputs give other outputs on this device."""

    def __init__(self, output: str, off: float, tolerance: float) -> None:
        super().__init__(output, off, tolerance)
        self.output, self.off, self.tolerance = output, off, tolerance

    def __str__(self) -> str:
        return (
            f"the golden output {self.output!r} is off by {self.off:.3g}, {self.tolerance:.3g} is "
            "allowed: this device does not run the variant faithfully; build one for its profile."
        )


class GoldenNotFinite(Malformed):
    """The bundle's golden inputs give NaN or an infinity on this device."""

    def __init__(self, output: str) -> None:
        super().__init__(output)
        self.output = output

    def __str__(self) -> str:
        return (
            f"the golden output {self.output!r} is not finite: this device cannot run the "
            "variant; build one for its profile, and look for overflow in the net."
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bundle stands on this device."""

    bundle: Digest
    manifest: Path
    blobs: Path


@dataclass(frozen=True, slots=True)
class Loaded:
    """`load_ms` is the runtime's part; `base_bytes` the process's memory before it."""

    variant: Variant
    manifest: Manifest
    runtime_version: str
    load_ms: float = 0.0
    base_bytes: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m wherry_agent.worker")
    parser.add_argument("--bundle", type=parse_digest, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--blobs", type=Path, required=True)
    parser.add_argument("--socket", type=int, required=True, help="an inherited descriptor")
    parser.add_argument("--trial", type=_bounds, help="measure within these bounds, and end")
    asked = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The engine says when to end.
    _die_with_the_engine()
    with socket.socket(fileno=asked.socket) as link:
        place = Place(asked.bundle, asked.manifest, asked.blobs)
        return _try(link, place, asked.trial) if asked.trial else _work(link, place)


def read_manifest(place: Place) -> Manifest:
    """Return the bundle's manifest; raise `WrongBytes` where the file holds another one."""
    return open_manifest(place.manifest.read_bytes(), place.bundle)


def load(place: Place, manifest: Manifest) -> Loaded:
    """Bring up the bundle at `place` and check it.

    Raises `MissingRuntime`, `BadModel`, `WrongBytes`, `GoldenMismatch`, `GoldenNotFinite`, or
    another of the four refusals, or OSError where a file cannot be read.
    """
    installed = runtimes.find(manifest.profile)
    path = place.blobs / manifest.files[MODEL_FILE].digest
    _check_file(path, manifest.files[MODEL_FILE])
    base_bytes, began_s = measuring.memory_bytes("VmRSS"), time.perf_counter()
    model = installed.load(path, manifest)
    load_ms = 1e3 * (time.perf_counter() - began_s)
    variant = Variant(model, manifest)
    try:
        _try_out(variant, place, manifest)
    except NotFinite as error:
        raise GoldenNotFinite(error.output) from error
    except RunFailed as error:
        raise BadModel(error.problem) from error
    return Loaded(variant, manifest, installed.version, load_ms, base_bytes)


def reason_of(error: Exception) -> Reason:
    """Return the reason code for what kept a bundle from being loaded."""
    match error:
        case MissingRuntime():
            return Reason.MISSING_RUNTIME
        case GoldenMismatch():
            return Reason.GOLDEN_MISMATCH
        case GoldenNotFinite():
            return Reason.NOT_FINITE
        case WrongBytes():
            return Reason.WRONG_BYTES
        case _:
            return Reason.LOAD_FAILED


def answer(loaded: Loaded, request: frames.Infer, body: bytes) -> bytes:
    """Return the frame that answers a request."""
    arrays = {
        tensor.name: np.frombuffer(tensor.data, DTYPES[tensor.datatype]).reshape(tensor.shape)
        for tensor in frames.tensors_of(request.tensors, body)
    }
    signature = loaded.manifest.signature
    try:
        computed = loaded.variant.run([arrays[tensor.name] for tensor in signature.inputs])
    except NotFinite as error:
        return _refusal(request, frames.Fault.NOT_FINITE, error)
    except RunFailed as error:
        return _refusal(request, frames.Fault.RUNTIME_FAILED, error)
    tensors = [
        frames.Tensor(tensor.name, tensor.datatype, array.shape, array.tobytes())
        for tensor, array in zip(signature.outputs, computed.outputs, strict=True)
    ]
    head = frames.Answered(request.number, computed.compute_ns, frames.heads_of(tensors))
    return frames.encode(head, tensors)


def _bounds(text: str) -> measuring.Bounds:
    return codec.decode(measuring.Bounds, text.encode())


def _work(link: socket.socket, place: Place) -> int:
    loaded = _load_or_fail(link, place)
    if loaded is None:
        return 1
    try:
        link.sendall(frames.encode(frames.Ready(loaded.runtime_version)))
        _answer_all(link, loaded)
    except ConnectionError:
        return 0  # The engine ended; so does its worker.
    return 0


def _try(link: socket.socket, place: Place, bounds: measuring.Bounds) -> int:
    """Measure the bundle at `place` at a low priority, its golden inputs row by row."""
    os.setpriority(os.PRIO_PROCESS, 0, bounds.niceness)
    loaded = _load_or_fail(link, place)
    if loaded is None:
        return 1
    try:
        figures = _measure(loaded, place, bounds)
    except (*REFUSALS, OSError) as error:
        link.sendall(frames.encode(frames.Failed(reason_of(error), detail(str(error)))))
        return 1
    link.sendall(frames.encode(frames.Tried(figures)))
    return 0


def _measure(loaded: Loaded, place: Place, bounds: measuring.Bounds) -> TrialFigures:
    inputs = [_golden(place, tensor) for tensor in loaded.manifest.golden.inputs]
    rows = [[array[row : row + 1] for array in inputs] for row in range(len(inputs[0]))]
    taken_ns = measuring.run_rows(
        lambda number: loaded.variant.run(rows[number % len(rows)]).compute_ns,
        bounds,
        measuring.Clock(),
    )
    return measuring.figures_of(
        taken_ns,
        runtime_version=loaded.runtime_version,
        load_ms=loaded.load_ms,
        base_bytes=loaded.base_bytes,
    )


def _load_or_fail(link: socket.socket, place: Place) -> Loaded | None:
    """Return the bundle, loaded and checked; None once the engine was told why it is not."""
    try:
        return _load_apart(link, place).result()
    except (*REFUSALS, OSError) as error:
        link.sendall(frames.encode(frames.Failed(reason_of(error), detail(str(error)))))
        return None


def _answer_all(link: socket.socket, loaded: Loaded) -> None:
    reader = frames.Reader()
    while data := link.recv(READ_BYTES):
        for head, body in reader.feed(data):
            if not isinstance(head, frames.Infer):
                raise frames.BadFrame(f"the engine sent {type(head).__name__}")
            link.sendall(answer(loaded, head, body))


def _load_apart(link: socket.socket, place: Place) -> Future[Loaded]:
    """Load in a thread of its own; end the process if the engine ends meanwhile."""
    done, tell = os.pipe()
    executor = ThreadPoolExecutor(1, thread_name_prefix="load")
    loading = executor.submit(_load_gently, place)
    loading.add_done_callback(lambda _: os.close(tell))
    ready, _, _ = select.select([link.fileno(), done], [], [])
    if done not in ready:
        # The engine sends nothing before Ready: what there is to read is its end.
        os._exit(0)
    os.close(done)
    executor.shutdown()
    return loading


def _load_gently(place: Place) -> Loaded:
    manifest = read_manifest(place)
    if manifest.profile.threads == 1:
        # A runtime's own threads are made while it loads, and would keep the low priority.
        thread = threading.get_native_id()
        niceness = max(LOADING_NICENESS, os.getpriority(os.PRIO_PROCESS, thread))
        os.setpriority(os.PRIO_PROCESS, thread, niceness)
    return load(place, manifest)


def _check_file(path: Path, blob: Blob) -> None:
    """Raise `WrongBytes` where the file does not hold the blob, without holding it in memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(READ_BYTES):
            digest.update(part)
    if digest.hexdigest() != blob.digest:
        raise WrongBytes(blob.digest, digest.hexdigest())


def _golden(place: Place, tensor: GoldenTensor) -> Array:
    data = check_digest((place.blobs / tensor.blob.digest).read_bytes(), tensor.blob.digest)
    if len(data) != frames.size_bytes(tensor.datatype, tensor.shape):
        raise BadManifest(f"the golden tensor {tensor.name!r} has {len(data)} bytes")
    return np.frombuffer(data, DTYPES[tensor.datatype]).reshape(tensor.shape)


def _try_out(variant: Variant, place: Place, manifest: Manifest) -> None:
    """Warm the variant up on its golden inputs and hold its outputs to the golden ones."""
    inputs = [_golden(place, tensor) for tensor in manifest.golden.inputs]
    for _ in range(WARM_UP_RUNS):
        variant.run([array[:1] for array in inputs])
    outputs = variant.run(inputs).outputs
    for tensor, output in zip(manifest.golden.outputs, outputs, strict=True):
        golden, tolerance = _golden(place, tensor), tolerance_of(manifest.golden, tensor.name)
        if golden.shape != output.shape:
            raise GoldenMismatch(tensor.name, float("inf"), tolerance)
        off = float(np.abs(output.astype(np.float64) - golden.astype(np.float64)).max())
        if not off <= tolerance:
            raise GoldenMismatch(tensor.name, off, tolerance)


def _refusal(request: frames.Infer, fault: frames.Fault, error: Exception) -> bytes:
    return frames.encode(frames.Refused(request.number, fault, detail(str(error))))


def _die_with_the_engine() -> None:
    """Ask the kernel for SIGKILL when the engine ends while a model computes for ever."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
