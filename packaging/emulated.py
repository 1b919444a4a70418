"""Runs a command while the kernel starts programs of ARM by QEMU: `emulated.py COMMAND …`, as root.

Debian's package qemu-user-static says how such programs are recognised. What the kernel is told
bears the name of this process and ends with the command, so that two runs do not meet. QEMU_CPU
in the command's environment names the processor; QEMU's default is much slower.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RULES = Path("/usr/lib/binfmt.d")
PROCESSORS = ("aarch64", "arm")
# Of boards that are sold; without NEON nothing of ours would run.
CPUS = {"arm64": "cortex-a53", "armhf": "cortex-a7"}
FORGET = "-1"


def main() -> int:
    if os.geteuid() != 0:
        sys.exit("Only root tells the kernel how to start programs of ARM: sudo make …")
    with arm_programs():
        process = subprocess.Popen(sys.argv[1:])
        # The command is told to end, and has the time to clean up.
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        signal.signal(signal.SIGINT, lambda *_: None)
        return process.wait()


@contextmanager
def arm_programs() -> Iterator[None]:
    """Have the kernel start programs of ARM, of 64 and 32 bits, until the end of the block."""
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "--types", "binfmt_misc", "binfmt_misc", folder]
        subprocess.run(mount, check=True)
        told: list[Path] = []
        try:
            told += [_tell(Path(folder), processor) for processor in PROCESSORS]
            yield
        finally:
            for place in told:
                place.write_text(FORGET)
            subprocess.run(["umount", folder], check=True)


def _tell(folder: Path, processor: str) -> Path:
    """Tell the kernel Debian's rule under a name of our own; return where it can be taken back."""
    rule = (RULES / f"qemu-{processor}.conf").read_text().strip()
    name = f"wherry-{processor}-{os.getpid()}"
    (folder / "register").write_text(rule.replace(f":qemu-{processor}:", f":{name}:", 1))
    return folder / name


if __name__ == "__main__":
    sys.exit(main())
