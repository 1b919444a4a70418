"""Bundles of models that exist only by how they behave: real manifests, chunks and signatures."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wherry.blobs import Blob, describe, digest_of
from wherry.bundle import Bundle, seal
from wherry.manifest import MODEL_FILE, Binding, Golden, GoldenTensor, Manifest, Report
from wherry.names import ModelName, ProfileName, VersionName
from wherry.profile import Arch, Precision, Profile, Runtime
from wherry.signature import BATCH, Datatype, Signature, Tensor

CHUNK_BYTES = 1024
PROFILE = Profile(
    name=ProfileName("simulated"),
    arch=Arch.X86_64,
    runtime=Runtime.ONNXRUNTIME,
    runtime_floor="1",
    runtime_below="2",
)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a version does once it is on a device; `accuracy` is the share of right answers."""

    accuracy: float = 0.95
    median_ms: float = 1.0
    passes_golden: bool = True
    kills_the_device: bool = False
    error_share: float = 0.0


def make(version: str, key: Ed25519PrivateKey, *, chunks: int = 10) -> Bundle:
    """Return the sealed bundle of a version whose model file has so many chunks."""
    model = version.encode().ljust(16, b".") * (CHUNK_BYTES // 16 * chunks)
    parts = [model[at : at + CHUNK_BYTES] for at in range(0, len(model), CHUNK_BYTES)]
    model = b"".join(struct.pack("<I", number) + part[4:] for number, part in enumerate(parts))
    golden = f"golden of {version}".encode().ljust(CHUNK_BYTES, b".")
    blobs = {digest_of(data): data for data in (model, golden)}
    return seal(_manifest(version, _blob(model), _blob(golden)), blobs, key)


def _blob(data: bytes) -> Blob:
    return describe(data, CHUNK_BYTES)


def _manifest(version: str, model: Blob, golden: Blob) -> Manifest:
    sides = [Tensor(name, Datatype.FP32, (BATCH, 256)) for name in ("input", "output")]
    bindings = [
        Binding(name=side.name, runtime_name=side.name, datatype=side.datatype) for side in sides
    ]
    tensors = [GoldenTensor(side.name, side.datatype, (1, 256), golden) for side in sides]
    return Manifest(
        model=ModelName("simulated"),
        version=VersionName(version),
        lineage=digest_of(version.encode()),
        profile=PROFILE,
        precision=Precision.FP32,
        recipe=("simulated",),
        signature=Signature((sides[0],), (sides[1],)),
        inputs=(bindings[0],),
        outputs=(bindings[1],),
        static_batch=None,
        files={MODEL_FILE: model},
        golden=Golden(inputs=(tensors[0],), outputs=(tensors[1],), tolerance=0.0),
        report=Report(
            metric="accuracy",
            value=1.0,
            reference_value=1.0,
            drop_low=0.0,
            drop_high=0.0,
            agreement=1.0,
            samples=1,
            size_bytes=model.size_bytes,
            evaluated_on="nothing: it is simulated",
        ),
    )
