"""Tries in a service's place what it may not do, and what it may: one JSON object of the outcomes.

It is copied into a machine and run there by Debian's Python, with our unit's own confinement. Most
attempts fail for any user without rights. `REASONS` says why one has to fail that only the
confinement keeps from succeeding, or from failing otherwise.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x00020000
MIB = 1 << 20
# Before it asks for rights the kernel says that a new file is on a file system to read only.
READ_ONLY = ("/etc", "/usr/lib", "/var/lib", "/boot", "/var/log")


def write(folder: str) -> None:
    place = Path(folder) / "wherry-probe"
    place.write_text("x")
    place.unlink()


def call(name: str, *words: int | bytes) -> None:
    if getattr(LIBC, name)(*words) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def set_user_bit(folder: str) -> None:
    place = Path(folder) / "wherry-bit"
    place.write_text("x")
    try:
        place.chmod(0o4755)
    finally:
        place.unlink()


def open_socket(family: int, kind: int) -> None:
    socket.socket(family, kind).close()


TRIED: dict[str, Callable[[], object]] = {
    **{f"write {folder}": partial(write, folder) for folder in (*READ_ONLY, "/root")},
    "list /home": lambda: list(Path("/home").iterdir()),
    "write /sys": lambda: Path("/proc/sys/kernel/hostname").write_text("x"),
    "see another's process": lambda: Path("/proc/1/comm").read_text(),
    "load a module": lambda: call("syscall", 175, b"", 0, b""),
    "mount": lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, 0),
    "make namespaces": lambda: call("unshare", CLONE_NEWUSER | CLONE_NEWNS),
    "become root": lambda: os.setuid(0),
    "set the clock": lambda: call("settimeofday", b"\0" * 16, 0),
    "name the host": lambda: call("sethostname", b"x", 1),
    "be traced": lambda: call("ptrace", 0, 0, 0, 0),
    "send raw packets": lambda: open_socket(socket.AF_PACKET, socket.SOCK_RAW),
    "make a set-user file": lambda: set_user_bit("/var/lib/wherry-agent"),
    "take real time": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
}
REASONS = {
    **{f"write {folder}": os.strerror(errno.EROFS) for folder in READ_ONLY},
    "list /home": os.strerror(errno.EACCES),
    "see another's process": os.strerror(errno.ENOENT),
    "send raw packets": os.strerror(errno.EAFNOSUPPORT),
}
MAY: dict[str, Callable[[], object]] = {
    "write its home": lambda: write("/var/lib/wherry-agent"),
    "write /run/wherry-agent": lambda: write("/run/wherry-agent"),
    "write a /tmp of its own": lambda: write("/tmp"),
    "open connections": lambda: open_socket(socket.AF_INET, socket.SOCK_STREAM),
}


def outcome(attempt: Callable[[], object]) -> str:
    """Return nothing where it can be done, otherwise why it cannot."""
    try:
        attempt()
    except OSError as error:
        return os.strerror(error.errno or 0)
    return ""


def main(words: list[str]) -> None:
    if words:
        held = bytearray(int(words[0]) * MIB)
        held[:: os.sysconf("SC_PAGE_SIZE")] = b"x" * len(held[:: os.sysconf("SC_PAGE_SIZE")])
        return
    said = {
        "uid": os.getuid(),
        "held": {name: outcome(attempt) for name, attempt in TRIED.items()},
        "may": {name: outcome(attempt) for name, attempt in MAY.items()},
        "status": Path("/proc/self/status").read_text(),
    }
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
