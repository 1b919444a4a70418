"""A bundle is judged before anything of it is fetched, and each refusal has its own reason."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.builders import a_manifest, a_profile
from wherry.manifest import Manifest
from wherry.messages import Reason
from wherry.names import ProfileName
from wherry.profile import Arch, Runtime
from wherry_agent.core.suitability import DISK_SPARE_BYTES, Machine, Unfit, find_unfit

FITTING = a_manifest(
    profile=a_profile(
        name=ProfileName("pi"),
        arch=Arch.AARCH64,
        runtime=Runtime.ONNXRUNTIME,
        runtime_floor="1.20",
        runtime_below="1.32",
    )
)
PI = Machine(profile=ProfileName("pi"), arch="aarch64", runtimes={"onnxruntime": "1.31.1"})
PLENTY = 1 << 40


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


@pytest.mark.parametrize(
    ("machine", "reason", "names"),
    [
        (replace(PI, profile=ProfileName("jetson")), Reason.UNSUITABLE_PROFILE, "pi and"),
        (replace(PI, arch="x86_64"), Reason.UNSUITABLE_PROFILE, "aarch64"),
        (replace(PI, runtimes={"litert": "2.3"}), Reason.MISSING_RUNTIME, "install onnxruntime"),
        (replace(PI, runtimes={"onnxruntime": "1.19.9"}), Reason.MISSING_RUNTIME, "from 1.20 to"),
        (replace(PI, runtimes={"onnxruntime": "1.32"}), Reason.MISSING_RUNTIME, "below 1.32"),
    ],
    ids=["other profile", "other arch", "no runtime", "runtime too old", "runtime too new"],
)
def test_what_does_not_fit_is_refused_for_its_own_reason(
    machine: Machine, reason: Reason, names: str
) -> None:
    unfit = judge(machine)
    assert unfit is not None
    assert unfit.reason is reason
    assert names in unfit.detail


@pytest.mark.parametrize("version", ["1.20", "1.20.0", "1.31.99"])
def test_a_runtime_of_the_range_is_fit(version: str) -> None:
    assert judge(replace(PI, runtimes={"onnxruntime": version})) is None


def test_a_machine_that_simulates_stands_in_for_another_arch_and_for_no_other_profile() -> None:
    simulating = replace(PI, arch="x86_64", simulates=True)
    assert judge(simulating) is None
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
