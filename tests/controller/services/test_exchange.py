"""What another controller built is taken in, and takes nobody's place."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from tests.builders import A_TIME, a_bundle_of, a_key
from tests.controller.scripted import a_card
from tests.controller.stores import DIGITS, a_store
from wherry import codec
from wherry.blobs import WrongBytes
from wherry.bundle import Bundle
from wherry.names import Digest, parse_version_name
from wherry.signing import public_pem
from wherry_controller.core.card import parse_card
from wherry_controller.services.exchange import import_bundle
from wherry_controller.services.missing import Taken
from wherry_controller.store import models
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.database import Store
from wherry_controller.store.records import Variant

BUNDLE = a_bundle_of()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = a_store(tmp_path)
    yield store
    store.close()


def take_in(store: Store, folder: Path, bundle: Bundle, **blobs: bytes) -> Variant:
    return import_bundle(
        store,
        BlobFolder(folder / "blobs"),
        envelope=bundle.envelope,
        card=codec.encode(parse_card(a_card("v1"))),
        files={digest: BytesIO(blobs.get(digest, data)) for digest, data in bundle.blobs.items()},
        keys=[public_pem(a_key().public_key())],
        vouch=lambda tx, manifest, digest, now: None,
        now=A_TIME,
    )


def bundles(store: Store) -> list[Digest]:
    with store.reading() as tx:
        return [one.bundle for one in models.list_variants(tx, DIGITS, parse_version_name("v1"))]


def test_the_same_bundle_may_come_again(store: Store, tmp_path: Path) -> None:
    assert take_in(store, tmp_path, BUNDLE) == take_in(store, tmp_path, BUNDLE)
    assert bundles(store) == [BUNDLE.digest]


def test_another_bundle_of_a_version_and_profile_does_not_take_the_place_of_the_one_that_is_there(
    store: Store, tmp_path: Path
) -> None:
    take_in(store, tmp_path, BUNDLE)
    with pytest.raises(Taken, match="digits:v1 for"):
        take_in(store, tmp_path, a_bundle_of(b"another model"))
    assert bundles(store) == [BUNDLE.digest]


def test_a_blob_that_is_not_what_its_name_says_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(WrongBytes):
        take_in(store, tmp_path, BUNDLE, **{min(BUNDLE.blobs): b"other bytes"})
    assert bundles(store) == []
