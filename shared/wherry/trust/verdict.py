"""Whether targets let a device install what its order names: one verdict for each bundle.

The director chooses, targets must agree. An older release is no reason to deny: only what is
below the alias's `min_release`, or revoked by the order itself, may not come back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from wherry.measures import Count
from wherry.messages import Order
from wherry.names import AliasName, Digest, ProfileName
from wherry.reasons import Reason
from wherry.trust import metadata
from wherry.trust.metadata import Targets
from wherry.trust.refusals import MetadataRefused
from wherry.trust.target import Denied, Target, Verdict


@dataclass(frozen=True, slots=True)
class Grounds:
    """What a device judges by: who lists which bundle, and what it is itself.

    `listed` holds None for a bundle that targets do not name.
    """

    order: Order
    profile: ProfileName
    min_release: Mapping[AliasName, int]
    listed: Mapping[Digest, Target | Denied | None]


class _OfTargets(msgspec.Struct, frozen=True):
    min_release: dict[AliasName, Count] = msgspec.field(default_factory=dict)


def min_release_of(targets: Targets) -> Mapping[AliasName, int]:
    """Return the least release of each alias that may still be installed."""
    return metadata.wherry_of(targets, _OfTargets).min_release


def listed_in(targets: Targets, digest: Digest) -> Target | Denied | None:
    """Return what `targets` say of the bundle; None where they do not name it."""
    entry = targets.targets.get(digest)
    if entry is None:
        return None
    if entry.hashes != {"sha256": digest}:
        return Denied(Reason.WRONG_MANIFEST, "its entry in targets is for other bytes")
    try:
        return metadata.custom_of(entry, Target)
    except MetadataRefused as error:
        return Denied(error.reason, error.detail)


def to_serve(grounds: Grounds, alias: AliasName, digest: Digest) -> Verdict:
    """Judge a bundle that the order wants under `alias`."""
    target = _of_this_device(grounds, digest)
    if isinstance(target, Denied):
        return target
    if target.measuring:
        return Denied(Reason.ONLY_FOR_MEASURING, "it is a bundle for measuring")
    release, least = target.releases.get(alias), grounds.min_release.get(alias, 0)
    if release is None:
        return Denied(Reason.WRONG_ALIAS, f"{_name(target)} is no release under {alias}")
    if release < least:
        return Denied(Reason.BELOW_MIN_RELEASE, f"it is release {release} and {least} is the least")
    return target


def to_measure(grounds: Grounds, digest: Digest) -> Verdict:
    """Judge a bundle that the order wants a trial of."""
    target = _of_this_device(grounds, digest)
    if isinstance(target, Target) and not target.measuring:
        return Denied(Reason.NOT_FOR_MEASURING, f"{_name(target)} is a bundle for serving")
    return target


def _of_this_device(grounds: Grounds, digest: Digest) -> Verdict:
    target = grounds.listed.get(digest)
    if target is None:
        return Denied(Reason.NOT_IN_TARGETS, "the director names it and targets do not")
    if isinstance(target, Denied):
        return target
    if digest in grounds.order.revoked:
        return Denied(Reason.REVOKED, "the order that wants it revokes it")
    if target.profile != grounds.profile:
        problem = f"it is for {target.profile} and this device is {grounds.profile}"
        return Denied(Reason.UNSUITABLE_PROFILE, problem)
    return target


def _name(target: Target) -> str:
    return f"{target.model}:{target.version}"
