"""The report of a version, gathered from the database."""

from __future__ import annotations

from wherry.names import Digest, ModelName, VersionName
from wherry_controller.core.report import ProfilePart, VersionReport
from wherry_controller.services.missing import UnknownReport
from wherry_controller.services.models import version_of
from wherry_controller.store import models
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import KeptReport


def report_of(tx: Transaction, model: ModelName, name: VersionName) -> VersionReport:
    """Return a version's report; raise `UnknownVersion`, or `UnknownReport` before any build."""
    version = version_of(tx, model, name)
    kept = models.list_reports(tx, model, name)
    if not kept:
        raise UnknownReport(f"{model}:{name}")
    bundles = {one.profile: one.bundle for one in models.list_variants(tx, model, name)}
    return VersionReport(
        model=model,
        version=name,
        lineage=version.lineage,
        reference=version.reference,
        profiles=tuple(_part(one, bundles.get(one.profile)) for one in kept),
    )


def _part(kept: KeptReport, bundle: Digest | None) -> ProfilePart:
    return ProfilePart(
        build=kept.build,
        built_at=kept.created_at,
        bundle=bundle if kept.document.chosen is not None else None,
        tools=kept.tools,
        report=kept.document,
    )
