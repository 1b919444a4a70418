"""Models, their versions, profiles, builds, variants and reports in the database.

`get_` returns None where there is nothing, `save_` adds or replaces, `list_` is in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlmodel import col, select

from wherry.names import Digest, ModelName, ProfileName, VersionName
from wherry.profile import Profile
from wherry_controller.store.convert import get, save, to_record
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import (
    Build,
    BuildStatus,
    BundleRecord,
    KeptReport,
    Model,
    ProfileRecord,
    Variant,
    Version,
    VersionFile,
)
from wherry_controller.store.tables import (
    BuildRow,
    BundleRow,
    ModelRow,
    ProfileRow,
    ReportRow,
    VariantRow,
    VersionFileRow,
    VersionRow,
)

OPEN_BUILDS = [status.value for status in BuildStatus if status.is_open]


def get_model(tx: Transaction, name: ModelName) -> Model | None:
    return get(tx, ModelRow, name, Model)


def save_model(tx: Transaction, model: Model) -> None:
    save(tx, ModelRow, model)


def list_models(tx: Transaction) -> Sequence[Model]:
    rows = tx.exec(select(ModelRow).order_by(col(ModelRow.name)))
    return [to_record(row, Model) for row in rows]


def get_version(tx: Transaction, model: ModelName, name: VersionName) -> Version | None:
    return get(tx, VersionRow, (model, name), Version)


def save_version(tx: Transaction, version: Version, files: Iterable[VersionFile] = ()) -> None:
    """Add or replace a version of a model that is there, and those of its files that are given."""
    save(tx, VersionRow, version)
    for file in files:
        save(tx, VersionFileRow, file, model=version.model, version=version.name)


def list_versions(tx: Transaction, model: ModelName) -> Sequence[Version]:
    """Return the model's versions, the oldest first."""
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


def get_profile(tx: Transaction, name: ProfileName) -> Profile | None:
    record = get(tx, ProfileRow, name, ProfileRecord)
    return None if record is None else record.document


def save_profile(tx: Transaction, profile: Profile) -> None:
    save(tx, ProfileRow, ProfileRecord(profile.name, profile))


def list_profiles(tx: Transaction) -> Sequence[Profile]:
    rows = tx.exec(select(ProfileRow).order_by(col(ProfileRow.name)))
    return [to_record(row, ProfileRecord).document for row in rows]


def get_build(tx: Transaction, build: str) -> Build | None:
    return get(tx, BuildRow, build, Build)


def save_build(tx: Transaction, build: Build) -> None:
    save(tx, BuildRow, build)


def list_builds(tx: Transaction) -> Sequence[Build]:
    """Return every build, the newest first."""
    rows = tx.exec(select(BuildRow).order_by(col(BuildRow.created_at).desc()))
    return [to_record(row, Build) for row in rows]


def open_builds(tx: Transaction) -> Sequence[Build]:
    """Return the builds that are queued or running, the oldest first."""
    rows = tx.exec(
        select(BuildRow)
        .where(col(BuildRow.status).in_(OPEN_BUILDS))
        .order_by(col(BuildRow.created_at))
    )
    return [to_record(row, Build) for row in rows]


def save_variant(tx: Transaction, variant: Variant, envelope: bytes) -> None:
    """Add or replace a variant, with its bundle's signed manifest."""
    save(tx, BundleRow, BundleRecord(variant.bundle, envelope))
    save(tx, VariantRow, variant)


def save_bundle(tx: Transaction, bundle: Digest, envelope: bytes) -> None:
    """Add a bundle's signed manifest that is no variant's."""
    save(tx, BundleRow, BundleRecord(bundle, envelope))


def list_variants(tx: Transaction, model: ModelName, version: VersionName) -> Sequence[Variant]:
    rows = tx.exec(
        select(VariantRow)
        .where(VariantRow.model == model, VariantRow.version == version)
        .order_by(col(VariantRow.profile))
    )
    return [to_record(row, Variant) for row in rows]


def save_report(tx: Transaction, report: KeptReport) -> None:
    """Add a profile's report, or replace that of an earlier build."""
    save(tx, ReportRow, report)


def list_reports(tx: Transaction, model: ModelName, version: VersionName) -> Sequence[KeptReport]:
    rows = tx.exec(
        select(ReportRow)
        .where(ReportRow.model == model, ReportRow.version == version)
        .order_by(col(ReportRow.profile))
    )
    return [to_record(row, KeptReport) for row in rows]


def list_bundles(tx: Transaction) -> Sequence[Variant]:
    """Return the variants of all versions, the newest first: each names its bundle."""
    rows = tx.exec(select(VariantRow).order_by(col(VariantRow.created_at).desc()))
    return [to_record(row, Variant) for row in rows]


def get_envelope(tx: Transaction, bundle: Digest) -> bytes | None:
    """Return a bundle's signed manifest."""
    record = get(tx, BundleRow, bundle, BundleRecord)
    return None if record is None else record.envelope
