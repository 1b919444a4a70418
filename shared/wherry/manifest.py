"""The manifest of a bundle: one variant of one version, described and bound to its signature.

The manifest maps what applications see (the version's signature) to what the runtime wants
inside (names, axis order, integer scale, one fixed batch), so that applications see the same
on every device. Blobs are named by digest; none of them is code.
"""

from __future__ import annotations

import math

import msgspec

from wherry import codec
from wherry.blobs import Blob, check_digest
from wherry.errors import Malformed
from wherry.names import Digest, ModelName, VersionName
from wherry.profile import Precision, Profile
from wherry.signature import SIZE_BYTES, BadSignature, Datatype, Signature, Tensor, batch_of

LARGEST_MANIFEST_BYTES = 512 * 1024
MODEL_FILE = "model"
REFERENCE_FILE = "reference"  # What inputs and outputs looked like, to see drift by.
ASSETS = "assets/"


class BadManifest(Malformed):
    """A manifest whose parts do not fit one another."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"the manifest does not hold together: {self.problem}; build the bundle again."


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """How one tensor of the signature stands in the runtime's model.

    Axis `i` of the runtime's tensor is axis `permutation[i]` of the signature's (empty: the same
    order). An integer tensor `q` with a `scale` stands for `(q - zero_point) * scale`.
    """

    name: str
    runtime_name: str
    datatype: Datatype
    permutation: tuple[int, ...] = ()
    scale: float | None = None
    zero_point: int = 0


class GoldenTensor(msgspec.Struct, frozen=True):
    """Raw little-endian values of one tensor of the signature, in row-major order."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    blob: Blob


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs and the variant's own outputs for them, made on the profile's runtime.

    They prove that a device runs the variant faithfully, not that the variant is good. An
    output may stray from its golden value by its entry in `tolerances` at most (absolute, in the
    output's unit), or by `tolerance` where it has none. `tolerance` is the widest of them: agents
    that know no other judge by it.
    """

    inputs: tuple[GoldenTensor, ...]
    outputs: tuple[GoldenTensor, ...]
    tolerance: float
    tolerances: dict[str, float] = {}

    def __post_init__(self) -> None:
        for tolerance in (self.tolerance, *self.tolerances.values()):
            if not 0 <= tolerance < math.inf:
                raise BadManifest(f"a golden tolerance of {tolerance} is no distance")
        strange = set(self.tolerances) - {tensor.name for tensor in self.outputs}
        if strange:
            raise BadManifest(f"{min(strange)!r} has a tolerance and is no golden output")


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the variant is worth on `samples` rows that nothing else was decided by.

    `value` and `reference_value` are the metric's, of the variant and of its version in float. The
    drop lies between `drop_low` and `drop_high` in 95 of 100 cases (a drop is a loss: it is
    positive where the variant is worse, whichever way the metric counts); `agreement` is the share
    of rows with the same answer, where there is one. `evaluated_on` is the runtime, its version and
    each processor, emulated ones too. Nothing that was timed stands here: it differs at each build,
    and the same version built again is the same bundle.
    """

    metric: str
    value: float
    reference_value: float
    drop_low: float
    drop_high: float
    agreement: float | None
    samples: int
    size_bytes: int
    evaluated_on: str
    float_layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        figures = (self.value, self.reference_value, self.drop_low, self.drop_high)
        for figure in figures:
            # JSON would silently turn it into null.
            if not math.isfinite(figure):
                raise BadManifest(f"{figure} of {self.metric} is no finite number")
        if self.agreement is not None and not 0 <= self.agreement <= 1:
            raise BadManifest(f"an agreement of {self.agreement} is no share from 0 to 1")


class Manifest(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.bundle/1"
):
    """What a bundle's digest names: the sha256 of this document's signed bytes.

    `class_output` is the output whose largest value along its last axis is the answer that
    labels are compared with; None where the model is no classifier. Among `files` are the model
    and what an application may read: `assets/` and a name that the version gave (a tokenizer,
    labels, normalisation), and `REFERENCE_FILE`. A bundle that is for `measuring` is never served.
    """

    model: ModelName
    version: VersionName
    lineage: Digest
    profile: Profile
    precision: Precision
    recipe: tuple[str, ...]
    signature: Signature
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    static_batch: int | None
    files: dict[str, Blob]
    golden: Golden
    report: Report
    class_output: str | None = None
    labels: tuple[str, ...] = ()
    measuring: bool = False
    critical: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_bindings(self.inputs, self.signature.inputs)
        _check_bindings(self.outputs, self.signature.outputs)
        _check_golden(self.golden.inputs, self.signature.inputs)
        _check_golden(self.golden.outputs, self.signature.outputs)
        if len({tensor.shape[0] for tensor in (*self.golden.inputs, *self.golden.outputs)}) != 1:
            raise BadManifest("the golden tensors have not one number of rows")
        if self.static_batch is not None and self.static_batch < 1:
            raise BadManifest("the static batch is below 1")
        outputs = {tensor.name for tensor in self.signature.outputs}
        if self.class_output is not None and self.class_output not in outputs:
            raise BadManifest(f"there is no output {self.class_output!r}")
        if MODEL_FILE not in self.files:
            raise BadManifest(f"there is no file {MODEL_FILE!r}")


class _Envelope(msgspec.Struct):
    signed: msgspec.Raw


def open_manifest(envelope: bytes, expected: Digest) -> Manifest:
    """Return the manifest of the bundle `expected` in `envelope`, whoever signed it.

    The name is the trust: whoever is told the digest by trusted targets asks for no signature.
    Raises `WrongBytes` where it is another bundle, and `BadDocument` or another `Malformed` where
    it is no manifest.
    """
    outer = codec.decode(_Envelope, envelope, limit_bytes=2 * LARGEST_MANIFEST_BYTES)
    signed = check_digest(bytes(outer.signed), expected)
    return codec.decode(Manifest, signed, limit_bytes=LARGEST_MANIFEST_BYTES)


def blobs_of(manifest: Manifest) -> tuple[Blob, ...]:
    """Return every blob of the bundle once, the small golden ones first."""
    tensors = (*manifest.golden.inputs, *manifest.golden.outputs)
    blobs = (*(tensor.blob for tensor in tensors), *manifest.files.values())
    return tuple({blob.digest: blob for blob in blobs}.values())


def tolerance_of(golden: Golden, output: str) -> float:
    """Return by how much an output may stray from its golden value."""
    return golden.tolerances.get(output, golden.tolerance)


def size_of(manifest: Manifest) -> int:
    """Return the bytes of all blobs of the bundle, each counted once."""
    return sum(blob.size_bytes for blob in blobs_of(manifest))


def _check_bindings(bindings: tuple[Binding, ...], tensors: tuple[Tensor, ...]) -> None:
    if [binding.name for binding in bindings] != [tensor.name for tensor in tensors]:
        raise BadManifest("the bindings do not name the signature's tensors in order")
    for binding, tensor in zip(bindings, tensors, strict=True):
        axes = list(range(len(tensor.shape)))
        if binding.permutation and (
            sorted(binding.permutation) != axes or binding.permutation[0] != 0
        ):
            raise BadManifest(f"the permutation of {binding.name!r} does not keep the batch first")
        if binding.scale is not None and not 0 < binding.scale < math.inf:
            raise BadManifest(f"the scale of {binding.name!r} is not positive and finite")


def _check_golden(golden: tuple[GoldenTensor, ...], tensors: tuple[Tensor, ...]) -> None:
    if [tensor.name for tensor in golden] != [tensor.name for tensor in tensors]:
        raise BadManifest("the golden tensors are not the signature's in order")
    for found, tensor in zip(golden, tensors, strict=True):
        try:
            batch_of(tensor, found.shape)
        except BadSignature as error:
            raise BadManifest(f"the golden {error.problem}") from error
        if found.datatype is not tensor.datatype:
            raise BadManifest(f"the golden {found.name!r} is not of the signature's datatype")
        if found.blob.size_bytes != math.prod(found.shape) * SIZE_BYTES[found.datatype]:
            raise BadManifest(f"the bytes of the golden {found.name!r} do not fill its shape")
