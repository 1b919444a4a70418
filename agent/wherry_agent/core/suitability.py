"""Whether a bundle is one for this device, decided before anything of it is fetched."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from wherry.manifest import Manifest
from wherry.names import ProfileName
from wherry.profile import (
    Arch,
    Facts,
    Profile,
    Runtime,
    accepts_runtime,
    find_wrong_processor,
    find_wrong_system,
    is_release_of,
    wanted_runtime,
)
from wherry.reasons import Reason

DISK_SPARE_BYTES = 16 << 20


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What this device is: `runtimes` maps a runtime to the version installed here.

    `bad_runtimes` says of some of them what is wrong with them. `simulates` says that a development
    setting lets it stand in for another processor.
    """

    profile: ProfileName
    facts: Facts
    runtimes: Mapping[str, str]
    bad_runtimes: Mapping[str, str] = {}
    simulates: bool = False


class KnownBad(msgspec.Struct, frozen=True, kw_only=True):
    """A release of a runtime that does not run on processors of `arch` that lack a feature."""

    runtime: Runtime
    version: str
    arch: Arch
    lacks: str
    harm: str
    source: str


KNOWN_BAD = (
    KnownBad(
        runtime=Runtime.ONNXRUNTIME,
        version="1.21.0",
        arch=Arch.AARCH64,
        lacks="atomics",  # Of ARMv8.1; Cortex-A53, A72 and A73 are of 8.0.
        harm="it ends by an illegal instruction when it is imported, 1.20 and 1.22 do not",
        source="https://github.com/microsoft/onnxruntime/issues/23957",
    ),
)


class Unfit(msgspec.Struct, frozen=True):
    reason: Reason
    detail: str


def find_unfit(
    manifest: Manifest,
    machine: Machine,
    *,
    needed_bytes: int,
    free_bytes: int,
    reserve_bytes: int = DISK_SPARE_BYTES,
) -> Unfit | None:
    """Return why the bundle cannot be for this device, or None.

    `needed_bytes` is what it will yet take of the disk; 0: it is there. `reserve_bytes` stay free.
    """
    profile = manifest.profile
    if profile.name != machine.profile:
        detail = (
            f"it is built for {profile.name} and this device is {machine.profile}: "
            "order the variant of its own profile"
        )
        return Unfit(Reason.UNSUITABLE_PROFILE, detail)
    lack = find_lack(profile, machine)
    if lack:
        detail = (
            f"{lack}: enrol it with the profile that it has (`wherry-agent profile` proposes one)"
        )
        return Unfit(Reason.UNSUITABLE_PROFILE, detail)
    version = machine.runtimes.get(profile.runtime.value)
    if version is None:
        detail = f"install {profile.runtime.value} on this device"
        return Unfit(Reason.MISSING_RUNTIME, detail)
    if not accepts_runtime(profile, version):
        detail = (
            f"it needs {wanted_runtime(profile)} and {version} is here: "
            "install that version, or correct the profile"
        )
        return Unfit(Reason.MISSING_RUNTIME, detail)
    if profile.runtime.value in machine.bad_runtimes:
        wrong = machine.bad_runtimes[profile.runtime.value]
        detail = (
            f"{profile.runtime.value} {version} does not run on this device: {wrong}: "
            "install another version"
        )
        return Unfit(Reason.BAD_RUNTIME, detail)
    if needed_bytes and needed_bytes + reserve_bytes > free_bytes:
        needed_mib, free_mib = (needed_bytes + reserve_bytes) >> 20, free_bytes >> 20
        detail = f"{needed_mib} MiB are needed and {free_mib} MiB are free: make room"
        return Unfit(Reason.DISK_FULL, detail)
    return None


def find_known_bad(runtime: Runtime, version: str, facts: Facts) -> str | None:
    """Return what is known to be wrong with a runtime on this machine, and where it was told."""
    for known in KNOWN_BAD:
        is_it = known.runtime is runtime and is_release_of(version, known.version)
        lacks = bool(facts.cpu_features) and known.lacks not in facts.cpu_features
        if is_it and known.arch.value == facts.arch and lacks:
            return f"{known.harm} ({known.source})"
    return None


def find_lack(profile: Profile, machine: Machine) -> str | None:
    """Return what the profile asks for and this machine does not detect, or None."""
    processor = None if machine.simulates else find_wrong_processor(profile, machine.facts)
    return processor or find_wrong_system(profile, machine.facts)
