"""A variant written out as an unsigned manifest and its blobs, each named by its own digest.

The parent signs: this process ran the user's code and holds no key. Nothing that is written was
timed, so the same version built again for the same profile gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wherry import codec, manifest
from wherry.blobs import Blob, describe, digest_of
from wherry.files import make_folder, write_whole
from wherry.manifest import GoldenTensor, Manifest, Report
from wherry.names import Digest
from wherry.profile import Profile
from wherry.signature import Tensor
from wherry_controller.builder.agreement import Golden
from wherry_controller.builder.data import NUMPY, Tensors
from wherry_controller.builder.variant import Variant
from wherry_controller.core.recipe import BLOBS, BuildRequest, Recipe, manifest_file


def pack(
    request: BuildRequest,
    profile: Profile,
    *,
    recipe: Recipe,
    variant: Variant,
    golden: Golden,
    report: Report,
) -> Digest:
    """Write manifest and blobs to the request's output folder; return the manifest's digest."""
    output = Path(request.output)
    blobs = make_folder(output / BLOBS)
    card, signature = request.card, request.card.signature
    document = Manifest(
        model=card.model,
        version=card.version,
        lineage=request.lineage,
        profile=profile,
        precision=recipe.precision,
        recipe=recipe.steps,
        signature=signature,
        inputs=variant.inputs,
        outputs=variant.outputs,
        static_batch=variant.static_batch,
        files={manifest.MODEL_FILE: _store(blobs, variant.file.read_bytes())},
        golden=manifest.Golden(
            inputs=_store_tensors(blobs, signature.inputs, golden.inputs),
            outputs=_store_tensors(blobs, signature.outputs, golden.outputs),
            tolerance=golden.tolerance,
        ),
        report=report,
        class_output=card.class_output,
        labels=card.labels,
    )
    return _write(output / manifest_file(profile.name), document)


def _write(file: Path, document: Manifest) -> Digest:
    data = codec.encode(document)
    write_whole(file, data)
    return digest_of(data)


def _store(folder: Path, data: bytes) -> Blob:
    blob = describe(data)
    write_whole(folder / blob.digest, data)
    return blob


def _store_tensors(
    folder: Path, tensors: tuple[Tensor, ...], arrays: Tensors
) -> tuple[GoldenTensor, ...]:
    return tuple(_store_tensor(folder, tensor, arrays) for tensor in tensors)


def _store_tensor(folder: Path, tensor: Tensor, arrays: Tensors) -> GoldenTensor:
    array = arrays[tensor.name]
    little = np.ascontiguousarray(array, NUMPY[tensor.datatype].newbyteorder("<"))
    return GoldenTensor(tensor.name, tensor.datatype, array.shape, _store(folder, little.tobytes()))
