"""A machine's facts are read off what its kernel says, and nothing is made up."""

from __future__ import annotations

import os
import platform

import pytest

from tests import cpuinfos as cpuinfo
from wherry_agent import detect


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
