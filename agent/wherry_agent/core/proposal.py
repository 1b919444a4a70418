"""The profile that a machine's own facts propose, as TOML that `wherry profile add` takes.

What was read off the machine stands in `detected`; the rest is a start for the operator. It has
a name of its own, so that adding it replaces no profile that comes along with the controller.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import msgspec
from msgspec.structs import replace

from wherry.errors import Unsuitable
from wherry.names import parse_profile_name
from wherry.profile import Activation, Arch, Facts, Precision, Profile, Runtime, version_key

# Of all that a processor can do, what decides how fast or how exactly a net runs.
ON_ARM = ("asimd", "asimddp", "asimdhp", "bf16", "i8mm", "neon", "sve")
ON_X86 = ("amx_int8", "avx", "avx2", "avx512_vnni", "avx512f", "avx_vnni", "f16c", "fma", "sse4_2")
TELLING = frozenset({*ON_ARM, *ON_X86})
VNNI = frozenset({"avx512_vnni", "avx_vnni"})
OLDEST_LIBC = "2.28"
LONGEST_NAME = 50

_BOARDS = (
    (r"Raspberry Pi Zero 2", "raspberry-pi-zero-2"),
    (r"Raspberry Pi (4|400|Compute Module 4S?)\b", "raspberry-pi-4"),
    (r"Raspberry Pi (5|500|Compute Module 5)\b", "raspberry-pi-5"),
    (r"Jetson .*Orin", "jetson-orin"),
)
_FLOORS = {Runtime.ONNXRUNTIME: "1.23.2", Runtime.LITERT: "2.1", Runtime.TFLITE: "2.14.0"}
# What each runtime gains by: fp16 is of no use to onnxruntime on ARM, and tflite-runtime loads
# the int8_dynamic files of today's converters and answers at chance level.
_USELESS = {
    Runtime.ONNXRUNTIME: {Precision.INT8_WEIGHTS},
    Runtime.LITERT: {Precision.INT4},
    Runtime.TFLITE: {Precision.INT4, Precision.INT8_DYNAMIC},
}
_OF_THE_PROCESSOR = ("arch", "cpu_features", "activation", "reduced_range", "page_size_bytes")
_OF_THE_RUNTIME = ("runtime", "runtime_floor", "runtime_version")


class UnknownArch(Unsuitable):
    """A machine for which no bundle can be built."""

    def __init__(self, arch: str) -> None:
        super().__init__(arch)
        self.arch = arch

    def __str__(self) -> str:
        known = ", ".join(arch.value for arch in Arch)
        return f"nothing is built for {self.arch}: run the agent on one of {known}."


class Proposal(msgspec.Struct, frozen=True):
    """A profile from this machine's facts, and the name of the known one for such hardware."""

    facts: Facts
    known_as: str
    profile: Profile


def propose(facts: Facts, runtimes: Mapping[str, str]) -> Proposal:
    """Return the profile that the facts propose; `runtimes` maps a runtime to its version here.

    Raises `UnknownArch`.
    """
    if facts.arch not in {arch.value for arch in Arch}:
        raise UnknownArch(facts.arch)
    known_as = known_name(facts)
    runtime, version = _runtime_of(facts, runtimes)
    floor, has_vnni = version or _FLOORS[runtime], not VNNI.isdisjoint(facts.cpu_features)
    profile = Profile(
        name=parse_profile_name(f"{known_as or _slug(facts.model) or 'this'}-detected"),
        arch=Arch(facts.arch),
        cpu_features=_telling(facts),
        runtime=runtime,
        runtime_floor=floor,
        runtime_below=str(version_key(floor)[0] + 1),
        runtime_version=version,
        precisions=tuple(_precisions(runtime, facts.arch)),
        activation=Activation.U8 if has_vnni else Activation.S8,
        reduced_range=facts.arch == Arch.X86_64.value and not has_vnni,
        page_size_bytes=facts.page_size_bytes,
        libc_floor=facts.libc or OLDEST_LIBC,
        python_floor=".".join(map(str, version_key(facts.python)[:2])),
        memory_bytes=facts.memory_bytes // 2,
        detected=tuple(_detected(facts, version)),
    )
    return Proposal(facts, known_as, profile)


def known_name(facts: Facts) -> str:
    """Return the profile for such hardware that comes along with the controller, or nothing."""
    match facts.arch:
        case Arch.X86_64.value:
            has_vnni = not VNNI.isdisjoint(facts.cpu_features)
            return "x86-64-vnni" if has_vnni else "generic-x86-64"
        case Arch.ARMV7L.value:
            return "armv7-tflite"
        case Arch.AARCH64.value:
            names = (name for form, name in _BOARDS if re.search(form, facts.model))
            return next(names, "")
        case _:
            return ""


def telling(facts: Facts) -> Facts:
    """Return the facts without the features that do not count: fit for a report that is short."""
    return replace(facts, cpu_features=_telling(facts))


def toml_of(proposal: Proposal) -> str:
    """Return the profile as TOML that says what it was read from and what is yet to be done."""
    return "\n".join([*_remarks(proposal), *_rows(proposal.profile)]) + "\n"


def _remarks(proposal: Proposal) -> Iterator[str]:
    facts, profile = proposal.facts, proposal.profile
    yield f"# Proposed for {facts.model or 'this machine'}, {facts.cores} cores: give it a name."
    yield "# What stands in `detected` was read off it; the rest is a start, for you to change."
    if proposal.known_as:
        yield f"# The controller has a profile for such hardware, {proposal.known_as}: prefer it."
    if not profile.runtime_version:
        yield f"# No runtime is installed here: {profile.runtime.value} is what could be."
    yield "# memory_bytes is half of what the machine has; features that do not count are left out."


def _rows(profile: Profile) -> Iterator[str]:
    standard = msgspec.to_builtins(
        Profile(
            name=profile.name,
            arch=profile.arch,
            runtime=profile.runtime,
            runtime_floor=profile.runtime_floor,
            runtime_below=profile.runtime_below,
        )
    )
    needed = {"name", "arch", "runtime", "runtime_floor", "runtime_below", *profile.detected}
    for name, value in msgspec.to_builtins(profile).items():
        if name in needed or value != standard[name]:
            # JSON's strings, numbers, booleans and arrays of them are TOML's.
            yield f"{name} = {msgspec.json.encode(value).decode()}"


def _runtime_of(facts: Facts, runtimes: Mapping[str, str]) -> tuple[Runtime, str]:
    """Return the runtime and its version here; no version where none is installed."""
    for runtime in Runtime:
        if version_key(runtimes.get(runtime.value, "")):
            return runtime, runtimes[runtime.value]
    is_narrow = facts.arch == Arch.ARMV7L.value
    return Runtime.TFLITE if is_narrow else Runtime.ONNXRUNTIME, ""


def _telling(facts: Facts) -> tuple[str, ...]:
    return tuple(name for name in facts.cpu_features if name in TELLING)


def _precisions(runtime: Runtime, arch: str) -> Iterator[Precision]:
    is_arm_onnx = runtime is Runtime.ONNXRUNTIME and arch != Arch.X86_64.value
    useless = _USELESS[runtime] | ({Precision.FP16} if is_arm_onnx else set())
    return (one for one in Precision if one not in useless)


def _detected(facts: Facts, version: str) -> Iterator[str]:
    yield from _OF_THE_PROCESSOR
    yield from ("libc_floor", "python_floor") if facts.libc else ("python_floor",)
    yield from _OF_THE_RUNTIME if version else ()


def _slug(model: str) -> str:
    words = re.findall(r"[a-z0-9]+", model.lower())
    return "-".join(words)[:LONGEST_NAME].rstrip("-")
