"""What this machine is, read off its kernel and its C library.

Text in, facts out, but for `facts`, which reads the text. A kernel of 64 bits under a system of
32 is the ordinary case on Raspberry Pi OS: the system's width says which wheels run, so the arch
is the system's.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from wherry.cpuinfo import features_in, lines_of
from wherry.profile import Arch, Facts

_CPUINFO = Path("/proc/cpuinfo")
_BOARD = Path("/proc/device-tree/model")
_NARROW = {"aarch64": Arch.ARMV7L.value, "armv8l": Arch.ARMV7L.value, "x86_64": "i686"}


def facts() -> Facts:
    """Return what this machine is."""
    cpuinfo, page_size_bytes = _read(_CPUINFO), os.sysconf("SC_PAGE_SIZE")
    return Facts(
        arch=arch_of(platform.machine(), bits=sys.maxsize.bit_length() + 1),
        model=model_in(_read(_BOARD), cpuinfo),
        cpu_features=features_in(cpuinfo),
        cores=os.cpu_count() or 1,
        page_size_bytes=page_size_bytes,
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * page_size_bytes,
        libc=libc_in(_libc()),
        python=platform.python_version(),
    )


def model_in(board: str, cpuinfo: str) -> str:
    """Return the board's name, or the processor's where no device tree names one."""
    named = {key: words for key, words in lines_of(cpuinfo) if key in ("Model", "model name")}
    return board.strip("\0\n ") or named.get("Model") or named.get("model name", "")


def arch_of(machine: str, *, bits: int) -> str:
    """Return the arch of programs on a kernel of that machine, by the width of their addresses."""
    return _NARROW.get(machine, machine) if bits == 32 else machine


def libc_in(confstr: str) -> str:
    """Return the version in `glibc 2.36`; empty for any other C library."""
    name, _, version = confstr.partition(" ")
    return version if name == "glibc" else ""


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (OSError, ValueError):  # Another C library knows no such name.
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
