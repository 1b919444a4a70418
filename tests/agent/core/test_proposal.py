"""A proposal is a profile that loads, says what was read off the machine, and replaces none."""

from __future__ import annotations

import sys
from importlib import import_module

import msgspec
import pytest
from msgspec.structs import replace

from tests import cpuinfos as cpuinfo
from wherry.cpuinfo import features_in
from wherry.profile import (
    Activation,
    Facts,
    Precision,
    Profile,
    Runtime,
    find_wrong_processor,
    find_wrong_system,
)
from wherry_agent.core.proposal import UnknownArch, known_name, propose, telling, toml_of

TOML = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")


def facts_of(arch: str, model: str, text: str, *, page_size_bytes: int = 4096) -> Facts:
    return Facts(
        arch=arch,
        model=model,
        cpu_features=features_in(text),
        cores=4,
        page_size_bytes=page_size_bytes,
        memory_bytes=1 << 30,
        libc="2.36",
        python="3.11.2",
    )


PI_5 = facts_of("aarch64", "Raspberry Pi 5 Model B Rev 1.0", cpuinfo.PI_5, page_size_bytes=16384)
EPYC = facts_of("x86_64", "AMD EPYC 9554 64-Core Processor", cpuinfo.EPYC)
HASWELL = facts_of("x86_64", "Intel(R) Core(TM) i5-4570 CPU @ 3.20GHz", cpuinfo.HASWELL)
NARROW = facts_of("armv7l", "Raspberry Pi 3 Model B Plus Rev 1.3", cpuinfo.PI_3_IN_32_BITS)


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        (PI_5, "raspberry-pi-5"),
        (replace(PI_5, model="Raspberry Pi Compute Module 5 Rev 1.0"), "raspberry-pi-5"),
        (replace(PI_5, model="Raspberry Pi 500 Rev 1.0"), "raspberry-pi-5"),
        (replace(PI_5, model="Raspberry Pi 4 Model B Rev 1.5"), "raspberry-pi-4"),
        (replace(PI_5, model="Raspberry Pi 400 Rev 1.0"), "raspberry-pi-4"),
        (replace(PI_5, model="Raspberry Pi Compute Module 4 Rev 1.1"), "raspberry-pi-4"),
        (replace(PI_5, model="Raspberry Pi Zero 2 W Rev 1.0"), "raspberry-pi-zero-2"),
        (replace(PI_5, model="NVIDIA Jetson Orin Nano Developer Kit"), "jetson-orin"),
        (replace(PI_5, model="NVIDIA Jetson AGX Orin Developer Kit"), "jetson-orin"),
        (replace(PI_5, model="Radxa ROCK 5B"), ""),
        (EPYC, "x86-64-vnni"),
        (replace(HASWELL, cpu_features=("avx2", "avx_vnni")), "x86-64-vnni"),
        (HASWELL, "generic-x86-64"),
        (NARROW, "armv7-tflite"),
        (replace(PI_5, arch="riscv64"), ""),
    ],
    ids=lambda value: value.model if isinstance(value, Facts) else value,
)
def test_known_hardware_is_named(facts: Facts, name: str) -> None:
    assert known_name(facts) == name


@pytest.mark.parametrize("facts", [PI_5, EPYC, HASWELL, NARROW], ids=lambda facts: facts.arch)
@pytest.mark.parametrize("runtimes", [{}, {"litert": "2.3.0"}], ids=["bare", "litert"])
def test_a_proposal_is_read_back_as_it_was_and_fits_its_machine(
    facts: Facts, runtimes: dict[str, str]
) -> None:
    proposal = propose(facts, runtimes)
    read = msgspec.convert(TOML.loads(toml_of(proposal)), Profile)
    assert read == proposal.profile
    assert find_wrong_processor(read, facts) is None
    assert find_wrong_system(read, facts) is None


def test_a_proposal_never_has_the_name_of_a_known_profile() -> None:
    assert propose(PI_5, {}).profile.name == "raspberry-pi-5-detected"
    board = replace(PI_5, model="Radxa ROCK 5B / " + "x" * 60)
    assert propose(board, {}).profile.name.startswith("radxa-rock-5b-xx")
    assert propose(replace(PI_5, model=""), {}).profile.name == "this-detected"


def test_the_installed_runtime_is_the_one_that_is_proposed() -> None:
    profile = propose(PI_5, {"litert": "2.3.0", "onnxruntime": "1.23.2"}).profile
    assert profile.runtime is Runtime.ONNXRUNTIME
    assert (profile.runtime_floor, profile.runtime_version) == ("1.23.2", "1.23.2")
    assert profile.runtime_below == "2"
    assert "runtime_version" in profile.detected


def test_a_runtime_that_is_not_there_is_no_detected_fact() -> None:
    proposal = propose(NARROW, {})
    assert proposal.profile.runtime is Runtime.TFLITE
    assert "runtime" not in proposal.profile.detected
    assert "No runtime is installed here: tflite-runtime" in toml_of(proposal)


def test_int8_is_what_the_processor_computes_right() -> None:
    assert propose(EPYC, {}).profile.activation is Activation.U8
    assert not propose(EPYC, {}).profile.reduced_range
    assert propose(HASWELL, {}).profile.reduced_range
    assert propose(PI_5, {}).profile.activation is Activation.S8
    assert not propose(PI_5, {}).profile.reduced_range


def test_precisions_that_are_of_no_use_there_are_not_proposed() -> None:
    assert Precision.FP16 not in propose(PI_5, {}).profile.precisions
    assert Precision.FP16 in propose(HASWELL, {}).profile.precisions
    assert Precision.FP16 in propose(PI_5, {"litert": "2.3.0"}).profile.precisions
    assert Precision.INT8_DYNAMIC not in propose(NARROW, {}).profile.precisions


def test_a_report_carries_the_features_that_count() -> None:
    assert telling(EPYC).cpu_features == (
        *("avx", "avx2", "avx512_vnni", "avx512f", "f16c", "fma", "sse4_2"),
    )
    assert replace(telling(EPYC), cpu_features=EPYC.cpu_features) == EPYC


def test_a_machine_for_which_nothing_is_built_is_told_so() -> None:
    with pytest.raises(UnknownArch, match=r"nothing is built for riscv64: .* x86_64, aarch64"):
        propose(replace(PI_5, arch="riscv64"), {})
