"""A machine's facts are read off what its kernel says, and nothing is made up."""

from __future__ import annotations

import os
import platform

import pytest

from tests.agent import cpuinfo
from wherry_agent import detect


@pytest.mark.parametrize(
    ("text", "has", "has_not"),
    [
        (cpuinfo.PI_ZERO_2, {"asimd"}, {"asimddp", "i8mm"}),
        (cpuinfo.PI_4, {"asimd"}, {"asimddp", "i8mm"}),
        (cpuinfo.PI_5, {"asimd", "asimddp", "asimdhp"}, {"i8mm"}),
        (cpuinfo.ORIN, {"asimd", "asimddp", "asimdhp"}, {"i8mm"}),
        (cpuinfo.PI_3_IN_32_BITS, {"neon"}, {"asimd"}),
        (cpuinfo.HASWELL, {"avx2", "sse4_2"}, {"avx512_vnni", "avx_vnni", "vnmi"}),
        (cpuinfo.EPYC, {"avx2", "avx512_vnni"}, {"avx_vnni"}),
    ],
    ids=["Pi Zero 2", "Pi 4", "Pi 5", "Orin", "Pi 3 in 32 bits", "Haswell", "EPYC"],
)
def test_the_features_are_those_that_the_kernel_lists(
    text: str, has: set[str], has_not: set[str]
) -> None:
    features = set(detect.features_in(text))
    assert has <= features
    assert not has_not & features


def test_a_feature_that_one_core_lacks_is_none_of_the_machine() -> None:
    assert "asimddp" not in detect.features_in(cpuinfo.PI_5 + "\n" + cpuinfo.PI_4)
    assert "asimd" in detect.features_in(cpuinfo.PI_5 + "\n" + cpuinfo.PI_4)


def test_a_kernel_that_lists_nothing_has_no_features() -> None:
    assert detect.features_in("") == ()
    assert detect.features_in("processor\t: 0\nisa\t\t: rv64imafdc\n") == ()


@pytest.mark.parametrize(
    ("board", "text", "model"),
    [
        ("Raspberry Pi 5 Model B Rev 1.0\0", cpuinfo.PI_5, "Raspberry Pi 5 Model B Rev 1.0"),
        (
            "NVIDIA Jetson Orin Nano Developer Kit\0",
            cpuinfo.ORIN,
            "NVIDIA Jetson Orin Nano Developer Kit",
        ),
        ("", cpuinfo.PI_4, "Raspberry Pi 4 Model B Rev 1.5"),
        ("", cpuinfo.HASWELL, "Intel(R) Core(TM) i5-4570 CPU @ 3.20GHz"),
        ("", "", ""),
    ],
    ids=["Pi 5", "Orin", "no device tree", "x86", "nothing"],
)
def test_the_board_names_the_model_before_the_processor_does(
    board: str, text: str, model: str
) -> None:
    assert detect.model_in(board, text) == model


@pytest.mark.parametrize(
    ("machine", "bits", "arch"),
    [
        ("aarch64", 64, "aarch64"),
        ("aarch64", 32, "armv7l"),
        ("armv8l", 32, "armv7l"),
        ("armv7l", 32, "armv7l"),
        ("x86_64", 64, "x86_64"),
        ("x86_64", 32, "i686"),
        ("riscv64", 64, "riscv64"),
    ],
)
def test_the_arch_is_that_of_the_programs_and_not_of_the_kernel(
    machine: str, bits: int, arch: str
) -> None:
    assert detect.arch_of(machine, bits=bits) == arch


def test_only_glibc_has_a_version_that_wheels_go_by() -> None:
    assert detect.libc_in("glibc 2.36") == "2.36"
    assert detect.libc_in("") == detect.libc_in("musl 1.2.4") == ""


def test_the_facts_are_of_this_machine() -> None:
    facts = detect.facts()
    assert facts.arch == os.uname().machine
    assert facts.cpu_features
    assert facts.page_size_bytes == os.sysconf("SC_PAGE_SIZE")
    assert facts.memory_bytes > 1 << 28
    assert facts.libc == platform.libc_ver()[1]
    assert facts.python == platform.python_version()
    assert facts.cores == os.cpu_count()
