"""What the repository says of a bundle, in the custom part of its target.

A device judges by it before it fetches anything. A target's path is the bundle's digest, and its
one hash says the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from wherry.measures import Count
from wherry.names import AliasName, ModelName, ProfileName, VersionName
from wherry.reasons import Reason


class Target(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A bundle as the repository vouches for it.

    `releases` are its counters by alias, empty until a rollout names it; `needs` the least release
    of other aliases that a device must have before it takes this one.
    """

    model: ModelName
    version: VersionName
    profile: ProfileName
    measuring: bool = False
    releases: dict[AliasName, Count] = msgspec.field(default_factory=dict)
    needs: dict[AliasName, Count] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Denied:
    """Why this bundle may not be installed here."""

    reason: Reason
    detail: str


Verdict: TypeAlias = Target | Denied


def missing_needs(target: Target, there: Mapping[AliasName, int]) -> dict[AliasName, int]:
    """Return the releases that `target` needs and a device that has `there` lacks."""
    return {alias: least for alias, least in target.needs.items() if there.get(alias, 0) < least}
