"""A process kept, with all its children, from files that are none of its business (Landlock).

The builder runs code that came with a version, so it gives up for good what it does not need:
reading but the system's libraries and the folders it is given, writing but to its own folders,
from Linux 6.7 on TCP, and from 6.12 on signals and abstract sockets to processes outside. The
kernel then refuses it the memory and the environment of such processes too. Only the calling
thread and what it starts later are confined, so this comes before the first thread. (Landlock:
Documentation/userspace-api/landlock.rst.)
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import wherry
import wherry_controller

Syscall: TypeAlias = Callable[..., int]

SECRET_PREFIX = "WHERRY_"

# The same numbers on every architecture.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
CREATE_RULESET_VERSION = 1
RULE_PATH_BENEATH = 1
PR_SET_NO_NEW_PRIVS = 38
CAPABILITY_VERSION_3 = 0x20080522

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))
REFER, TRUNCATE = 1 << 13, 1 << 14
SINCE = {1: EXECUTE | WRITE_FILE | READ_FILE | READ_DIR | REMOVE_AND_MAKE, 2: REFER, 3: TRUNCATE}
READING = EXECUTE | READ_FILE | READ_DIR
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
NET_SINCE, SCOPES_SINCE = 4, 6
BIND_TCP, CONNECT_TCP = 1 << 0, 1 << 1
ABSTRACT_SOCKETS, SIGNALS = 1 << 0, 1 << 1

# What interpreters, torch and QEMU read. Of /etc only what is named: keys may lie beside it.
SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/proc",
    "/sys",
    "/opt",
    "/etc/alternatives",
    "/etc/group",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/passwd",
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/shm")


def confine(
    *, readable: Sequence[Path], writable: Sequence[Path], syscall: Syscall | None = None
) -> bool:
    """Confine this process; return False where the kernel has no Landlock, and nothing is done.

    What is writable is readable too; the first of `writable` gets a folder for temporary files.
    Secrets leave the environment in either case. Raises OSError where a folder is missing.
    """
    _forget_secrets()
    call = syscall or _syscall
    version = call(CREATE_RULESET, None, 0, CREATE_RULESET_VERSION)
    if version < 1:
        return False
    private = _private_folder(writable[0])
    handled = handled_by(version)
    ruleset = _create_ruleset(call, version, handled)
    try:
        for path in (*_existing(SYSTEM), *python_folders(), *readable):
            _allow(call, ruleset, path, READING)
        for path in import_folders():
            _allow(call, ruleset, path, READ_DIR)
        for path in (*_existing(DEVICES), *writable, private):
            _allow(call, ruleset, path, handled)
        _restrict(call, ruleset)
    finally:
        os.close(ruleset)
    return True


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a process that will be confined.

    What a process was started with stays readable in /proc to its own code, so whoever starts one
    leaves the secrets out.
    """
    return {
        name: value for name, value in environment.items() if not name.startswith(SECRET_PREFIX)
    }


def handled_by(version: int) -> int:
    """Return the rights over files that a kernel of that Landlock version can withhold."""
    return sum(rights for since, rights in SINCE.items() if since <= version)


def python_folders() -> list[Path]:
    """Return where this interpreter and Wherry's packages lie, each once."""
    packages = (wherry, wherry_controller)
    sources = [Path(package.__file__).parent for package in packages if package.__file__]
    prefixes = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix]
    executable = Path(sys.executable).resolve().parent
    folders = [*map(Path, prefixes), executable, *sources]
    return list(dict.fromkeys(folder for folder in folders if folder.is_dir()))


def import_folders() -> list[Path]:
    """Return the folders in which Wherry's packages are looked up: their names are enough."""
    packages = (wherry, wherry_controller)
    return [Path(package.__file__).parents[1] for package in packages if package.__file__]


def _forget_secrets() -> None:
    for name in set(os.environ) - set(without_secrets(os.environ)):
        del os.environ[name]


def _private_folder(writable: Path) -> Path:
    """Make the folder for temporary files, which is also what programs take for home."""
    private = writable / "tmp"
    private.mkdir(mode=0o700, exist_ok=True)
    os.environ.update(TMPDIR=str(private), HOME=str(private), XDG_CACHE_HOME=str(private))
    tempfile.tempdir = None  # What was found before is asked for anew.
    return private


def _existing(paths: Iterable[str]) -> list[Path]:
    return [Path(path) for path in paths if Path(path).exists()]


def _create_ruleset(call: Syscall, version: int, handled: int) -> int:
    scopes = ABSTRACT_SOCKETS | SIGNALS if version >= SCOPES_SINCE else 0
    net = BIND_TCP | CONNECT_TCP if version >= NET_SINCE else 0
    fields = (handled, net, scopes)
    count = 3 if version >= SCOPES_SINCE else 2 if version >= NET_SINCE else 1
    attributes = struct.pack(f"={count}Q", *fields[:count])
    return _checked(call(CREATE_RULESET, attributes, len(attributes), 0), "landlock")


def _allow(call: Syscall, ruleset: int, path: Path, rights: int) -> None:
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            rights &= OF_FILES
        rule = struct.pack("=Qi", rights, opened)
        _checked(call(ADD_RULE, ruleset, RULE_PATH_BENEATH, rule, 0), str(path))
    finally:
        os.close(opened)


def _restrict(call: Syscall, ruleset: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    # Root's capabilities open the memory of other processes, which Landlock would keep shut.
    header, none = struct.pack("=Ii", CAPABILITY_VERSION_3, 0), bytes(24)
    _checked(libc.capset(header, none), "capabilities")
    _checked(call(RESTRICT_SELF, ruleset, 0), "landlock")


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    """Call the kernel; a failure is -errno, as the kernel itself gives it."""
    libc = ctypes.CDLL(None, use_errno=True)
    # Plain integers would be cut to 32 bits.
    given = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    libc.syscall.restype = ctypes.c_long
    done = int(libc.syscall(ctypes.c_long(number), *given))
    return done if done >= 0 else -(ctypes.get_errno() or errno.EINVAL)


def _checked(done: int, what: str) -> int:
    if done < 0:
        raise OSError(-done, f"{os.strerror(-done)}: {what}")
    return done
