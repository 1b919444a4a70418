"""The Python that has a place's runtime in its version: this one, or an environment made for it.

    runtimes/onnxruntime-1.23/            packages for this Python
    runtimes/onnxruntime-1.23-aarch64/    packages for the Python of another arch's root

They hold the runtime and numpy alone, and are all that such a Python sees beside its own library.
An environment counts once its stamp is there, which is written last: one that was broken off is
made anew. A lock keeps two builds from making the same one at once.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import msgspec

from wherry.files import write_whole
from wherry.profile import Arch, Runtime, is_release_of, version_key
from wherry_controller.builder.faults import refuse
from wherry_controller.builder.running import emulation
from wherry_controller.builder.running.place import Place, this_arch
from wherry_controller.core.fault import BuildReason, BuildRefused

DISTRIBUTIONS = {
    Runtime.ONNXRUNTIME: "onnxruntime",
    Runtime.LITERT: "ai-edge-litert",
    Runtime.TFLITE: "tflite-runtime",
}
MODULES = {
    Runtime.ONNXRUNTIME: "onnxruntime",
    Runtime.LITERT: "ai_edge_litert.interpreter",
    Runtime.TFLITE: "tflite_runtime.interpreter",
}
NO_OTHER_PACKAGES = "-S"
FIRST_ONNXRUNTIME_OF_NUMPY_2 = (1, 19)
STAMP = "environment.json"
MAKE_S = 900.0
NEWEST_MANYLINUX = 36  # The C library's minor version in a root's Debian 12.
OLDEST_MANYLINUX = 17
LONGEST_CAUSE = 300


class Readiness(StrEnum):
    """Whether a place can be run at: now, once it is installed, or not from here."""

    READY = "ready"
    INSTALLABLE = "installable"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Python:
    """What starts a Python, and the folder of packages that it is given, if any."""

    command: tuple[str, ...]
    packages: Path | None = None


class _Stamp(msgspec.Struct, frozen=True):
    version: str
    python: str


def installed_version(runtime: Runtime) -> str | None:
    """Return the version of the runtime that this interpreter has, or None."""
    try:
        return importlib.metadata.version(DISTRIBUTIONS[runtime])
    except importlib.metadata.PackageNotFoundError:
        return None


def state_of(place: Place, runtimes: Path) -> Readiness:
    """Say whether the place is ready; nothing is made and no network is asked."""
    if emulation.why_not(place, runtimes):
        return Readiness.MISSING
    if _is_this(place) or _is_made(place, runtimes):
        return Readiness.READY
    return Readiness.INSTALLABLE


def install(place: Place, runtimes: Path) -> None:
    """Make the place's environment where there is none; refuse with RUNTIME_MISSING."""
    problem = emulation.why_not(place, runtimes)
    if problem:
        refuse(BuildReason.RUNTIME_MISSING, problem)
    if _is_this(place) or _is_made(place, runtimes):
        return
    runtimes.mkdir(parents=True, exist_ok=True)
    with locked(runtimes / f"{_folder(place, runtimes).name}.lock"):
        if not _is_made(place, runtimes):
            _make(place, runtimes)


def python_at(place: Place, runtimes: Path) -> Python:
    """Return the Python of the place, which is made where it is missing."""
    install(place, runtimes)
    return _python(place, runtimes)


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """Hold the machine's lock on a folder, or on a file, which is made; it falls with us."""
    flags = os.O_RDONLY if place.is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(place, flags, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_this(place: Place) -> bool:
    installed = installed_version(place.runtime)
    at_home = place.arch is this_arch() and installed is not None
    return at_home and is_release_of(installed or "", place.version)


def _folder(place: Place, runtimes: Path) -> Path:
    suffix = "" if place.arch is this_arch() else f"-{place.arch.value}"
    return (runtimes / f"{place.runtime.value}-{place.version}{suffix}").absolute()


def _is_made(place: Place, runtimes: Path) -> bool:
    try:
        stamp = msgspec.json.decode((_folder(place, runtimes) / STAMP).read_bytes(), type=_Stamp)
    except (FileNotFoundError, msgspec.DecodeError):
        return False
    return stamp.python == _python_version(place)


def _python_version(place: Place) -> str:
    here = place.arch is this_arch()
    return platform.python_version() if here else emulation.PYTHON_VERSION


def _python(place: Place, runtimes: Path) -> Python:
    folder = _folder(place, runtimes)
    if place.arch is not this_arch():
        root = emulation.root_of(place.arch, runtimes)
        return Python(emulation.emulated_in_root(place, root), folder)
    emulator = emulation.emulated(place) if place.cpu else ()
    if _is_this(place):
        return Python((*emulator, sys.executable))
    return Python((*emulator, sys.executable, NO_OTHER_PACKAGES), folder)


def _make(place: Place, runtimes: Path) -> None:
    folder = _folder(place, runtimes)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _must(place, [sys.executable, "-m", "pip", "install", *_arguments(place, folder)])
        python = _python(place, runtimes)
        _must(place, [*python.command, "-c", f"import {MODULES[place.runtime]}"], folder)
    except BuildRefused:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    stamp = _Stamp(_version_in(place, folder), _python_version(place))
    write_whole(folder / STAMP, msgspec.json.encode(stamp))


def _arguments(place: Place, folder: Path) -> Sequence[str]:
    """Return pip's arguments; the runtimes need nothing but numpy to run a model."""
    wanted = [f"{DISTRIBUTIONS[place.runtime]}=={place.version}.*"]
    # There are no wheels of numpy for 32 bits: it is in the root.
    if place.arch is not Arch.ARMV7L:
        wanted.append(_numpy_for(place))
    quiet = ("-q", "--disable-pip-version-check", "--no-input")
    target = ("--target", str(folder), "--only-binary=:all:", "--no-deps")
    elsewhere = () if place.arch is this_arch() else _platform(place.arch)
    return [*quiet, *target, *elsewhere, *wanted]


def _numpy_for(place: Place) -> str:
    """The runtimes built for numpy 1 load with numpy 2 and crash later; not all declare it."""
    old = place.runtime is Runtime.TFLITE or (
        place.runtime is Runtime.ONNXRUNTIME
        and version_key(place.version) < FIRST_ONNXRUNTIME_OF_NUMPY_2
    )
    return "numpy<2" if old else "numpy"


def _platform(arch: Arch) -> Sequence[str]:
    """Return pip's description of a root: any C library up to its own will do."""
    minors = range(NEWEST_MANYLINUX, OLDEST_MANYLINUX - 1, -1)
    tags = (*(f"manylinux_2_{minor}" for minor in minors), "manylinux2014")
    platforms = [word for tag in tags for word in ("--platform", f"{tag}_{arch.value}")]
    return ["--python-version", emulation.PYTHON_VERSION, "--implementation", "cp", *platforms]


def _version_in(place: Place, site: Path) -> str:
    name = DISTRIBUTIONS[place.runtime]
    found = importlib.metadata.distributions(name=name, path=[str(site)])
    return next(iter(found)).version


def environment_of(packages: Path | None) -> dict[str, str]:
    """Return this process's variables for a Python that sees no packages but those."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return kept if packages is None else kept | {"PYTHONPATH": str(packages)}


def _must(place: Place, command: Sequence[str], packages: Path | None = None) -> None:
    """Run a step of making an environment; refuse with its own last word of error."""
    variables = environment_of(packages)
    what = f"{place.runtime.value} {place.version} cannot be installed for {place.arch.value}"
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=MAKE_S, check=False, env=variables
        )
    except subprocess.TimeoutExpired:
        refuse(BuildReason.RUNTIME_MISSING, f"{what} within {MAKE_S:g} s")
    if done.returncode:
        refuse(BuildReason.RUNTIME_MISSING, f"{what} ({_cause(done.stderr)})")


def _cause(said: str) -> str:
    """Return the last line that says what went wrong: pip's with `ERROR:`, others' as they are."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return ["no words", *lines, *errors][-1][:LONGEST_CAUSE]
