"""Roots of Debian for ARM, whose programs QEMU runs beside this machine's broker and controller.

A root has this machine's network, an ARM processor in /proc/cpuinfo, and no /sys: with the real
one in sight onnxruntime crashes when it is imported. `packaging/emulated.py` has to run meanwhile.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.machines.deb_roots import MIRROR, NEEDED, Root
from wherry.profile import Arch
from wherry_controller.builder.running.roots import CORES

LONGEST_S = 1500.0
# What mmdebstrap mounts and starts ends with it, also where it is killed.
_APART = ("unshare", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child")
# The shell stays, so that no program of ours is the first process of its namespace.
_ENTER = 'mount --bind $0.cpuinfo $0/proc/cpuinfo && chroot "$@"; exit $?'


@dataclass(frozen=True, slots=True)
class Board:
    """A processor of Debian's name `arch` and QEMU's name `cpu`, and what its root needs."""

    arch: str
    machine: Arch
    cpu: str
    needed: str = NEEDED


ARM64 = Board("arm64", Arch.AARCH64, "cortex-a53")
ARMHF = Board("armhf", Arch.ARMV7L, "cortex-a7", f"{NEEDED},libffi8,python3-numpy")


@contextmanager
def an_arm_root(board: Board, suite: str, scratch: Path) -> Iterator[Root]:
    """Make a Debian for ARM with what the packages depend on, and delete it after the block."""
    folder = scratch / f"{suite}-{board.arch}"
    variables = {"QEMU_CPU": board.cpu}
    shutil.rmtree(folder, ignore_errors=True)
    scratch.mkdir(parents=True, exist_ok=True)
    root = Root(folder.resolve(), ("--mount", "--pid"), _ENTER, variables, LONGEST_S)
    try:
        command = [*_APART, "mmdebstrap", "--quiet", "--variant=minbase"]
        # No power fails here, and flushing every file takes minutes.
        packages = [f"--architectures={board.arch}", f"--include={board.needed}"]
        subprocess.run(
            [*command, *packages, "--dpkgopt=force-unsafe-io", suite, str(folder), MIRROR],
            check=True,
            timeout=LONGEST_S,
            env={**root.environment, "HOME": str(scratch)},
        )
        _cpuinfo_of(root).write_text(CORES[board.machine])
        yield root
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _cpuinfo_of(root).unlink(missing_ok=True)


def _cpuinfo_of(root: Root) -> Path:
    return root.folder.with_name(f"{root.folder.name}.cpuinfo")
