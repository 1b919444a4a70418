"""A bundle brought up on this device: checked, loaded, warmed up, held to its golden outputs.

    the model's digest -> load -> warm up -> golden check -> Loaded, with what it showed

It runs in a worker's loading thread, or inline. What is refused is refused before a request
reaches it, and `reason_of` says by which word.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wherry.blobs import Blob, WrongBytes, check_digest
from wherry.errors import Malformed
from wherry.manifest import (
    MODEL_FILE,
    BadManifest,
    GoldenTensor,
    Manifest,
    open_manifest,
    tolerance_of,
)
from wherry.measures import TrialFigures
from wherry.names import Digest
from wherry.reasons import Reason
from wherry_agent import frames, measuring, runtimes
from wherry_agent.asking import Bringing, Proof
from wherry_agent.runtimes.base import DTYPES, Array, BadModel, MissingRuntime, RunFailed
from wherry_agent.runtimes.variant import NotFinite, Variant

WARM_UP_RUNS = 10
READ_BYTES = 1 << 18


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
    """A bundle that may answer; `base_bytes` is the process's memory before it was loaded."""

    variant: Variant
    manifest: Manifest
    proof: Proof
    base_bytes: int


def read_manifest(place: Place) -> Manifest:
    """Return the bundle's manifest; raise `WrongBytes` where the file holds another one."""
    return open_manifest(place.manifest.read_bytes(), place.bundle)


def bring_up(place: Place, manifest: Manifest, bringing: Bringing) -> Loaded:
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
        outputs = _try_out(variant, place, manifest)
    except NotFinite as error:
        raise GoldenNotFinite(error.output) from error
    except RunFailed as error:
        raise BadModel(error.problem) from error
    return Loaded(variant, manifest, _proof_of(outputs, installed.version, load_ms), base_bytes)


def measure(loaded: Loaded, place: Place, bounds: measuring.Bounds) -> TrialFigures:
    """Measure a bundle on its golden inputs, row by row, within `bounds`."""
    inputs = [_golden(place, tensor) for tensor in loaded.manifest.golden.inputs]
    rows = [[array[row : row + 1] for array in inputs] for row in range(len(inputs[0]))]
    taken_ns = measuring.run_rows(
        lambda number: loaded.variant.run(rows[number % len(rows)]).compute_ns,
        bounds,
        measuring.Clock(),
    )
    return measuring.figures_of(
        taken_ns,
        runtime_version=loaded.proof.runtime_version,
        load_ms=loaded.proof.load_ms,
        base_bytes=loaded.base_bytes,
    )


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


def _try_out(variant: Variant, place: Place, manifest: Manifest) -> list[Array]:
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
    return outputs


def _proof_of(outputs: list[Array], runtime_version: str, load_ms: float) -> Proof:
    digest = hashlib.sha256()
    for output in outputs:
        digest.update(output.tobytes())
    return Proof(
        runtime_version=runtime_version,
        outputs=Digest(digest.hexdigest()),
        load_ms=load_ms,
        memory_bytes=measuring.memory_bytes("RssAnon"),
        peak_bytes=measuring.memory_bytes("VmHWM"),
    )
