"""Ready versions of a tiny model for system tests whose point is not the build.

`keep` does what a build does at its end: the bundle, signed with the controller's own key, is kept
with its blobs, its envelope and its variant. A version's `shift` tells its answers
from those of others.
"""

from __future__ import annotations

import random
import time
from contextlib import closing

import numpy as np
import onnx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from tests.agent.bundles import a_bundle, a_profile, an_onnx_model, images, logits_of
from tests.controller.reports import a_latency
from tests.system.sites import Site, ask
from wherry.blobs import describe
from wherry.bundle import Bundle, seal
from wherry.manifest import MODEL_FILE
from wherry_agent.client import Input
from wherry_controller.foundation import read_keys
from wherry_controller.services.adoption import open_trust
from wherry_controller.store import models
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.database import Transaction, open_store
from wherry_controller.store.records import Model, Variant, Version
from wherry_sim.demo.processes import Agent

CHUNK_BYTES = 128 * 1024
IMAGE = images(1)
REQUEST = {"image": Input("FP32", (1, 2, 2), IMAGE.tolist())}


def add_version(
    site: Site,
    name: str,
    *,
    shift: float = 0.0,
    size_bytes: int = 0,
    nan_above: float | None = None,
) -> Bundle:
    """Give the controller a built version, as long and as sick as it is wished."""
    model = _padded(an_onnx_model(shift=shift, nan_above=nan_above), size_bytes, name)
    bundle = _a_sealed(model, name, shift, key_of(site))
    keep(site, bundle)
    return bundle


def key_of(site: Site) -> Ed25519PrivateKey:
    """Return the key that signs the controller's bundles."""
    return read_keys(site.controller.settings).bundles


def keep(site: Site, bundle: Bundle) -> None:
    """Give the controller a variant, of a version that it may have already."""
    settings = site.controller.settings
    blobs = BlobFolder(settings.blob_folder)
    for data in bundle.blobs.values():
        blobs.put(data)
    manifest = bundle.manifest
    version = Version(
        model=manifest.model,
        name=manifest.version,
        card="{}",
        lineage=manifest.lineage,
        created_at=0.0,
    )
    variant = Variant(
        model=manifest.model,
        version=manifest.version,
        profile=manifest.profile.name,
        bundle=bundle.digest,
        precision=manifest.precision,
        size_bytes=manifest.report.size_bytes,
        report=manifest.report,
        latency=a_latency(),
        created_at=0.0,
    )
    with closing(open_store(settings.database_url)) as store:
        trust = open_trust(settings, store, time.time())
        with store.transaction() as tx:
            _keep(tx, bundle, version, variant)
            trust.add_bundle(tx, manifest, bundle.digest, time.time())


def _keep(tx: Transaction, bundle: Bundle, version: Version, variant: Variant) -> None:
    models.save_profile(tx, bundle.manifest.profile)
    models.save_model(tx, Model(version.model, 0.0))
    models.save_version(tx, version)
    models.save_variant(tx, variant, bundle.envelope)


def answers_as(agent: Agent, bundle: Bundle, *, shift: float = 0.0) -> bool:
    """Ask an agent, and say whether it answers with a bundle and as that bundle does offline."""
    tolerance = bundle.manifest.golden.tolerance
    with ask(agent) as client:
        answer = client.infer("default", REQUEST)
    offline = logits_of(IMAGE, shift=shift).ravel()
    right = np.allclose(answer.values("logits"), offline, rtol=0, atol=tolerance)
    return answer.version == bundle.digest and bool(right)


def _a_sealed(model: bytes, name: str, shift: float, key: Ed25519PrivateKey) -> Bundle:
    """Return a signed bundle whose model file is cut as the builder cuts it."""
    bundle = a_bundle(version=name, shift=shift, model=model, profile=a_profile(), key=key)
    files = {MODEL_FILE: describe(model, CHUNK_BYTES)}
    return seal(replace(bundle.manifest, files=files), bundle.blobs, key)


def _padded(model: bytes, size_bytes: int, seed: str) -> bytes:
    """Return the model with an unused tensor of that length: concatenated, protocol buffers merge.

    It is noise, of which no delta makes less.
    """
    noise = random.Random(seed).randbytes(size_bytes)
    tensor = onnx.helper.make_tensor("noise", onnx.TensorProto.UINT8, [size_bytes], noise, raw=True)
    more = onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor]))
    return model + bytes(more.SerializeToString())
