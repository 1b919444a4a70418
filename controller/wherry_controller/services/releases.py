"""A version made a release of an alias, which is what lets devices take it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from wherry.errors import Unsuitable
from wherry.manifest import Manifest, open_manifest
from wherry.names import AliasName, Digest
from wherry_controller.core.rollout import Plan
from wherry_controller.store import models
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import Version
from wherry_controller.store.trust import latest_counter

WAITS_FOR_SIGNATURE = (
    "its release waits for the bundle key's signature: sign what `wherry keys status` names with "
    "`wherry keys sign`, and bring it with `wherry keys publish`"
)


class NeedsNothing(Unsuitable):
    """A need of a release that nothing is: no device could ever take what needs it."""

    def __init__(self, alias: str, wanted: int, latest: int) -> None:
        super().__init__(alias, wanted, latest)
        self.alias, self.wanted, self.latest = alias, wanted, latest

    def __str__(self) -> str:
        return (
            f"there is no release {self.wanted} of {self.alias!r}, whose newest is {self.latest}: "
            f"roll that out first, or need {self.latest} at most."
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
    vouched for first. Returns the release's counter; raises `NeedsNothing`.
    """
    for alias, wanted in plan.needs.items():
        latest = latest_counter(tx, alias)
        if wanted > latest:
            raise NeedsNothing(alias, wanted, latest)
    bundles = [one.bundle for one in models.list_variants(tx, version.model, version.name)]
    for bundle in bundles:
        envelope = models.get_envelope(tx, bundle)
        assert envelope is not None  # A foreign key holds it.
        trust.add_bundle(tx, open_manifest(envelope, bundle), bundle, now)
    return trust.release(tx, plan.alias, bundles, now=now, needs=plan.needs)
