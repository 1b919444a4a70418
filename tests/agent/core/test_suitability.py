"""A bundle is judged before anything of it is fetched, and each refusal has its own reason."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.builders import a_manifest, a_profile
from wherry.manifest import Manifest
from wherry.names import ProfileName
from wherry.profile import Arch, Facts, Runtime
from wherry.reasons import Reason
from wherry_agent.core.suitability import (
    DISK_SPARE_BYTES,
    Machine,
    Unfit,
    find_known_bad,
    find_lack,
    find_unfit,
)

FITTING = a_manifest(
    profile=a_profile(
        name=ProfileName("pi"),
        arch=Arch.AARCH64,
        runtime=Runtime.ONNXRUNTIME,
        runtime_floor="1.20",
        runtime_below="1.32",
    )
)
FACTS = Facts(
    arch="aarch64",
    cpu_features=("asimd", "asimddp"),
    page_size_bytes=4096,
    memory_bytes=1 << 30,
    libc="2.36",
    python="3.11.2",
)
PI = Machine(profile=ProfileName("pi"), facts=FACTS, runtimes={"onnxruntime": "1.31.1"})
PLENTY = 1 << 40


def asking(
    *,
    cpu_features: tuple[str, ...] = (),
    page_size_bytes: int = 4096,
    libc_floor: str = "2.28",
    python_floor: str = "3.10",
    memory_bytes: int | None = None,
) -> Manifest:
    """Return `FITTING` with a profile that asks for more."""
    profile = replace(
        FITTING.profile,
        cpu_features=cpu_features,
        page_size_bytes=page_size_bytes,
        libc_floor=libc_floor,
        python_floor=python_floor,
        memory_bytes=memory_bytes,
    )
    return replace(FITTING, profile=profile)


def judge(
    machine: Machine = PI,
    manifest: Manifest = FITTING,
    *,
    needed_bytes: int = 1000,
    free_bytes: int = PLENTY,
) -> Unfit | None:
    return find_unfit(manifest, machine, needed_bytes=needed_bytes, free_bytes=free_bytes)


def test_a_bundle_for_this_device_is_fit() -> None:
    assert judge() is None


def test_a_bad_runtime_is_no_matter_to_bundles_for_another_one() -> None:
    assert judge(replace(PI, bad_runtimes={"litert": "it was ended by SIGILL"})) is None


@pytest.mark.parametrize(
    ("runtime", "version", "facts", "is_bad"),
    [
        (Runtime.ONNXRUNTIME, "1.21.0", FACTS, True),
        (Runtime.ONNXRUNTIME, "1.21.1", FACTS, False),
        (Runtime.ONNXRUNTIME, "1.22.0", FACTS, False),
        (Runtime.LITERT, "1.21.0", FACTS, False),
        (Runtime.ONNXRUNTIME, "1.21.0", replace(FACTS, arch="x86_64"), False),
        (Runtime.ONNXRUNTIME, "1.21.0", replace(FACTS, cpu_features=("atomics",)), False),
        (Runtime.ONNXRUNTIME, "1.21.0", replace(FACTS, cpu_features=()), False),
    ],
)
def test_a_release_is_known_to_be_bad_on_the_processors_that_it_harms_only(
    runtime: Runtime, version: str, facts: Facts, is_bad: bool
) -> None:
    told = find_known_bad(runtime, version, facts)
    assert (told is not None) is is_bad
    assert told is None or "1.20 and 1.22 do not" in told


@pytest.mark.parametrize(
    ("machine", "reason", "names"),
    [
        (replace(PI, profile=ProfileName("jetson")), Reason.UNSUITABLE_PROFILE, "pi and"),
        (replace(PI, facts=replace(FACTS, arch="x86_64")), Reason.UNSUITABLE_PROFILE, "aarch64"),
        (replace(PI, runtimes={"litert": "2.3"}), Reason.MISSING_RUNTIME, "install onnxruntime"),
        (replace(PI, runtimes={"onnxruntime": "1.19.9"}), Reason.MISSING_RUNTIME, "from 1.20 to"),
        (replace(PI, runtimes={"onnxruntime": "1.32"}), Reason.MISSING_RUNTIME, "below 1.32"),
        (
            replace(PI, bad_runtimes={"onnxruntime": "it was ended by SIGILL"}),
            Reason.BAD_RUNTIME,
            "onnxruntime 1.31.1 does not run on this device: it was ended by SIGILL",
        ),
    ],
    ids=["profile", "arch", "no runtime", "runtime too old", "runtime too new", "bad runtime"],
)
def test_what_does_not_fit_is_refused_for_its_own_reason(
    machine: Machine, reason: Reason, names: str
) -> None:
    unfit = judge(machine)
    assert unfit is not None
    assert unfit.reason is reason
    assert names in unfit.detail


@pytest.mark.parametrize(
    ("manifest", "missing"),
    [
        (asking(cpu_features=("asimd", "i8mm")), "needs a processor with i8mm and this one has"),
        (asking(cpu_features=("i8mm|sve",)), "needs a processor with i8mm or sve"),
        (asking(page_size_bytes=2048), "pages of up to 2048 bytes and this kernel's have 4096"),
        (asking(libc_floor="2.37"), "needs glibc from 2.37 and 2.36 is here"),
        (asking(python_floor="3.12"), "needs Python from 3.12 and 3.11.2 is here"),
        (asking(memory_bytes=2 << 30), "2048 MiB of memory and this machine has 1024"),
    ],
    ids=["feature", "one of two features", "page size", "libc", "Python", "memory"],
)
def test_a_requirement_that_is_not_detected_is_named_with_what_to_do(
    manifest: Manifest, missing: str
) -> None:
    unfit = judge(manifest=manifest)
    assert unfit is not None
    assert unfit.reason is Reason.UNSUITABLE_PROFILE
    assert missing in unfit.detail
    assert "`wherry-agent profile`" in unfit.detail


@pytest.mark.parametrize(
    "manifest",
    [
        asking(cpu_features=("asimd", "asimddp|i8mm")),
        asking(page_size_bytes=16384),
        asking(libc_floor="2.36", python_floor="3.11"),
        asking(memory_bytes=1 << 30),
    ],
    ids=["features", "smaller pages", "floors", "all of the memory"],
)
def test_a_requirement_that_is_just_met_is_no_hindrance(manifest: Manifest) -> None:
    assert judge(manifest=manifest) is None


def test_what_a_machine_cannot_tell_meets_no_requirement() -> None:
    mute = replace(PI, facts=Facts(arch="aarch64"))
    assert "none is here" in (find_lack(asking().profile, mute) or "")
    assert "none" in (find_lack(asking(cpu_features=("asimd",)).profile, mute) or "")


@pytest.mark.parametrize("version", ["1.20", "1.20.0", "1.31.99"])
def test_a_runtime_of_the_range_is_fit(version: str) -> None:
    assert judge(replace(PI, runtimes={"onnxruntime": version})) is None


def test_a_machine_that_simulates_stands_in_for_another_processor_and_for_no_other_profile() -> (
    None
):
    simulating = replace(PI, facts=replace(FACTS, arch="x86_64", cpu_features=()), simulates=True)
    assert judge(simulating) is None
    assert judge(simulating, asking(cpu_features=("asimddp",))) is None
    assert judge(simulating, asking(libc_floor="2.40")) is not None
    assert judge(replace(simulating, profile=ProfileName("jetson"))) is not None


def test_a_bundle_needs_its_place_and_some_to_spare() -> None:
    needed = 5 << 20
    assert judge(needed_bytes=needed, free_bytes=needed + DISK_SPARE_BYTES) is None
    unfit = judge(needed_bytes=needed, free_bytes=needed + DISK_SPARE_BYTES - 1)
    assert unfit is not None
    assert unfit.reason is Reason.DISK_FULL
    assert unfit.detail == "21 MiB are needed and 20 MiB are free: make room"


def test_a_bundle_that_is_on_disk_needs_no_place() -> None:
    assert judge(needed_bytes=0, free_bytes=0) is None
