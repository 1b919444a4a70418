"""What an order's bundles need of one another: releases that a device has, or that come with it."""

from __future__ import annotations

from collections.abc import Mapping

from wherry.names import AliasName
from wherry.reasons import Reason
from wherry.trust.target import Denied, Target, missing_needs


def find_unmet(
    comes: Mapping[AliasName, Target], there: Mapping[AliasName, int]
) -> dict[AliasName, Denied]:
    """Return the aliases whose bundle lacks a release, with what it lacks.

    `comes` is what the order brings to each alias, `there` the release that each serves. What is
    denied here brings nothing to others, who fall back on what is there; bundles that need one
    another come together or not at all.
    """
    unmet: dict[AliasName, Denied] = {}
    while True:
        brings = {
            alias: target.releases.get(alias, 0)
            for alias, target in comes.items()
            if alias not in unmet
        }
        lacks = {
            alias: missing_needs(target, {**there, **brings})
            for alias, target in comes.items()
            if alias not in unmet
        }
        found = {alias: _denied(missing) for alias, missing in lacks.items() if missing}
        if not found:
            return unmet
        unmet |= found


def _denied(missing: Mapping[AliasName, int]) -> Denied:
    needs = ", ".join(f"release {least} of {alias}" for alias, least in sorted(missing.items()))
    return Denied(Reason.MISSING_DEPENDENCY, f"it needs {needs}: roll that out to this device")
