"""A bundle's golden tensors, and whether what is loaded here holds to them.

They prove that this device runs the variant faithfully: most files that were altered still load
and run, and only their answers tell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wherry.blobs import check_digest
from wherry.errors import Malformed
from wherry.manifest import BadManifest, GoldenTensor, Manifest, tolerance_of
from wherry.names import Digest
from wherry_agent import frames
from wherry_agent.runtimes.base import DTYPES, Array
from wherry_agent.runtimes.variant import NotFinite, Variant


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
class GoldenSet:
    """The golden inputs and outputs in the signature's order."""

    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]

    @property
    def rows(self) -> int:
        return len(self.inputs[0])


def read_golden(blobs: Path, manifest: Manifest) -> GoldenSet:
    """Return the golden tensors; raise `WrongBytes`, `BadManifest` or OSError."""
    golden = manifest.golden
    return GoldenSet(
        tuple(_read(blobs, tensor) for tensor in golden.inputs),
        tuple(_read(blobs, tensor) for tensor in golden.outputs),
    )


def inputs_of(golden: GoldenSet, rows: int) -> list[Array]:
    """Return inputs of so many rows: the golden ones, over and over."""
    return [np.take(array, np.arange(rows), axis=0, mode="wrap") for array in golden.inputs]


def hold(variant: Variant, manifest: Manifest, golden: GoldenSet) -> Digest:
    """Run the golden inputs and return the sha256 of the outputs' bytes.

    Raises `GoldenMismatch`, `GoldenNotFinite`, or `RunFailed`.
    """
    try:
        outputs = variant.run(golden.inputs).outputs
    except NotFinite as error:
        raise GoldenNotFinite(error.output) from error
    for tensor, output, wanted in zip(
        manifest.signature.outputs, outputs, golden.outputs, strict=True
    ):
        tolerance = tolerance_of(manifest.golden, tensor.name)
        off = _distance(output, wanted)
        if not off <= tolerance:
            raise GoldenMismatch(tensor.name, off, tolerance)
    return _digest_of(outputs)


def _distance(output: Array, wanted: Array) -> float:
    if wanted.shape != output.shape:
        return float("inf")
    return float(np.abs(output.astype(np.float64) - wanted.astype(np.float64)).max())


def _digest_of(outputs: Sequence[Array]) -> Digest:
    digest = hashlib.sha256()
    for output in outputs:
        digest.update(output.tobytes())
    return Digest(digest.hexdigest())


def _read(blobs: Path, tensor: GoldenTensor) -> Array:
    data = check_digest((blobs / tensor.blob.digest).read_bytes(), tensor.blob.digest)
    if len(data) != frames.size_bytes(tensor.datatype, tensor.shape):
        raise BadManifest(f"the golden tensor {tensor.name!r} has {len(data)} bytes")
    return np.frombuffer(data, DTYPES[tensor.datatype]).reshape(tensor.shape)
