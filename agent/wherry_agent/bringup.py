"""A bundle brought up on this device: checked, loaded, held to its golden outputs, warm.

    the model's digest -> load -> golden check -> warm up -> Loaded, with what it showed

It runs in a worker's loading thread, which binds its process first (`bring_up_alone`), or inline.
What is refused is refused before a request reaches it, and `reason_of` says by which word.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wherry.blobs import Blob, WrongBytes
from wherry.errors import Unsuitable
from wherry.manifest import MODEL_FILE, Manifest, open_manifest
from wherry.measures import TrialFigures
from wherry.names import Digest
from wherry.reasons import Reason
from wherry_agent import host, limits, measuring, runtimes
from wherry_agent.asking import Bringing, Proof
from wherry_agent.golden import (
    GoldenMismatch,
    GoldenNotFinite,
    GoldenSet,
    hold,
    inputs_of,
    read_golden,
)
from wherry_agent.runtimes import optimized
from wherry_agent.runtimes.base import BadModel, MissingRuntime, RunFailed
from wherry_agent.runtimes.variant import NotFinite, Variant

READ_BYTES = 1 << 18
WARM_UP_RUNS = 10  # Of each batch size.
WARM_UP_SHARE = 0.2  # Of the time to load; when it is over each size that must be has run once.
WARM_UP_BYTES = 16 << 20  # Larger batches are left cold once they took so much more memory.
MODEL_COPIES = 6  # A file of 50 MB took 114 MB to load, and may be rewritten while it is optimised.
ROOM_BYTES = 512 << 20  # For activations; what a model truly needs is for its profile to say.
CPU_SHARE = 0.5  # Of the time to load, for each thread.

# How runtimes say that they got no memory; they have no error of its own for it.
_NO_MEMORY = ("bad_alloc", "Failed to allocate memory", "failed to allocate", "Unable to allocate")


class OverMemory(Unsuitable):
    """A bundle that needs more memory than it may take on this device."""

    def __init__(self, memory_bytes: int, problem: str) -> None:
        super().__init__(memory_bytes, problem)
        self.memory_bytes, self.problem = memory_bytes, problem

    def __str__(self) -> str:
        return (
            f"the bundle needs more than the {self.memory_bytes >> 20} MiB that it may take: free "
            "memory on the device, raise memory_bytes in its profile, or build a smaller variant "
            f"({self.problem})."
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


def bring_up_alone(place: Place, bringing: Bringing) -> Loaded:
    """Bring up the bundle at `place` in this process of its own, which is bound first.

    Raises what `bring_up` raises, `OverMemory` and `MissingCores`.
    """
    manifest = read_manifest(place)
    limits.pin(manifest.profile.affinity)
    runtimes.find(manifest.profile)  # Imported before memory is bound: it is no model's.
    bounds = bounds_of(manifest, bringing, available_bytes=host.memory_available_bytes())
    try:
        with limits.loading(bounds):
            return bring_up(place, manifest, bringing)
    except (BadModel, MemoryError) as error:
        if not lacks_memory(error):
            raise
        raise OverMemory(bounds.memory_bytes, str(error)) from error


def bring_up(place: Place, manifest: Manifest, bringing: Bringing) -> Loaded:
    """Bring up the bundle at `place` and check it, in whatever process this is.

    What was made of the model earlier and does not hold is not its fault: the original decides.
    Raises `MissingRuntime`, `BadModel`, `WrongBytes`, `GoldenMismatch`, `GoldenNotFinite`, or
    another of the four refusals, or OSError where a file cannot be read.
    """
    try:
        return _bring_up(place, manifest, bringing, bringing.optimized_folder)
    except (BadModel, GoldenMismatch, GoldenNotFinite):
        folder, model = bringing.optimized_folder, manifest.files[MODEL_FILE].digest
        if folder is None or not optimized.forget(folder, model):
            raise
        return _bring_up(place, manifest, bringing, None)


def _bring_up(place: Place, manifest: Manifest, bringing: Bringing, kept_in: Path | None) -> Loaded:
    installed = runtimes.find(manifest.profile)
    path = place.blobs / manifest.files[MODEL_FILE].digest
    _check_file(path, manifest.files[MODEL_FILE])
    golden = read_golden(place.blobs, manifest)
    base_bytes, began_s = measuring.memory_bytes("VmRSS"), time.perf_counter()
    model = installed.load(path, manifest, kept_in)
    load_ms = 1e3 * (time.perf_counter() - began_s)
    limits.let_go_of_code()
    variant = Variant(model, manifest)
    try:
        outputs = hold(variant, manifest, golden)
        warm_up_as(bringing, variant, manifest, golden)
    except RunFailed as error:
        raise BadModel(error.problem) from error
    except NotFinite as error:
        raise GoldenNotFinite(error.output) from error
    proof = _proof_of(outputs, installed.version, load_ms)
    return Loaded(variant, manifest, proof, base_bytes)


def bounds_of(
    manifest: Manifest, bringing: Bringing, *, available_bytes: int | None
) -> limits.LoadBounds:
    """Return what loading the bundle may take: by its profile, or by its size.

    Never more memory than is to be had: what is swapped out or killed serves nobody.
    """
    profile, size_bytes = manifest.profile, manifest.files[MODEL_FILE].size_bytes
    guess_bytes = MODEL_COPIES * size_bytes + ROOM_BYTES
    wanted_bytes = profile.memory_bytes or guess_bytes
    return limits.LoadBounds(
        memory_bytes=min(wanted_bytes, available_bytes or wanted_bytes),
        cpu_s=CPU_SHARE * bringing.load_timeout_s * profile.threads,
        threads=profile.threads,
        niceness=bringing.niceness,
    )


def warm_up_as(bringing: Bringing, variant: Variant, manifest: Manifest, golden: GoldenSet) -> None:
    """Warm up wholly, or by one run what was up before and is waited for."""
    if bringing.is_proved:
        variant.run(inputs_of(golden, 1))
    else:
        warm_up(variant, manifest, golden, within_s=WARM_UP_SHARE * bringing.load_timeout_s)


def warm_up(variant: Variant, manifest: Manifest, golden: GoldenSet, *, within_s: float) -> None:
    """Run the golden inputs at each batch size, `WARM_UP_RUNS` times each while there is time."""
    ends_s = time.monotonic() + within_s
    base_bytes = measuring.memory_bytes("RssAnon")
    for size in batch_sizes(manifest, golden.rows):
        is_wanted = size in (1, golden.rows)
        grown_bytes = measuring.memory_bytes("RssAnon") - base_bytes
        if not is_wanted and (time.monotonic() >= ends_s or grown_bytes > WARM_UP_BYTES):
            return
        inputs = inputs_of(golden, size)
        for run in range(WARM_UP_RUNS):
            if run and time.monotonic() >= ends_s:
                break
            variant.run(inputs)


def batch_sizes(manifest: Manifest, golden_rows: int) -> Iterator[int]:
    """Yield one row, the golden batch, and the powers of two that one run may have.

    A variant of a fixed batch is always run with that one, so it has no others.
    """
    yield 1
    if golden_rows > 1:
        yield golden_rows
    if manifest.static_batch is not None:
        return
    largest = min(manifest.profile.max_batch, manifest.signature.max_batch)
    size = 2
    while size < largest:
        if size != golden_rows:
            yield size
        size *= 2
    if largest not in (1, golden_rows):
        yield largest


def measure(loaded: Loaded, place: Place, bounds: measuring.Bounds) -> TrialFigures:
    """Measure a bundle on its golden inputs, row by row, within `bounds`."""
    golden = read_golden(place.blobs, loaded.manifest)
    rows = [[array[row : row + 1] for array in golden.inputs] for row in range(golden.rows)]
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
        case OverMemory():
            return Reason.OVER_MEMORY
        case WrongBytes():
            return Reason.WRONG_BYTES
        case _:
            return Reason.LOAD_FAILED


def lacks_memory(error: Exception) -> bool:
    """Say whether a runtime broke off because it got no memory."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)


def _check_file(path: Path, blob: Blob) -> None:
    """Raise `WrongBytes` where the file does not hold the blob, without holding it in memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(READ_BYTES):
            digest.update(part)
    if digest.hexdigest() != blob.digest:
        raise WrongBytes(blob.digest, digest.hexdigest())


def _proof_of(outputs: Digest, runtime_version: str, load_ms: float) -> Proof:
    """Return what the bundle showed, once what loading left behind was given back."""
    limits.give_back()
    return Proof(
        runtime_version=runtime_version,
        outputs=outputs,
        load_ms=load_ms,
        memory_bytes=measuring.memory_bytes("RssAnon"),
        peak_bytes=measuring.memory_bytes("VmHWM"),
    )
