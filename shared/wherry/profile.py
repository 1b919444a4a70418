"""The hardware class a bundle is built for.

A profile is data that an operator declares; a fact that was read off a device instead stands
in `detected`, so that every fact says where it comes from.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from wherry.errors import Malformed
from wherry.names import ProfileName


class Arch(str, Enum):
    X86_64 = "x86_64"
    AARCH64 = "aarch64"
    ARMV7L = "armv7l"


class Runtime(str, Enum):
    ONNXRUNTIME = "onnxruntime"
    LITERT = "litert"
    TFLITE = "tflite-runtime"


class Precision(str, Enum):
    FP32 = "fp32"
    INT8 = "int8"


class Activation(str, Enum):
    """The integer type of quantized activations: U8 on x86 with VNNI, S8 on ARM."""

    S8 = "s8"
    U8 = "u8"


class BadProfile(Malformed):
    """A profile whose facts contradict one another."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(name, problem)
        self.name, self.problem = name, problem

    def __str__(self) -> str:
        return f"profile {self.name!r} cannot be: {self.problem}; correct its file."


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Hardware, runtime, precision, runtime settings and budgets of one class of devices.

    Budgets are upper bounds and None where there is none; `memory_bytes` is the peak while the
    serving bundle and the next one are both resident. Runtime versions are `floor <= v < below`.
    `precisions` stand in order of preference: the first that meets the version's goal is built.

    The builder and the agent go by name, `arch`, runtime and its versions, precisions and their
    form, `max_ir`, `max_opset`, threads, spinning, `max_batch`, `size_bytes` and `latency_ms`. The
    other facts are declared for people so far: nothing is refused or set by them yet.
    """

    name: ProfileName
    arch: Arch
    runtime: Runtime
    runtime_floor: str
    runtime_below: str
    precisions: tuple[Precision, ...] = (Precision.FP32,)
    activation: Activation = Activation.S8
    reduced_range: bool = False
    provider: str = "CPUExecutionProvider"
    cpu_features: tuple[str, ...] = ()
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
        strange = set(self.detected) - set(self.__struct_fields__)
        if strange:
            raise BadProfile(self.name, f"{min(strange)!r} in detected is no fact of a profile")


def accepts_runtime(profile: Profile, version: str) -> bool:
    """Say whether the runtime version that a device has lies in the profile's range."""
    floor, below = version_key(profile.runtime_floor), version_key(profile.runtime_below)
    return floor <= version_key(version) < below


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
