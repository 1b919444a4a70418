"""The OCI layout: written the same each time, and read only where every part is what it says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import pytest

from tests.builders import MODEL_BYTES, a_bundle_of, a_key
from tests.controller.scripted import a_card
from tests.controller.stores import DIGITS
from wherry import codec
from wherry.blobs import WrongBytes, digest_of
from wherry.bundle import Bundle
from wherry.errors import REFUSALS, Malformed
from wherry.names import Digest, parse_version_name
from wherry_controller.core.card import parse_card
from wherry_controller.core.exchange import (
    BLOBS,
    INDEX_FILE,
    BadLayout,
    Layout,
    Package,
    lay_out,
    read_layout,
)


def card() -> bytes:
    return codec.encode(parse_card(a_card("v1")))


def a_package(bundle: Bundle | None = None) -> Package:
    return Package((bundle or a_bundle_of()).envelope, card())


def reader(documents: Mapping[str, bytes]) -> Callable[[Digest, int], bytes]:
    return lambda digest, size: documents[f"{BLOBS}/{digest}"][: size + 1]


def read(layout: Layout) -> tuple[Package, ...]:
    return read_layout(layout.documents[INDEX_FILE], reader(layout.documents))[0]


def test_what_was_laid_out_is_read_again() -> None:
    one, other = a_package(), a_package(a_bundle_of(b"another model"))
    layout = lay_out([one, other])
    packages, blobs = read_layout(layout.documents[INDEX_FILE], reader(layout.documents))
    assert set(packages) == {one, other}
    assert blobs == layout.blobs and blobs[digest_of(MODEL_BYTES)] == len(MODEL_BYTES)


def test_the_order_in_which_bundles_are_named_and_how_often_does_not_matter() -> None:
    one, other = a_package(), a_package(a_bundle_of(b"another model"))
    assert lay_out([one, other]) == lay_out([other, one, other])


def test_a_layout_is_an_oci_image_layout_with_the_media_types_of_modelpack() -> None:
    package = a_package()
    documents = lay_out([package]).documents
    assert json.loads(documents["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (listed,) = json.loads(documents[INDEX_FILE])["manifests"]
    assert listed["annotations"]["org.opencontainers.image.ref.name"] == (
        f"digits:v1-{package.manifest.profile.name}"
    )
    image = json.loads(documents[f"{BLOBS}/{listed['digest'].removeprefix('sha256:')}"])
    assert image["schemaVersion"] == 2
    assert image["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    kinds = {one["annotations"]["org.cncf.model.filepath"]: one for one in image["layers"]}
    model = kinds["files/model"]
    assert model["mediaType"] == "application/vnd.cncf.model.weight.v1.raw"
    assert model["digest"] == f"sha256:{digest_of(MODEL_BYTES)}"
    config = json.loads(documents[f"{BLOBS}/{image['config']['digest'].removeprefix('sha256:')}"])
    assert image["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    assert config["modelfs"] == {
        "type": "layers",
        "diffIds": [one["digest"] for one in image["layers"]],
    }
    assert config["descriptor"]["name"] == "digits"
    assert set(config["config"]) <= {"format", "precision", "quantization"}


def test_every_document_of_a_layout_is_bound_to_the_index() -> None:
    layout = lay_out([a_package()])
    for path, data in layout.documents.items():
        if not path.startswith(BLOBS):
            continue
        altered = {**layout.documents, path: data[:-2] + b" }"}
        with pytest.raises(WrongBytes):
            read_layout(layout.documents[INDEX_FILE], reader(altered))


def test_a_document_that_is_longer_or_shorter_than_it_says_is_refused() -> None:
    layout = lay_out([a_package()])
    (image,) = json.loads(layout.documents[INDEX_FILE])["manifests"]
    path = f"{BLOBS}/{image['digest'].removeprefix('sha256:')}"
    for data in (layout.documents[path] + b" ", layout.documents[path][:-1]):
        with pytest.raises(WrongBytes):
            read_layout(layout.documents[INDEX_FILE], reader({**layout.documents, path: data}))


def relisted(layout: Layout, change: Callable[[dict[str, object]], None]) -> Layout:
    """Return the layout with its one image changed, and everything that names it."""
    index = json.loads(layout.documents[INDEX_FILE])
    (listed,) = index["manifests"]
    image = json.loads(layout.documents[f"{BLOBS}/{listed['digest'].removeprefix('sha256:')}"])
    change(image)
    data = json.dumps(image).encode()
    listed |= {"digest": f"sha256:{digest_of(data)}", "size": len(data)}
    documents = {
        **layout.documents,
        INDEX_FILE: json.dumps(index).encode(),
        f"{BLOBS}/{digest_of(data)}": data,
    }
    return Layout(documents, layout.blobs)


def drop_the_model(image: dict[str, object]) -> None:
    layers = image["layers"]
    assert isinstance(layers, list)
    image["layers"] = [
        one for one in layers if one["annotations"]["org.cncf.model.filepath"] != "files/model"
    ]


def drop_the_card(image: dict[str, object]) -> None:
    layers = image["layers"]
    assert isinstance(layers, list)
    image["layers"] = [layers[0], *layers[2:]]


def rename_the_kind(image: dict[str, object]) -> None:
    image["artifactType"] = "application/vnd.oci.empty.v1+json"


def claim_an_endless_layer(image: dict[str, object]) -> None:
    layers = image["layers"]
    assert isinstance(layers, list)
    layers[0]["size"] = 1 << 50


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (drop_the_model, "not those it is made of"),
        (drop_the_card, "no layer 'version.json'"),
        (rename_the_kind, "oci.empty"),
        (claim_an_endless_layer, f"says it has {1 << 50} bytes"),
    ],
)
def test_a_layout_that_does_not_hold_together_is_refused(
    change: Callable[[dict[str, object]], None], problem: str
) -> None:
    with pytest.raises(BadLayout, match=problem):
        read(relisted(lay_out([a_package()]), change))


def test_an_index_of_nothing_is_refused() -> None:
    empty = lay_out([])
    with pytest.raises(BadLayout, match="lists 0 bundles"):
        read(empty)


def test_any_damage_to_the_index_is_one_of_our_refusals() -> None:
    layout = lay_out([a_package()])
    index = layout.documents[INDEX_FILE]
    for cut in range(len(index)):
        with pytest.raises(REFUSALS):
            read_layout(index[:cut], reader(layout.documents))


def test_a_card_that_is_none_is_refused() -> None:
    with pytest.raises(Malformed):
        lay_out([Package(a_bundle_of(key=a_key(3)).envelope, b"{}")])


def test_the_version_of_a_layout_is_that_of_its_bundle() -> None:
    (package,) = read(lay_out([a_package()]))
    assert (package.manifest.model, package.manifest.version) == (DIGITS, parse_version_name("v1"))
