"""A variant written out as an unsigned manifest and its blobs, each named by its own digest.

The parent signs: this process ran the user's code and holds no key. Nothing that is written was
timed, so the same version built again for the same profile gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from msgspec.structs import replace

from wherry import codec, manifest
from wherry.blobs import Blob, describe, digest_of
from wherry.files import make_folder, write_whole
from wherry.manifest import ASSETS, MODEL_FILE, REFERENCE_FILE, GoldenTensor, Manifest, Report
from wherry.names import Digest
from wherry.signature import Tensor
from wherry_controller.builder.data.rows import NUMPY, Tensors
from wherry_controller.builder.proving import Proved
from wherry_controller.builder.workshop import Workshop, variant_of
from wherry_controller.core.build import BLOBS, manifest_file, offer_file
from wherry_controller.core.choice import Candidate
from wherry_controller.core.recipe import steps_of


def pack(shop: Workshop, candidate: Candidate, file: Path, proof: Proved) -> Digest:
    """Write manifest and blobs to the request's output folder; return the manifest's digest."""
    document = _document(shop, candidate, file, proof)
    return _write(_output(shop) / manifest_file(shop.profile.name), document)


def pack_for_measuring(shop: Workshop, candidate: Candidate, file: Path, proof: Proved) -> Digest:
    """Write a candidate as a bundle that devices may run and never serve; return its digest."""
    document = replace(_document(shop, candidate, file, proof), measuring=True)
    return _write(_output(shop) / offer_file(shop.profile.name, candidate.name), document)


def _document(shop: Workshop, candidate: Candidate, file: Path, proof: Proved) -> Manifest:
    request, profile = shop.task.request, shop.profile
    card, signature = request.card, request.card.signature
    blobs = make_folder(_output(shop) / BLOBS)
    variant = variant_of(shop, file)
    return Manifest(
        model=card.model,
        version=card.version,
        lineage=request.lineage,
        profile=profile,
        precision=candidate.recipe.precision,
        recipe=steps_of(candidate.recipe),
        signature=signature,
        inputs=variant.inputs,
        outputs=variant.outputs,
        static_batch=variant.static_batch,
        files=_files(shop, blobs, file, proof),
        golden=manifest.Golden(
            inputs=_store_tensors(blobs, signature.inputs, proof.golden.inputs),
            outputs=_store_tensors(blobs, signature.outputs, proof.golden.outputs),
            tolerance=proof.golden.tolerance,
            tolerances=dict(proof.golden.tolerances),
        ),
        report=_report(candidate, proof, card.task.metric.value),
        class_output=card.task.class_output,
        labels=card.labels,
    )


def _report(candidate: Candidate, proof: Proved, metric: str) -> Report:
    score = candidate.judged
    assert score is not None
    assert candidate.size_bytes is not None
    return Report(
        metric=metric,
        value=score.value,
        reference_value=score.reference_value,
        drop_low=score.drop_low,
        drop_high=score.drop_high,
        agreement=score.agreement,
        samples=score.samples,
        size_bytes=candidate.size_bytes,
        evaluated_on=", ".join((candidate.evaluated_on, *proof.emulated_on)),
        float_layers=candidate.float_layers,
    )


def _files(shop: Workshop, blobs: Path, model: Path, proof: Proved) -> dict[str, Blob]:
    folder, assets = Path(shop.task.request.folder), shop.task.request.card.assets
    return {
        MODEL_FILE: store(blobs, model.read_bytes()),
        REFERENCE_FILE: store(blobs, proof.reference),
        **{
            ASSETS + name: store(blobs, (folder / file).read_bytes())
            for name, file in sorted(assets.items())
        },
    }


def store(folder: Path, data: bytes) -> Blob:
    """Write a blob under its own digest, and return what describes it."""
    blob = describe(data)
    write_whole(folder / blob.digest, data)
    return blob


def _output(shop: Workshop) -> Path:
    return Path(shop.task.request.output)


def _write(file: Path, document: Manifest) -> Digest:
    data = codec.encode(document)
    write_whole(file, data)
    return digest_of(data)


def _store_tensors(
    folder: Path, tensors: tuple[Tensor, ...], arrays: Tensors
) -> tuple[GoldenTensor, ...]:
    return tuple(_store_tensor(folder, tensor, arrays) for tensor in tensors)


def _store_tensor(folder: Path, tensor: Tensor, arrays: Tensors) -> GoldenTensor:
    array = arrays[tensor.name]
    little = np.ascontiguousarray(array, NUMPY[tensor.datatype].newbyteorder("<"))
    return GoldenTensor(tensor.name, tensor.datatype, array.shape, store(folder, little.tobytes()))
