"""Bundles that another controller built and signed: taken in once a key that is trusted vouches.

What comes is a bundle's signed manifest, its version's card, and its blobs. The version is known
as imported: its variants are rolled out as others are, and it cannot be built here, since its
files stayed where it was made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO

from wherry import codec, signing
from wherry.blobs import WrongBytes, digest_of
from wherry.bundle import open_signed_manifest
from wherry.errors import Malformed, Unsuitable
from wherry.manifest import Manifest, blobs_of
from wherry.names import Digest
from wherry_controller.core.audit import Kind
from wherry_controller.core.card import Card
from wherry_controller.core.exchange import signed_of
from wherry_controller.services import audit
from wherry_controller.services.harvest import Vouch
from wherry_controller.services.missing import Taken
from wherry_controller.store import models
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.database import Store, Transaction
from wherry_controller.store.records import Model, Variant, Version, VersionStatus


class StrangeBlobs(Malformed):
    """The blobs that came are not those that the manifest names."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.problem}: send every blob of the bundle, under its digest, and no other."


class OtherCard(Malformed):
    """A card that is not of the bundle's version."""

    def __init__(self, card: str, bundle: str) -> None:
        super().__init__(card, bundle)
        self.card, self.bundle = card, bundle

    def __str__(self) -> str:
        return f"the card is of {self.card} and the bundle of {self.bundle}: export it again."


class OtherProfile(Unsuitable):
    """A profile of the bundle's name that describes another hardware class."""

    def __init__(self, profile: str) -> None:
        super().__init__(profile)
        self.profile = profile

    def __str__(self) -> str:
        return (
            f"the profile {self.profile!r} of this controller is not the one that the bundle was "
            "built for: rename one of them, and build or import again."
        )


def import_bundle(
    store: Store,
    blobs: BlobFolder,
    *,
    envelope: bytes,
    card: bytes,
    files: Mapping[str, IO[bytes]],
    keys: Sequence[bytes],
    vouch: Vouch,
    now: float,
) -> Variant:
    """Keep a bundle whose manifest one of `keys` (PEM) signed, and vouch for it from now on.

    The same again changes nothing. Nothing is kept before its signature was verified. Raises
    `NotSignedByTrusted`, `BadKey`, `WrongBytes`, `StrangeBlobs`, `OtherCard`, `OtherProfile`,
    `Taken` or another `Malformed`.
    """
    manifest, bundle = _opened(envelope, keys)
    version = _version_of(manifest, card, now)
    with store.reading() as tx:
        _check_place(tx, manifest, version, bundle)
    _keep_blobs(blobs, manifest, files)
    variant = _variant_of(manifest, bundle, now)
    with store.transaction() as tx:
        _check_place(tx, manifest, version, bundle)
        if models.get_version(tx, version.model, version.name) is None:
            if models.get_model(tx, version.model) is None:
                models.save_model(tx, Model(version.model, now))
            models.save_version(tx, version)
        models.save_profile(tx, manifest.profile)
        if not _is_there(tx, variant):
            facts = {"bundle": bundle, "version": f"{version.model}:{version.name}"}
            audit.note(tx, Kind.IMPORTED, facts, now)
        models.save_variant(tx, variant, envelope)
        vouch(tx, manifest, bundle, now)
    return variant


def _is_there(tx: Transaction, variant: Variant) -> bool:
    known = models.list_variants(tx, variant.model, variant.version)
    return any(one.bundle == variant.bundle for one in known)


def _opened(envelope: bytes, keys: Sequence[bytes]) -> tuple[Manifest, Digest]:
    trusted = signing.keyring(*(signing.parse_public_pem(key) for key in keys))
    bundle = digest_of(signed_of(envelope))
    return open_signed_manifest(envelope, trusted, bundle), bundle


def _version_of(manifest: Manifest, card: bytes, now: float) -> Version:
    parsed = codec.decode(Card, card)
    if (parsed.model, parsed.version) != (manifest.model, manifest.version):
        raise OtherCard(f"{parsed.model}:{parsed.version}", f"{manifest.model}:{manifest.version}")
    return Version(
        model=manifest.model,
        name=manifest.version,
        card=codec.encode(parsed).decode(),
        lineage=manifest.lineage,
        status=VersionStatus.IMPORTED,
        created_at=now,
    )


def _variant_of(manifest: Manifest, bundle: Digest, now: float) -> Variant:
    return Variant(
        model=manifest.model,
        version=manifest.version,
        profile=manifest.profile.name,
        bundle=bundle,
        precision=manifest.precision,
        size_bytes=manifest.report.size_bytes,
        report=manifest.report,
        latency=None,
        created_at=now,
    )


def _check_place(tx: Transaction, manifest: Manifest, version: Version, bundle: Digest) -> None:
    """Refuse what would take the place of another version, profile or variant."""
    known = models.get_version(tx, version.model, version.name)
    if known is not None and known.lineage != version.lineage:
        raise Taken("version", f"{version.model}:{version.name}")
    profile = models.get_profile(tx, manifest.profile.name)
    if profile is not None and profile != manifest.profile:
        raise OtherProfile(manifest.profile.name)
    for variant in models.list_variants(tx, version.model, version.name):
        if variant.profile == manifest.profile.name and variant.bundle != bundle:
            raise Taken("bundle", f"{version.model}:{version.name} for {variant.profile}")


def _keep_blobs(blobs: BlobFolder, manifest: Manifest, files: Mapping[str, IO[bytes]]) -> None:
    wanted = {blob.digest for blob in blobs_of(manifest)}
    missing, strange = wanted - files.keys(), files.keys() - wanted
    if missing:
        raise StrangeBlobs(f"the blob {min(missing)[:12]} did not come")
    if strange:
        raise StrangeBlobs(f"{min(strange)[:80]!r} came, which the bundle does not name")
    for digest in wanted:
        found, _ = blobs.take(files[digest])
        if found != digest:
            raise WrongBytes(digest, found)
