"""Whether the installed runtimes run on this device, tried in children before a model is switched.

A release that is known to be bad is not even tried. What was found sound is remembered by runtime,
version and processor, so that a start costs nothing; what was not is tried again at each start.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from wherry import codec
from wherry.blobs import digest_of
from wherry.errors import Malformed
from wherry.files import write_whole
from wherry.names import Digest
from wherry.profile import Facts, Runtime
from wherry_agent import detect
from wherry_agent.core.suitability import find_known_bad
from wherry_agent.limits import describe_end

PROBE_S = 60.0
FILE = "probes.json"
LARGEST_WORD = 300


class Probed(msgspec.Struct, frozen=True):
    """What came of trying a runtime; `detail` says what is wrong."""

    ok: bool
    detail: str = ""


class Sound(msgspec.Struct, frozen=True, tag_field="format", tag="wherry.probes/1"):
    """The runtimes that were found sound, as `runtime version`, on one processor and system."""

    machine: Digest
    runtimes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RuntimesProbed:
    """What is wrong with installed runtimes, by runtime; nothing where all are sound."""

    bad: Mapping[str, str]


def probe(
    runtime: Runtime,
    version: str,
    *,
    facts: Facts | None = None,
    command: tuple[str, ...] = (sys.executable, "-m", "wherry_agent.probe"),
    timeout_s: float = PROBE_S,
) -> Probed:
    """Try a runtime in a child, which ends with this thread; blocks for up to `timeout_s`."""
    known = find_known_bad(runtime, version, facts or detect.facts())
    if known is not None:
        return Probed(False, known)
    try:
        done = subprocess.run(
            [*command, runtime.value],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Probed(False, f"its probe did not end within {timeout_s:g} s")
    except OSError as error:
        return Probed(False, f"its probe could not be started: {error}")
    if done.returncode == 0:
        return Probed(True)
    return Probed(False, _wrong(done.returncode, done.stderr))


def prove(runtime: str, version: str) -> str | None:
    """Return what is wrong with an installed runtime, or None; for the doctor."""
    probed = probe(Runtime(runtime), version)
    return None if probed.ok else probed.detail


def probe_all(
    installed: Mapping[str, str],
    facts: Facts,
    folder: Path,
    *,
    probe: Callable[[Runtime, str], Probed] = probe,
) -> RuntimesProbed:
    """Try every installed runtime that was not found sound before; `folder` keeps what was."""
    machine = digest_of(codec.encode(facts))
    known = read_sound(folder, machine)
    bad: dict[str, str] = {}
    sound: list[str] = []
    for runtime, version in installed.items():
        name = f"{runtime} {version}"
        probed = Probed(True) if name in known.runtimes else probe(Runtime(runtime), version)
        if probed.ok:
            sound.append(name)
        else:
            bad[runtime] = probed.detail
    if set(sound) != set(known.runtimes):
        _write_sound(folder, Sound(machine, tuple(sound)))
    return RuntimesProbed(bad)


def start_probing(
    installed: Mapping[str, str], facts: Facts, folder: Path, put: Callable[[RuntimesProbed], None]
) -> threading.Thread:
    """Try the runtimes off the calling thread, and put what came of it."""
    thread = threading.Thread(
        target=lambda: put(probe_all(installed, facts, folder)), name="probing", daemon=True
    )
    thread.start()
    return thread


def read_sound(folder: Path, machine: Digest) -> Sound:
    """Return what was found sound on this machine; nothing where the file is of another one."""
    try:
        sound = codec.decode(Sound, (folder / FILE).read_bytes())
    except (OSError, Malformed):
        return Sound(machine)
    return sound if sound.machine == machine else Sound(machine)


def _write_sound(folder: Path, sound: Sound) -> None:
    try:
        write_whole(folder / FILE, codec.encode(sound))
    except OSError:
        return  # On a full or read-only disk they are tried again at the next start.


def _wrong(status: int, told: bytes) -> str:
    words = told.decode(errors="replace").strip().splitlines()
    last = f" ({words[-1][:LARGEST_WORD]})" if words else ""
    return f"{describe_end(status)} when it was tried{last}"
