"""Python on another processor, by QEMU's user mode: no root rights, no binfmt, no chroot.

A processor of this machine's own kind runs this machine's interpreters. One of another kind needs
a root: a folder with that kind's Python and C libraries, which `roots` makes. What a program asks
of `/` QEMU looks for in the root first, so a processor file of the root hides this machine's.
"""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

from wherry.profile import Arch
from wherry_controller.builder.running.place import Place, this_arch

PACKAGE = "qemu-user-static"
EMULATORS = {
    Arch.X86_64: "qemu-x86_64-static",
    Arch.AARCH64: "qemu-aarch64-static",
    Arch.ARMV7L: "qemu-arm-static",
}
# Of Haswell and its successors; without a word QEMU warns of them at each thread.
UNKNOWN_TO_QEMU = ",-pcid,-x2apic,-tsc-deadline,-hle,-invpcid,-rtm"
ROOTS = "roots"
ROOT_STAMP = ".made"  # Written last.
PYTHON = "usr/bin/python3.11"  # Debian 12's, the newest that tflite-runtime has wheels for.
PYTHON_VERSION = "3.11"


def root_of(arch: Arch, runtimes: Path) -> Path:
    return runtimes / ROOTS / arch.value


def why_not(place: Place, runtimes: Path) -> str:
    """Return why this machine cannot be the place's processor, or "" where it can."""
    emulator = EMULATORS[place.arch]
    if not place.cpu:
        at_home = place.arch is this_arch()
        return "" if at_home else f"no processor of {place.arch.value} is named to be emulated"
    if shutil.which(emulator) is None:
        return f"{place.cpu} cannot be emulated without Debian's package {PACKAGE}"
    if place.cpu not in _known(emulator):
        return f"{emulator} knows no processor {place.cpu!r}"
    root = root_of(place.arch, runtimes)
    if place.arch is not this_arch() and not (root / ROOT_STAMP).is_file():
        return f"{place.cpu} cannot be emulated without the root that `make arm-roots` makes"
    return ""


def emulated(place: Place) -> tuple[str, ...]:
    """Return what runs a program of this machine on the place's processor."""
    features = UNKNOWN_TO_QEMU if place.arch is Arch.X86_64 else ""
    return (EMULATORS[place.arch], "-cpu", place.cpu + features)


def emulated_in_root(place: Place, root: Path) -> tuple[str, ...]:
    """Return what starts the root's Python on the place's processor."""
    root = root.absolute()
    return (*emulated(place), "-L", str(root), str(root / PYTHON))


@cache
def _known(emulator: str) -> frozenset[str]:
    """Return the names in QEMU's list, in which those of x86 stand in a second column."""
    told = subprocess.run([emulator, "-cpu", "help"], capture_output=True, text=True, check=False)
    return frozenset(told.stdout.split())
