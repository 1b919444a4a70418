"""Makes the root of another arch, from Debian's packages: `python -m … ARCH FOLDER`.

The root stands in FOLDER, a folder of environments, and is extracted, never configured: nothing
of it runs but its Python, under QEMU. Its processor files say one plain core of the arch: with
this machine's in sight, onnxruntime crashes when it is imported.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from wherry.profile import Arch
from wherry_controller.builder.running import emulation
from wherry_controller.builder.running.environments import locked

SUITE = "bookworm"
# Without its updates: nothing from outside is ever given to a root, and one archive is enough.
ARCHIVE = "http://deb.debian.org/debian"
TOOL = "mmdebstrap"
DEBIAN_ARCH = {Arch.AARCH64: "arm64", Arch.ARMV7L: "armhf"}
PACKAGES = ("python3.11-minimal", "libpython3.11-stdlib", "libstdc++6", "libgcc-s1")
# There are no wheels of numpy for 32 bits.
MORE_PACKAGES = {Arch.AARCH64: (), Arch.ARMV7L: ("python3-numpy",)}

CORE_OF_64_BITS = """\
processor\t: 0
BogoMIPS\t: 100.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd03
CPU revision\t: 4

"""
CORE_OF_32_BITS = """\
processor\t: 0
model name\t: ARMv7 Processor rev 5 (v7l)
BogoMIPS\t: 100.00
Features\t: half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm
CPU implementer\t: 0x41
CPU architecture: 7
CPU variant\t: 0x0
CPU part\t: 0xc07
CPU revision\t: 5

"""
CORES = {Arch.AARCH64: CORE_OF_64_BITS, Arch.ARMV7L: CORE_OF_32_BITS}
CPU_LISTS = ("possible", "present", "online")


def make_root(arch: Arch, runtimes: Path) -> Path:
    """Make the root where there is none; raise `CalledProcessError` where Debian has no answer."""
    root = emulation.root_of(arch, runtimes)
    root.parent.mkdir(parents=True, exist_ok=True)
    with locked(root.parent / f"{arch.value}.lock"):
        if not (root / emulation.ROOT_STAMP).is_file():
            shutil.rmtree(root, ignore_errors=True)
            _extract(arch, root)
            _write_processor(arch, root)
            _link_mathematics(root)
            (root / emulation.ROOT_STAMP).touch()
    return root


def _extract(arch: Arch, root: Path) -> None:
    packages = ",".join((*PACKAGES, *MORE_PACKAGES[arch]))
    options = ("--quiet", "--variant=extract", f"--architectures={DEBIAN_ARCH[arch]}")
    command = (TOOL, *options, f"--include={packages}", SUITE, str(root), ARCHIVE)
    subprocess.run(command, check=True)


def _write_processor(arch: Arch, root: Path) -> None:
    lists = root / "sys" / "devices" / "system" / "cpu"
    for folder in (root / "proc", lists):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "proc" / "cpuinfo").write_text(CORES[arch])
    for name in CPU_LISTS:
        (lists / name).write_text("0\n")


def _link_mathematics(root: Path) -> None:
    """Link what configuring the packages would: numpy finds BLAS and LAPACK by these names."""
    for library in root.glob("usr/lib/*/*/lib*.so.3"):
        link = library.parent.parent / library.name
        if library.parent.name in ("blas", "lapack") and not link.is_symlink():
            link.symlink_to(library.relative_to(link.parent))


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[1] not in set(DEBIAN_ARCH):
        known = " or ".join(arch.value for arch in DEBIAN_ARCH)
        sys.exit(f"Name an arch ({known}) and the folder of environments.")
    if shutil.which(TOOL) is None:
        sys.exit(f"Roots are made by Debian's package {TOOL}: sudo apt-get install {TOOL}")
    try:
        make_root(Arch(sys.argv[1]), Path(sys.argv[2]))
    except subprocess.CalledProcessError as error:
        sys.exit(f"{TOOL} ended with {error.returncode}; look at what it says above.")


if __name__ == "__main__":
    main()
