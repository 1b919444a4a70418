"""A bundle comes onto the shelf only if it is trusted, whole and for this device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.agent.machines import some_facts
from tests.agent.stores import a_full_disk, chunks_of
from tests.builders import a_bundle_of, a_key, a_profile
from wherry.blobs import digest_of
from wherry.bundle import Bundle, seal
from wherry.manifest import MODEL_FILE, blobs_of
from wherry.names import ProfileName
from wherry.profile import Arch, Runtime
from wherry.reasons import Reason
from wherry_agent.core.agent import Assembled, BundleRefused, ManifestAccepted
from wherry_agent.core.chunks import StillMissing
from wherry_agent.core.download import SPOILS_ALLOWED
from wherry_agent.core.suitability import Machine
from wherry_agent.shelf import Shelf
from wherry_agent.store import Store

FOREIGN = a_key(9)
PI_CLASS = ProfileName("pi")
PROFILE = a_profile(name=PI_CLASS, arch=Arch.AARCH64, runtime_floor="1.20", runtime_below="1.32")
PI = Machine(
    profile=PROFILE.name, facts=some_facts(PROFILE), runtimes={PROFILE.runtime.value: "1.31.1"}
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.close()


@pytest.fixture
def shelf(store: Store) -> Shelf:
    return a_shelf(store)


def a_shelf(store: Store) -> Shelf:
    return Shelf(store, PI)


def a_fitting(data: bytes = b"model" * 1000) -> Bundle:
    return a_bundle_of(data, profile=PROFILE)


def put(store: Store, shelf: Shelf, bundle: Bundle) -> None:
    assert isinstance(shelf.accept(bundle.digest, bundle.envelope), ManifestAccepted)
    for chunk, data in chunks_of(bundle).items():
        store.put_chunk(chunk, data)
    assert shelf.assemble(bundle.digest) == Assembled(bundle.digest)


def test_a_bundle_that_suits_is_accepted_with_what_is_missing_of_it(
    store: Store, shelf: Shelf
) -> None:
    bundle = a_fitting()
    parts = chunks_of(bundle)
    present, data = next(iter(parts.items()))
    store.put_chunk(present, data)
    accepted = shelf.accept(bundle.digest, bundle.envelope)
    missing = {chunk: len(part) for chunk, part in parts.items() if chunk != present}
    assert accepted == ManifestAccepted(bundle.digest, missing)
    assert store.manifest_envelope(bundle.digest) == bundle.envelope


@pytest.mark.parametrize(
    ("bundle", "reason"),
    [
        (a_bundle_of(profile=a_profile(name=ProfileName("jetson"))), Reason.UNSUITABLE_PROFILE),
        (
            a_bundle_of(profile=a_profile(name=PI_CLASS, arch=Arch.X86_64)),
            Reason.UNSUITABLE_PROFILE,
        ),
        (
            a_bundle_of(
                profile=a_profile(
                    name=PI_CLASS,
                    arch=Arch.AARCH64,
                    runtime=Runtime.TFLITE,
                    runtime_floor="2.0",
                    runtime_below="3.0",
                )
            ),
            Reason.MISSING_RUNTIME,
        ),
        (
            a_bundle_of(
                profile=a_profile(
                    name=PI_CLASS, arch=Arch.AARCH64, runtime_floor="1.10", runtime_below="1.20"
                )
            ),
            Reason.MISSING_RUNTIME,
        ),
    ],
    ids=["other profile", "other arch", "no runtime", "runtime out of range"],
)
def test_a_bundle_is_refused_for_its_own_reason_and_leaves_nothing(
    store: Store, shelf: Shelf, bundle: Bundle, reason: Reason
) -> None:
    refused = shelf.accept(bundle.digest, bundle.envelope)
    assert isinstance(refused, BundleRefused)
    assert refused.reason is reason
    assert refused.detail
    assert store.manifest_envelope(bundle.digest) is None
    assert shelf.place(bundle.digest) is None


def test_a_trusted_bundle_under_the_name_of_another_is_refused(shelf: Shelf) -> None:
    asked, other = a_fitting(b"asked"), a_fitting(b"other")
    refused = shelf.accept(asked.digest, other.envelope)
    assert isinstance(refused, BundleRefused)
    assert refused.reason is Reason.WRONG_MANIFEST
    assert "altered on the way" in refused.detail


@pytest.mark.parametrize("envelope", [b"", b"{}", b"no json", b"[" * 100_000])
def test_bytes_that_are_no_manifest_are_malformed(shelf: Shelf, envelope: bytes) -> None:
    refused = shelf.accept(a_fitting().digest, envelope)
    assert isinstance(refused, BundleRefused)
    assert refused.reason is Reason.MALFORMED_MANIFEST


def test_a_disk_that_fills_up_is_said_by_its_reason(store: Store, shelf: Shelf) -> None:
    bundle = a_fitting()
    with a_full_disk():
        refused = shelf.accept(bundle.digest, bundle.envelope)
    assert isinstance(refused, BundleRefused)
    assert refused.reason is Reason.DISK_FULL
    shelf.accept(bundle.digest, bundle.envelope)
    for chunk, data in chunks_of(bundle).items():
        store.put_chunk(chunk, data)
    with a_full_disk():
        torn = shelf.assemble(bundle.digest)
    assert isinstance(torn, BundleRefused)
    assert torn.reason is Reason.DISK_FULL
    assert shelf.assemble(bundle.digest) == Assembled(bundle.digest)


def test_a_bundle_on_disk_is_accepted_again_without_the_broker(store: Store, shelf: Shelf) -> None:
    bundle = a_fitting()
    assert shelf.accept_again(bundle.digest) is None
    put(store, shelf, bundle)
    assert a_shelf(store).accept_again(bundle.digest) == ManifestAccepted(bundle.digest, {})


def test_an_assembled_bundle_has_a_place_with_every_blob(store: Store, shelf: Shelf) -> None:
    bundle = a_fitting()
    put(store, shelf, bundle)
    place = a_shelf(store).place(bundle.digest)
    assert place is not None
    assert place.manifest == bundle.manifest
    assert place.manifest_path.read_bytes() == bundle.envelope
    for blob in blobs_of(bundle.manifest):
        assert (place.blobs_folder / blob.digest).read_bytes() == bundle.blobs[blob.digest]


def test_chunks_that_the_disk_has_torn_are_fetched_again(store: Store, shelf: Shelf) -> None:
    bundle = a_fitting()
    shelf.accept(bundle.digest, bundle.envelope)
    for chunk, data in chunks_of(bundle).items():
        store.put_chunk(chunk, data)
    chunk, data = next(iter(chunks_of(bundle).items()))
    (store.folder / "chunks" / chunk).write_bytes(b"torn by the disk")
    step = shelf.assemble(bundle.digest)
    assert isinstance(step, StillMissing)
    assert step.missing == {chunk: len(data)}
    store.put_chunk(chunk, data)
    assert shelf.assemble(bundle.digest) == Assembled(bundle.digest)


def test_a_disk_that_tears_whatever_it_keeps_ends_the_deployment(
    store: Store, shelf: Shelf
) -> None:
    bundle = a_fitting()
    shelf.accept(bundle.digest, bundle.envelope)
    steps = []
    for _ in range(SPOILS_ALLOWED + 1):
        for chunk in chunks_of(bundle):
            (store.folder / "chunks" / chunk).write_bytes(b"torn by the disk")
        steps.append(shelf.assemble(bundle.digest))
    *again, end = steps
    assert {type(step) for step in again} == {StillMissing}
    assert isinstance(end, BundleRefused)
    assert end.reason is Reason.WRONG_BYTES


def test_sound_chunks_that_do_not_make_the_blob_are_refused(store: Store, shelf: Shelf) -> None:
    bundle, other = a_fitting(), bytes(1024)
    manifest = bundle.manifest
    blob = manifest.files[MODEL_FILE]
    false = replace(blob, chunks=(digest_of(other), *blob.chunks[1:]))
    lie = seal(
        replace(manifest, files={**manifest.files, MODEL_FILE: false}), bundle.blobs, a_key()
    )
    assert isinstance(shelf.accept(lie.digest, lie.envelope), ManifestAccepted)
    for chunk, data in {**chunks_of(bundle), digest_of(other): other}.items():
        store.put_chunk(chunk, data)
    refused = shelf.assemble(lie.digest)
    assert isinstance(refused, BundleRefused)
    assert refused.reason is Reason.WRONG_BYTES


def test_a_manifest_that_was_altered_on_disk_is_no_longer_there(store: Store, shelf: Shelf) -> None:
    bundle = a_fitting()
    put(store, shelf, bundle)
    store.manifest_path(bundle.digest).write_bytes(bundle.envelope.replace(b"pi", b"pj"))
    after_a_restart = a_shelf(store)
    assert after_a_restart.place(bundle.digest) is None
    assert isinstance(after_a_restart.assemble(bundle.digest), BundleRefused)


def test_the_shelf_keeps_exactly_the_bundles_that_are_named(store: Store, shelf: Shelf) -> None:
    kept, gone = a_fitting(b"kept" * 900), a_fitting(b"gone" * 900)
    put(store, shelf, kept)
    put(store, shelf, gone)
    shelf.keep([kept.digest])
    assert shelf.place(kept.digest) is not None
    assert shelf.place(gone.digest) is None
    assert {path.name for path in store.blobs.iterdir()} == set(kept.blobs)


def test_who_signed_a_manifest_is_no_matter_to_a_device_that_was_told_its_name(
    shelf: Shelf,
) -> None:
    bundle = a_fitting()
    again = seal(bundle.manifest, bundle.blobs, FOREIGN)
    assert again.digest == bundle.digest
    assert isinstance(shelf.accept(again.digest, again.envelope), ManifestAccepted)


def test_collecting_takes_nothing_while_a_kept_bundle_cannot_be_read(store: Store) -> None:
    kept, gone = a_fitting(b"kept" * 1000), a_fitting(b"gone" * 1000)
    for bundle in (kept, gone):
        put(store, a_shelf(store), bundle)
    store.manifest_path(kept.digest).write_bytes(b"torn by a failing disk")
    a_shelf(store).keep([kept.digest])
    assert all(store.has_blob(blob) for blob in kept.blobs)
    store.manifest_path(kept.digest).write_bytes(kept.envelope)
    a_shelf(store).keep([kept.digest])
    assert all(store.has_blob(blob) for blob in kept.blobs)
    assert not all(store.has_blob(blob) for blob in gone.blobs)


def test_the_reserve_of_the_disk_is_never_taken(store: Store) -> None:
    bundle = a_fitting()
    hungry = Shelf(store, PI, reserve_bytes=store.free_bytes())
    refused = hungry.accept(bundle.digest, bundle.envelope)
    assert isinstance(refused, BundleRefused)
    assert refused.reason is Reason.DISK_FULL
    assert store.manifest_envelope(bundle.digest) is None
    put(store, a_shelf(store), bundle)
    assert isinstance(hungry.accept(bundle.digest, bundle.envelope), ManifestAccepted)
