"""What can be said of a profile by looking at it: what it is like, what a build would need."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from wherry.names import ProfileName
from wherry.profile import (
    Facts,
    Profile,
    accepts_runtime,
    evaluated_runtime,
    find_wrong_processor,
    find_wrong_system,
)

# Its name, and where its facts come from.
BESIDE_THE_POINT = frozenset({"name", "detected"})


class Use(StrEnum):
    """What a build needs a place for."""

    EVALUATED = "evaluated"
    FLOOR = "floor"
    EMULATED = "emulated"
    PROCESSOR = "processor"


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a build here can have what it needs; `problem` is empty where it is ready."""

    use: Use
    place: str
    problem: str = ""


def fitting(profile: Profile, known: Sequence[Profile]) -> tuple[ProfileName, ...]:
    """Return the known profiles that a machine of this profile meets, the most demanding first.

    The profile's own facts are taken for the machine's: for one that was read off a device.
    """
    facts = _facts_of(profile)
    fits = [other for other in known if _meets(profile, facts, other)]
    fits.sort(key=lambda other: (-len(other.cpu_features), -(other.memory_bytes or 0), other.name))
    return tuple(other.name for other in fits)


def differing(profile: Profile, other: Profile) -> tuple[str, ...]:
    """Return the names of the facts in which two profiles differ, but for their own names."""
    names = (name for name in profile.__struct_fields__ if name not in BESIDE_THE_POINT)
    return tuple(name for name in names if getattr(profile, name) != getattr(other, name))


def _facts_of(profile: Profile) -> Facts:
    return Facts(
        arch=profile.arch.value,
        cpu_features=profile.cpu_features,
        page_size_bytes=profile.page_size_bytes,
        memory_bytes=profile.memory_bytes or 0,
        libc=profile.libc_floor,
        python=profile.python_floor,
    )


def _meets(profile: Profile, facts: Facts, other: Profile) -> bool:
    lack = find_wrong_processor(other, facts) or find_wrong_system(other, facts)
    is_same = profile.runtime is other.runtime and profile.provider == other.provider
    return lack is None and is_same and accepts_runtime(other, evaluated_runtime(profile))
