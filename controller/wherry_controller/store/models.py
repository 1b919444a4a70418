"""Models, their versions, profiles, builds and variants in the database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlmodel import col, select

from wherry.names import Digest, ModelName, ProfileName, VersionName
from wherry.profile import Profile
from wherry_controller.store.convert import add, replace, to_record
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import (
    Build,
    BuildStatus,
    BundleRecord,
    Model,
    ProfileRecord,
    Variant,
    Version,
    VersionFile,
)
from wherry_controller.store.refusals import Taken, Unknown
from wherry_controller.store.tables import (
    BuildRow,
    BundleRow,
    ModelRow,
    ProfileRow,
    VariantRow,
    VersionFileRow,
    VersionRow,
)


def ensure_model(tx: Transaction, name: ModelName, now: float) -> Model:
    """Return the model, added now where it was not there."""
    row = tx.get(ModelRow, name)
    if row is not None:
        return to_record(row, Model)
    model = Model(name, now)
    add(tx, ModelRow, model)
    return model


def list_models(tx: Transaction) -> Sequence[Model]:
    rows = tx.exec(select(ModelRow).order_by(col(ModelRow.name)))
    return [to_record(row, Model) for row in rows]


def add_version(tx: Transaction, version: Version, files: Iterable[VersionFile]) -> None:
    """Add a version of a model that is there; raise `Taken` where its name is in use."""
    if tx.get(VersionRow, (version.model, version.name)) is not None:
        raise Taken("version", f"{version.model}:{version.name}")
    add(tx, VersionRow, version)
    for file in files:
        add(tx, VersionFileRow, file, model=version.model, version=version.name)


def save_version(tx: Transaction, version: Version) -> None:
    """Replace what is known of a version; raise `Unknown`."""
    replace(_version_row(tx, version.model, version.name), version)


def get_version(tx: Transaction, model: ModelName, name: VersionName) -> Version:
    """Return a version; raise `Unknown`."""
    return to_record(_version_row(tx, model, name), Version)


def list_versions(tx: Transaction, model: ModelName) -> Sequence[Version]:
    """Return the model's versions, the oldest first; raise `Unknown`."""
    if tx.get(ModelRow, model) is None:
        raise Unknown("model", model)
    rows = tx.exec(
        select(VersionRow).where(VersionRow.model == model).order_by(col(VersionRow.created_at))
    )
    return [to_record(row, Version) for row in rows]


def list_files(tx: Transaction, model: ModelName, name: VersionName) -> Sequence[VersionFile]:
    rows = tx.exec(
        select(VersionFileRow)
        .where(VersionFileRow.model == model, VersionFileRow.version == name)
        .order_by(col(VersionFileRow.name))
    )
    return [to_record(row, VersionFile) for row in rows]


def save_profile(tx: Transaction, profile: Profile) -> None:
    """Add a profile, or replace the one of its name."""
    record = ProfileRecord(profile.name, profile)
    row = tx.get(ProfileRow, profile.name)
    if row is None:
        add(tx, ProfileRow, record)
    else:
        replace(row, record)


def get_profile(tx: Transaction, name: ProfileName) -> Profile:
    """Return a profile; raise `Unknown`."""
    row = tx.get(ProfileRow, name)
    if row is None:
        raise Unknown("profile", name)
    return to_record(row, ProfileRecord).document


def list_profiles(tx: Transaction) -> Sequence[Profile]:
    rows = tx.exec(select(ProfileRow).order_by(col(ProfileRow.name)))
    return [to_record(row, ProfileRecord).document for row in rows]


def add_build(tx: Transaction, build: Build) -> None:
    add(tx, BuildRow, build)


def save_build(tx: Transaction, build: Build) -> None:
    """Replace what is known of a build; raise `Unknown`."""
    replace(_build_row(tx, build.id), build)


def get_build(tx: Transaction, build: str) -> Build:
    """Return a build; raise `Unknown`."""
    return to_record(_build_row(tx, build), Build)


def list_builds(tx: Transaction) -> Sequence[Build]:
    """Return every build, the newest first."""
    rows = tx.exec(select(BuildRow).order_by(col(BuildRow.created_at).desc()))
    return [to_record(row, Build) for row in rows]


def open_builds(tx: Transaction) -> Sequence[Build]:
    """Return the builds that are queued or running, the oldest first."""
    ends = (BuildStatus.QUEUED.value, BuildStatus.RUNNING.value)
    rows = tx.exec(
        select(BuildRow).where(col(BuildRow.status).in_(ends)).order_by(col(BuildRow.created_at))
    )
    return [to_record(row, Build) for row in rows]


def save_variant(tx: Transaction, variant: Variant, envelope: bytes) -> None:
    """Add a variant and its bundle's signed manifest, or replace the variant of the same place."""
    if tx.get(BundleRow, variant.bundle) is None:
        add(tx, BundleRow, BundleRecord(variant.bundle, envelope))
    row = tx.get(VariantRow, (variant.model, variant.version, variant.profile))
    if row is None:
        add(tx, VariantRow, variant)
    else:
        replace(row, variant)


def get_variant(
    tx: Transaction, model: ModelName, version: VersionName, *, profile: ProfileName
) -> Variant:
    """Return the version's variant for a profile; raise `Unknown`."""
    row = tx.get(VariantRow, (model, version, profile))
    if row is None:
        raise Unknown("variant", f"{model}:{version} for {profile}")
    return to_record(row, Variant)


def list_variants(tx: Transaction, model: ModelName, version: VersionName) -> Sequence[Variant]:
    rows = tx.exec(
        select(VariantRow)
        .where(VariantRow.model == model, VariantRow.version == version)
        .order_by(col(VariantRow.profile))
    )
    return [to_record(row, Variant) for row in rows]


def variants_of_bundle(tx: Transaction, bundle: Digest) -> Sequence[Variant]:
    rows = tx.exec(select(VariantRow).where(VariantRow.bundle == bundle))
    return [to_record(row, Variant) for row in rows]


def get_envelope(tx: Transaction, bundle: Digest) -> bytes:
    """Return a bundle's signed manifest; raise `Unknown`."""
    row = tx.get(BundleRow, bundle)
    if row is None:
        raise Unknown("bundle", bundle)
    return row.envelope


def _version_row(tx: Transaction, model: ModelName, name: VersionName) -> VersionRow:
    row = tx.get(VersionRow, (model, name))
    if row is None:
        raise Unknown("version", f"{model}:{name}")
    return row


def _build_row(tx: Transaction, build: str) -> BuildRow:
    row = tx.get(BuildRow, build)
    if row is None:
        raise Unknown("build", build)
    return row
