"""Bundles as an OCI image layout with ModelPack's media types: how one is written, and read again.

    oci-layout, index.json      one image manifest for each bundle, named MODEL:VERSION-PROFILE
    blobs/sha256/<digest>       image manifests, configs, and every layer as it is, never packed

Of a bundle are layers: its signed manifest (`bundle.json`), the card of its version
(`version.json`), its files, its golden tensors. Nothing in a layout tells a time or a place, so
the same bundles give the same bytes. Reading believes nothing: each document is bounded and has
the digest that names it; whether the bundle is trusted is for its signature to say.

Sources: OCI image specification 1.1 (image-layout, manifest, descriptor); CNCF ModelPack
(model-spec v1: media types, config schema, `org.cncf.model.filepath`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from wherry import codec, signing
from wherry.blobs import WrongBytes, check_digest, digest_of
from wherry.errors import Malformed
from wherry.manifest import LARGEST_MANIFEST_BYTES, MODEL_FILE, Manifest
from wherry.names import Digest, parse_digest
from wherry.profile import Runtime
from wherry_controller.core.card import Card

LAYOUT_FILE = "oci-layout"
INDEX_FILE = "index.json"
BLOBS = "blobs/sha256"
BUNDLE_LAYER = "bundle.json"
CARD_LAYER = "version.json"
LARGEST_DOCUMENT_BYTES = 1 << 20
MOST_BUNDLES = 1000

FILEPATH = "org.cncf.model.filepath"
REF_NAME = "org.opencontainers.image.ref.name"
BUNDLE = "dev.wherry.bundle"

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
WEIGHT_TYPE = "application/vnd.cncf.model.weight.v1.raw"
FILE_TYPE = "application/vnd.cncf.model.weight.config.v1.raw"
DATASET_TYPE = "application/vnd.cncf.model.dataset.v1.raw"

_FORMATS = {Runtime.ONNXRUNTIME: "onnx", Runtime.LITERT: "tflite", Runtime.TFLITE: "tflite"}


class BadLayout(Malformed):
    """Files that are no OCI image layout of Wherry's bundles."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return (
            f"this is no layout of bundles: {self.problem}; "
            "give what `wherry bundle export` wrote, whole."
        )


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    media_type: str
    digest: str
    size: int
    artifact_type: str = ""
    annotations: dict[str, str] = {}


class ImageManifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    schema_version: int
    media_type: str
    artifact_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str] = {}


class Index(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    schema_version: int
    media_type: str
    manifests: tuple[Descriptor, ...]


class LayoutVersion(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    image_layout_version: str


@dataclass(frozen=True, slots=True)
class Package:
    """One bundle to exchange: its signed manifest as it travels, and its version's card."""

    envelope: bytes
    card: bytes

    @property
    def manifest(self) -> Manifest:
        signed = signed_of(self.envelope)
        return codec.decode(Manifest, signed, limit_bytes=LARGEST_MANIFEST_BYTES)

    @property
    def bundle(self) -> Digest:
        return digest_of(signed_of(self.envelope))


@dataclass(frozen=True, slots=True)
class Layout:
    """`documents` are files by their path; `blobs` those to put below `BLOBS`, with lengths."""

    documents: Mapping[str, bytes]
    blobs: Mapping[Digest, int]


def signed_of(envelope: bytes) -> bytes:
    """Return the bytes that the signatures are over, whoever made them; raise `BadDocument`."""
    limit_bytes = 2 * LARGEST_MANIFEST_BYTES
    return bytes(codec.decode(signing.Envelope, envelope, limit_bytes=limit_bytes).signed)


def lay_out(packages: Sequence[Package]) -> Layout:
    """Return the layout of bundles; their order and repetition do not matter."""
    documents: dict[str, bytes] = {}
    blobs: dict[Digest, int] = {}
    listed: list[Descriptor] = []
    once = {package.bundle: package for package in packages}
    for _, package in sorted(once.items()):
        layers, files = _layers_of(package)
        config = codec.encode(_config(package, layers))
        image = codec.encode(_image(package, config, layers))
        listed.append(_listed(package, image))
        for data in (package.envelope, package.card, config, image):
            documents[f"{BLOBS}/{digest_of(data)}"] = data
        blobs |= files
    index = Index(schema_version=2, media_type=INDEX_TYPE, manifests=tuple(listed))
    version = LayoutVersion(image_layout_version="1.0.0")
    heads = {LAYOUT_FILE: codec.encode(version), INDEX_FILE: codec.encode(index)}
    return Layout({**heads, **documents}, blobs)


def read_layout(
    index: bytes, get: Callable[[Digest, int], bytes]
) -> tuple[tuple[Package, ...], Mapping[Digest, int]]:
    """Return the bundles of a layout, and the lengths of the blobs that they need.

    `get` gives a blob of a declared length; what it gives is verified here. Raises `BadLayout`,
    `BadDocument` or `WrongBytes`.
    """
    listed = codec.decode(Index, index, limit_bytes=LARGEST_DOCUMENT_BYTES).manifests
    if not 1 <= len(listed) <= MOST_BUNDLES:
        raise BadLayout(f"it lists {len(listed)} bundles and 1 to {MOST_BUNDLES} are allowed")
    packages = [_read_image(one, get) for one in listed]
    blobs: dict[Digest, int] = {}
    for package in packages:
        blobs |= {digest: size for _, _, digest, size in _files_of(package.manifest)}
    return tuple(packages), blobs


def _layers_of(package: Package) -> tuple[tuple[Descriptor, ...], dict[Digest, int]]:
    """Return a bundle's layers: its own two documents, then its blobs, and those blobs' lengths."""
    files = [*_files_of(package.manifest)]
    layers = (
        _of_data(FILE_TYPE, package.envelope, BUNDLE_LAYER),
        _of_data(FILE_TYPE, package.card, CARD_LAYER),
        *(_descriptor(kind, digest, size, path) for kind, path, digest, size in files),
    )
    return layers, {digest: size for _, _, digest, size in files}


def _image(package: Package, config: bytes, layers: tuple[Descriptor, ...]) -> ImageManifest:
    return ImageManifest(
        schema_version=2,
        media_type=MANIFEST_TYPE,
        artifact_type=ARTIFACT_TYPE,
        config=_of_data(CONFIG_TYPE, config),
        layers=layers,
        annotations={BUNDLE: package.bundle},
    )


def _listed(package: Package, image: bytes) -> Descriptor:
    manifest = package.manifest
    name = f"{manifest.model}:{manifest.version}-{manifest.profile.name}"
    return Descriptor(
        media_type=MANIFEST_TYPE,
        artifact_type=ARTIFACT_TYPE,
        digest=f"sha256:{digest_of(image)}",
        size=len(image),
        annotations={REF_NAME: name, BUNDLE: package.bundle},
    )


def _read_image(listed: Descriptor, get: Callable[[Digest, int], bytes]) -> Package:
    data = _fetch(listed, get)
    image = codec.decode(ImageManifest, data, limit_bytes=LARGEST_DOCUMENT_BYTES)
    if image.artifact_type != ARTIFACT_TYPE:
        raise BadLayout(f"{listed.digest[:19]} is a {image.artifact_type[:80]!r}")
    _fetch(image.config, get)  # It tells others what this is; here it has to be whole.
    layers = {one.annotations.get(FILEPATH, ""): one for one in image.layers}
    if len(layers) != len(image.layers):
        raise BadLayout(f"layers of {listed.digest[:19]} share a path")
    package = Package(
        _fetch(_named(layers, BUNDLE_LAYER), get), _fetch(_named(layers, CARD_LAYER), get)
    )
    _check_layers(package, layers)
    return package


def _check_layers(package: Package, layers: Mapping[str, Descriptor]) -> None:
    """Refuse a layout whose layers are not those that the signed manifest names."""
    codec.decode(Card, package.card)
    wanted = {
        path: (f"sha256:{digest}", size) for _, path, digest, size in _files_of(package.manifest)
    }
    found = {
        path: (one.digest, one.size)
        for path, one in layers.items()
        if path not in (BUNDLE_LAYER, CARD_LAYER)
    }
    if found != wanted:
        raise BadLayout(f"the layers of bundle {package.bundle[:12]} are not those it is made of")


def _fetch(one: Descriptor, get: Callable[[Digest, int], bytes]) -> bytes:
    if not 0 <= one.size <= LARGEST_DOCUMENT_BYTES:
        raise BadLayout(f"{one.digest[:19]} says it has {one.size} bytes")
    digest = parse_digest(one.digest.removeprefix("sha256:"))
    data = get(digest, one.size)
    if len(data) != one.size:
        raise WrongBytes(digest, digest_of(data))
    return check_digest(data, digest)


def _named(layers: Mapping[str, Descriptor], path: str) -> Descriptor:
    if path not in layers:
        raise BadLayout(f"there is no layer {path!r}")
    return layers[path]


def _files_of(manifest: Manifest) -> Iterator[tuple[str, str, Digest, int]]:
    """Yield each file of a bundle: media type, path, digest and length, in order of the path."""
    files = [
        (WEIGHT_TYPE if name == MODEL_FILE else FILE_TYPE, f"files/{name}", blob)
        for name, blob in manifest.files.items()
    ]
    golden = [
        (DATASET_TYPE, f"golden/{side}/{tensor.name}", tensor.blob)
        for side, tensors in (
            ("inputs", manifest.golden.inputs),
            ("outputs", manifest.golden.outputs),
        )
        for tensor in tensors
    ]
    for kind, path, blob in sorted((*files, *golden), key=lambda one: one[1]):
        yield kind, path, blob.digest, blob.size_bytes


def _descriptor(kind: str, digest: Digest, size: int, path: str = "") -> Descriptor:
    annotations = {FILEPATH: path} if path else {}
    return Descriptor(
        media_type=kind, digest=f"sha256:{digest}", size=size, annotations=annotations
    )


def _of_data(kind: str, data: bytes, path: str = "") -> Descriptor:
    return _descriptor(kind, digest_of(data), len(data), path)


def _config(package: Package, layers: Sequence[Descriptor]) -> Mapping[str, object]:
    """Return ModelPack's description of a bundle, as its config schema allows it."""
    manifest = package.manifest
    lineage = codec.decode(Card, package.card).lineage
    descriptor: dict[str, object] = {
        "name": manifest.model,
        "version": manifest.version,
        "title": f"{manifest.model}:{manifest.version} for {manifest.profile.name}",
    }
    if lineage.licence:
        descriptor["licenses"] = [lineage.licence]
    if lineage.code_revision:
        descriptor["revision"] = lineage.code_revision
    return {
        "descriptor": descriptor,
        "config": {
            "format": _FORMATS[manifest.profile.runtime],
            "precision": manifest.precision.value,
            "quantization": " ".join(manifest.recipe),
        },
        "modelfs": {"type": "layers", "diffIds": [layer.digest for layer in layers]},
    }
