"""Where a variant is run: a runtime in one version, on this machine or on an emulated processor."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from wherry.profile import Arch, Profile, Runtime, evaluated_runtime

MACHINES = {"x86_64": Arch.X86_64, "amd64": Arch.X86_64, "aarch64": Arch.AARCH64}
MACHINES |= {"arm64": Arch.AARCH64, "armv7l": Arch.ARMV7L}


@dataclass(frozen=True, slots=True)
class Place:
    """`version` may be its first parts (`1.31`); `cpu` is QEMU's name, or "": this machine."""

    runtime: Runtime
    version: str
    arch: Arch
    cpu: str = ""


@dataclass(frozen=True, slots=True)
class Places:
    """Where a profile's variants are evaluated, have to load too, and have to prove themselves."""

    evaluated: Place
    floor: Place
    emulated: tuple[Place, ...]


def this_arch() -> Arch:
    return MACHINES[platform.machine().lower()]


def places_of(profile: Profile) -> Places:
    """Return the places of a profile: whatever its arch, its metric is measured on this machine."""
    runtime, version, here = profile.runtime, evaluated_runtime(profile), this_arch()
    return Places(
        evaluated=Place(runtime, version, here),
        floor=Place(runtime, profile.runtime_floor, here),
        emulated=tuple(Place(runtime, version, profile.arch, cpu) for cpu in profile.emulated_cpus),
    )
