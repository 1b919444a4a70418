"""The hardware class a bundle is built for.

A profile is data that an operator declares; a fact that was read off a device instead stands
in `detected`, so that every fact says where it comes from.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from wherry.errors import Malformed
from wherry.names import ProfileName

CPU_PROVIDER = "CPUExecutionProvider"


class Arch(str, Enum):
    X86_64 = "x86_64"
    AARCH64 = "aarch64"
    ARMV7L = "armv7l"


class Runtime(str, Enum):
    ONNXRUNTIME = "onnxruntime"
    LITERT = "litert"
    TFLITE = "tflite-runtime"


class Precision(str, Enum):
    """What a variant computes and stores in.

    `int8` is static: weights and activations, with ranges from calibration. `int8_dynamic` finds
    the activations' ranges at each run; `int8_weights` and `int4` store weights only so.
    """

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    INT8_DYNAMIC = "int8_dynamic"
    INT8_WEIGHTS = "int8_weights"
    INT4 = "int4"


class Activation(str, Enum):
    """The integer type of quantized activations: U8 on x86 with VNNI, S8 on ARM."""

    S8 = "s8"
    U8 = "u8"


class Objective(str, Enum):
    """What counts most among variants that meet every goal."""

    LATENCY = "latency"
    SIZE = "size"
    MEMORY = "memory"
    METRIC = "metric"


class BadProfile(Malformed):
    """A profile whose facts contradict one another."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(name, problem)
        self.name, self.problem = name, problem

    def __str__(self) -> str:
        return f"profile {self.name!r} cannot be: {self.problem}; correct its file."


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Hardware, runtime, policy, runtime settings and budgets of one class of devices.

    Runtime versions are `floor <= v < below`; variants are evaluated on `runtime_version` (empty:
    the floor) and have to load on the floor too. `cpu_features` are by Linux's names, each
    required, and `avx512_vnni|avx_vnni` asks for one of the two; `page_size_bytes` is the largest
    page that a device's kernel may have. On each of `emulated_cpus` (QEMU's names) the golden
    outputs must hold before a variant is shipped.

    `precisions` are those that may be tried, and `prefer` says which of the good ones wins.
    `metric_floor` and `largest_drop` replace the version's goals here. Budgets are upper bounds and
    None where there is none; `memory_bytes` is the peak while the serving bundle and the next one
    are both resident. A profile that is not `verified` names a provider that no build can run: its
    variants are evaluated on the CPU, and say so.
    """

    name: ProfileName
    arch: Arch
    runtime: Runtime
    runtime_floor: str
    runtime_below: str
    runtime_version: str = ""
    precisions: tuple[Precision, ...] = (Precision.FP32,)
    activation: Activation = Activation.S8
    reduced_range: bool = False
    prefer: Objective = Objective.LATENCY
    metric_floor: float | None = None
    largest_drop: float | None = None
    provider: str = CPU_PROVIDER
    verified: bool = True
    cpu_features: tuple[str, ...] = ()
    emulated_cpus: tuple[str, ...] = ()
    libc_floor: str = "2.28"
    python_floor: str = "3.10"
    page_size_bytes: int = 4096
    max_ir: int = 10
    max_opset: int = 20
    threads: int = 1
    spinning: bool = False
    affinity: tuple[int, ...] = ()
    max_batch: int = 64
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    size_bytes: int | None = None
    latency_ms: float | None = None
    detected: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.threads < 1 or self.max_batch < 1:
            raise BadProfile(self.name, "threads and max_batch start at 1")
        if not self.precisions:
            raise BadProfile(self.name, "precisions is empty")
        if not version_key(self.runtime_floor):
            raise BadProfile(self.name, "runtime_floor is no version")
        if not version_key(self.runtime_floor) < version_key(self.runtime_below):
            raise BadProfile(self.name, "runtime_floor is not below runtime_below")
        if self.runtime_version and not accepts_runtime(self, self.runtime_version):
            raise BadProfile(self.name, "runtime_version is not in the range of runtime versions")
        if self.largest_drop is not None and self.largest_drop < 0:
            raise BadProfile(self.name, "largest_drop is below 0")
        strange = set(self.detected) - set(self.__struct_fields__)
        if strange:
            raise BadProfile(self.name, f"{min(strange)!r} in detected is no fact of a profile")


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine detects of itself; what it cannot tell is empty, and meets no requirement.

    `cpu_features` are by Linux's names, `libc` is glibc's version, `model` the board's or the
    processor's name.
    """

    arch: str
    model: str = ""
    cpu_features: tuple[str, ...] = ()
    cores: int = 1
    page_size_bytes: int = 0
    memory_bytes: int = 0
    libc: str = ""
    python: str = ""


def find_wrong_processor(profile: Profile, facts: Facts) -> str | None:
    """Return what the profile asks of a processor and its kernel and these facts lack, or None."""
    if profile.arch.value != facts.arch:
        return f"it is built for {profile.arch.value} and this machine is {facts.arch}"
    for wanted in profile.cpu_features:
        choices = wanted.split("|")
        if not set(choices) & set(facts.cpu_features):
            return f"it needs a processor with {' or '.join(choices)} and this one has none"
    if facts.page_size_bytes > profile.page_size_bytes:
        return (
            f"it is for memory pages of up to {profile.page_size_bytes} bytes "
            f"and this kernel's have {facts.page_size_bytes}"
        )
    return None


def find_wrong_system(profile: Profile, facts: Facts) -> str | None:
    """Return what the profile asks of the system around the runtime and is missing, or None."""
    floors = (
        ("glibc", profile.libc_floor, facts.libc),
        ("Python", profile.python_floor, facts.python),
    )
    for what, floor, here in floors:
        if version_key(here) < version_key(floor):
            return f"it needs {what} from {floor} and {here or 'none'} is here"
    budget_bytes = profile.memory_bytes or 0
    if facts.memory_bytes < budget_bytes:
        needed_mib, here_mib = budget_bytes >> 20, facts.memory_bytes >> 20
        return f"it may take {needed_mib} MiB of memory and this machine has {here_mib}"
    return None


def accepts_runtime(profile: Profile, version: str) -> bool:
    """Say whether the runtime version that a device has lies in the profile's range."""
    floor, below = version_key(profile.runtime_floor), version_key(profile.runtime_below)
    return floor <= version_key(version) < below


def evaluated_runtime(profile: Profile) -> str:
    """Return the runtime version, or its first parts, on which the profile's variants are run."""
    return profile.runtime_version or profile.runtime_floor


def is_release_of(version: str, wanted: str) -> bool:
    """Say whether `version` is `wanted`, or one of its releases where `wanted` is only `1.31`."""
    key = version_key(wanted)
    return version_key(version)[: len(key)] == key


def wanted_runtime(profile: Profile) -> str:
    """Return the runtime and versions that a profile asks for, as a person reads them."""
    return f"{profile.runtime.value} from {profile.runtime_floor} to below {profile.runtime_below}"


def version_key(version: str) -> tuple[int, ...]:
    """Return the numbers of a dotted version, up to the first part that is none."""
    numbers: list[int] = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)
