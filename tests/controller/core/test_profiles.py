"""The profiles that come along load, hold what was measured, and fit the boards they name."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests import cpuinfos
from wherry.cpuinfo import features_in
from wherry.names import ProfileName
from wherry.profile import (
    Activation,
    Arch,
    Facts,
    Precision,
    Profile,
    Runtime,
    find_wrong_processor,
    find_wrong_system,
)
from wherry_agent.core.proposal import propose
from wherry_controller.core.profiles import differing, fitting
from wherry_controller.profiles import names, shipped, toml_of

KNOWN: dict[str, Profile] = {profile.name: profile for profile in shipped()}
PAGES_OF_16_KIB = 16384


def facts_of(
    arch: Arch, model: str, cpuinfo: str, *, memory_mib: int, page_size_bytes: int = 4096
) -> Facts:
    return Facts(
        arch=arch.value,
        model=model,
        cpu_features=features_in(cpuinfo),
        cores=4,
        page_size_bytes=page_size_bytes,
        memory_bytes=memory_mib << 20,
        libc="2.36",
        python="3.11.2",
    )


ZERO = facts_of(Arch.AARCH64, "Raspberry Pi Zero 2 W Rev 1.0", cpuinfos.PI_ZERO_2, memory_mib=416)
PI_4 = facts_of(Arch.AARCH64, "Raspberry Pi 4 Model B Rev 1.5", cpuinfos.PI_4, memory_mib=906)
PI_5 = facts_of(
    Arch.AARCH64,
    "Raspberry Pi 5 Model B Rev 1.0",
    cpuinfos.PI_5,
    memory_mib=2010,
    page_size_bytes=PAGES_OF_16_KIB,
)
ORIN = facts_of(
    Arch.AARCH64, "NVIDIA Jetson Orin Nano Developer Kit", cpuinfos.ORIN, memory_mib=7620
)
NARROW = facts_of(
    Arch.ARMV7L, "Raspberry Pi 3 Model B Plus Rev 1.3", cpuinfos.PI_3_IN_32_BITS, memory_mib=921
)
HASWELL = facts_of(Arch.X86_64, "Intel(R) Core(TM) i5-4570", cpuinfos.HASWELL, memory_mib=3900)
EPYC = facts_of(Arch.X86_64, "AMD EPYC 9554", cpuinfos.EPYC, memory_mib=64000)
MACHINES = [ZERO, PI_4, PI_5, ORIN, NARROW, HASWELL, EPYC]


def test_the_profiles_that_were_promised_come_along() -> None:
    assert names() == (
        "armv7-tflite",
        "generic-x86-64",
        "jetson-orin",
        "jetson-orin-tensorrt",
        "raspberry-pi-4",
        "raspberry-pi-5",
        "raspberry-pi-zero-2",
        "x86-64-vnni",
    )


@pytest.mark.parametrize("name", names())
def test_each_profile_is_whole_and_commented(name: str) -> None:
    profile = KNOWN[name]
    assert profile.name == name
    assert profile.runtime_version and profile.memory_bytes and profile.size_bytes
    assert profile.cpu_features and not profile.detected
    assert toml_of(name).startswith(b"#")


@pytest.mark.parametrize("name", names())
def test_int8_is_in_the_type_that_the_processor_computes_right(name: str) -> None:
    profile = KNOWN[name]
    is_x86 = profile.arch is Arch.X86_64
    has_vnni = any("vnni" in feature for feature in profile.cpu_features)
    assert profile.activation is (Activation.U8 if is_x86 else Activation.S8)
    assert profile.reduced_range == (is_x86 and not has_vnni)


@pytest.mark.parametrize("name", names())
def test_no_precision_is_tried_where_it_is_of_no_use(name: str) -> None:
    profile = KNOWN[name]
    on_arm = profile.arch is not Arch.X86_64 and profile.provider == "CPUExecutionProvider"
    if on_arm and profile.runtime is Runtime.ONNXRUNTIME:
        assert Precision.FP16 not in profile.precisions
    if profile.runtime is Runtime.TFLITE:
        assert Precision.INT8_DYNAMIC not in profile.precisions


def test_only_a_provider_that_no_build_can_run_is_not_verified() -> None:
    for profile in shipped():
        assert profile.verified == (profile.provider == "CPUExecutionProvider")


@pytest.mark.parametrize("facts", MACHINES, ids=lambda facts: facts.model)
def test_the_profile_that_a_machine_proposes_is_one_it_meets(facts: Facts) -> None:
    proposal = propose(facts, {})
    known = KNOWN[proposal.known_as]
    assert find_wrong_processor(known, facts) is None
    assert find_wrong_system(known, facts) is None
    assert known.name in fitting(proposal.profile, shipped())


def test_a_board_without_dot_product_meets_no_profile_that_asks_for_it() -> None:
    assert fitting(propose(PI_4, {}).profile, shipped()) == (
        "raspberry-pi-4",
        "raspberry-pi-zero-2",
    )
    assert find_wrong_processor(KNOWN["raspberry-pi-5"], PI_4)


def test_a_kernel_with_large_pages_is_met_by_the_pi_5_alone() -> None:
    assert fitting(propose(PI_5, {}).profile, shipped()) == ("raspberry-pi-5",)
    small = replace(PI_5, page_size_bytes=4096)
    assert find_wrong_processor(KNOWN["raspberry-pi-5"], small) is None


def test_vnni_is_met_by_either_kind_and_comes_before_the_generic() -> None:
    assert fitting(propose(EPYC, {}).profile, shipped()) == ("x86-64-vnni", "generic-x86-64")
    alder_lake = replace(EPYC, cpu_features=("avx2", "avx_vnni", "sse4_2"))
    assert find_wrong_processor(KNOWN["x86-64-vnni"], alder_lake) is None
    assert fitting(propose(HASWELL, {}).profile, shipped()) == ("generic-x86-64",)


def test_another_runtime_fits_no_profile_that_names_one() -> None:
    assert fitting(propose(EPYC, {"litert": "2.3.0"}).profile, shipped()) == ()
    assert fitting(propose(EPYC, {"onnxruntime": "1.22.0"}).profile, shipped()) == ()


def test_profiles_differ_by_facts_and_not_by_name() -> None:
    one = KNOWN["raspberry-pi-5"]
    assert differing(one, replace(one, name=ProfileName("mine"), detected=("arch",))) == ()
    assert differing(one, replace(one, threads=3, max_batch=1)) == ("threads", "max_batch")
