"""A version made a release of an alias, which is what lets devices take it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from wherry.manifest import Manifest, open_manifest
from wherry.names import AliasName, Digest
from wherry_controller.core.rollout import Plan
from wherry_controller.store import models
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import Version

WAITS_FOR_SIGNATURE = (
    "its release waits for the bundle key's signature: sign what `wherry keys status` names with "
    "`wherry keys sign`, and bring it with `wherry keys publish`"
)


class Releasing(Protocol):
    """What makes a version's bundles a release; see `services/trust.py`."""

    def add_bundle(
        self, tx: Transaction, manifest: Manifest, bundle: Digest, now: float
    ) -> None: ...

    def release(
        self,
        tx: Transaction,
        alias: AliasName,
        bundles: Collection[Digest],
        *,
        now: float,
        needs: Mapping[AliasName, int],
    ) -> int: ...

    def unpublished(
        self, tx: Transaction, alias: AliasName, bundles: Collection[Digest]
    ) -> tuple[Digest, ...]: ...


def release(tx: Transaction, trust: Releasing, version: Version, plan: Plan, now: float) -> int:
    """Make every bundle of a version the same release of the plan's alias, whatever its profile.

    A bundle that nobody has vouched for yet (an earlier release of the controller sealed it) is
    vouched for first. Returns the release's counter.
    """
    bundles = [one.bundle for one in models.list_variants(tx, version.model, version.name)]
    for bundle in bundles:
        envelope = models.get_envelope(tx, bundle)
        assert envelope is not None  # A foreign key holds it.
        trust.add_bundle(tx, open_manifest(envelope, bundle), bundle, now)
    return trust.release(tx, plan.alias, bundles, now=now, needs=plan.needs)
