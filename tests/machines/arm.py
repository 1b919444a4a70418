"""`make arm`: our packages on emulated ARM, with bundles that were built on this machine.

Broker, controller and builder run here; in each root are the packages alone. Debian 12 and 13 on
64 bits, side by side, and Debian 12 on 32 bits; ARCHES and SUITES name some of them. What a step
saw and how long it took is printed; times and memory are those of the emulation. A check that does
not hold ends its root's story at once, and the run with exit code 1.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from subprocess import SubprocessError

from tests.machines import deb_builds
from tests.machines.arm_agent import children_of
from tests.machines.arm_roots import ARM64, ARMHF, Board
from tests.machines.arm_site import (
    LITERT,
    ONNX,
    TFLITE,
    Kind,
    a_site_that_builds,
    add_wrong,
    build,
    bundle_for,
)
from tests.machines.arm_story import Fleet, Supply, live_through
from tests.machines.deb_roots import Failed
from tests.machines.nspawn import FOLDER, Wrong, say
from tests.system.sites import Site
from wherry.errors import Unavailable

SCRATCH = FOLDER / "arm"
DIST = deb_builds.ROOT / "dist"
AGENT = "wherry-agent"
MIB = 1 << 20
ARCHES = os.environ.get("ARCHES", "arm64 armhf").split()
WANTED = os.environ.get("SUITES", "bookworm trixie").split()
SUITES = {ARM64.arch: ("bookworm", "trixie"), ARMHF.arch: ("bookworm",)}
KINDS = {ARM64.arch: (ONNX, LITERT), ARMHF.arch: (TFLITE,)}
BOARDS = {ARM64.arch: ARM64, ARMHF.arch: ARMHF}
# For both roots of 64 bits, on two cores.
LONGEST_S = {ARM64.arch: 15 * 60.0, ARMHF.arch: 15 * 60.0}
# What two roots, broker, controller and builder load a machine with at most.
OWN_LOAD = 4.0


def main() -> int:
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir(parents=True)
    try:
        _need_a_story()
        with a_site_that_builds(SCRATCH / "site") as site:
            judged = [_check_arch(site, BOARDS[arch]) for arch in ARCHES if _suites_of(arch)]
    except (Failed, Wrong, Unavailable, AssertionError, OSError, SubprocessError) as error:
        say(f"FAILED: {error}")
        return 1
    finally:
        shutil.rmtree(SCRATCH, ignore_errors=True)
    say(f"all holds that was judged; of {len(judged)} times {judged.count(False)} not judged")
    return 0


def _need_a_story() -> None:
    """Raise `Wrong` where ARCHES and SUITES name what there is not, or nothing together."""
    known = {*SUITES, *(suite for suites in SUITES.values() for suite in suites)}
    if unknown := {*ARCHES, *WANTED} - known:
        raise Wrong(f"ARCHES or SUITES name {', '.join(sorted(unknown))}, which there is not")
    if not any(map(_suites_of, ARCHES)):
        raise Wrong("ARCHES and SUITES together name no root to try")


def _suites_of(arch: str) -> list[str]:
    return [suite for suite in SUITES[arch] if suite in WANTED]


def _end(*_: object) -> None:
    """End what runs in the roots, so that the stories end by themselves and delete them."""
    for pid in children_of(os.getpid()):
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        # It waits for its child, whatever it is told; the child dies with it.
        os.kill(pid, signal.SIGKILL if name == "unshare" else signal.SIGTERM)
    sys.exit(1)


def _check_arch(site: Site, board: Board) -> bool:
    """Check a processor's roots; return whether the time that it took could be judged."""
    begun_s, spent_s = time.monotonic(), _spent_s()
    supply = _supply(site, board)
    stories = [
        partial(live_through, Fleet(site, board, suite, SCRATCH), supply)
        for suite in _suites_of(board.arch)
    ]
    _all_of(stories)
    say(f"{board.arch}: {_spent_s() - spent_s:.0f} s of processor time")
    return _check_time(board, time.monotonic() - begun_s)


def _spent_s() -> float:
    """Return the processor time of all that this process has started and seen end."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _check_time(board: Board, took_s: float) -> bool:
    """Raise `Wrong` where a processor took too long, on a machine with nothing else to do.

    Return whether that could be judged.
    """
    longest_s, load = LONGEST_S[board.arch], os.getloadavg()[2]
    say(f"{board.arch}: {took_s:.0f} s in all, at most {longest_s:.0f}; load {load:.1f}")
    if took_s > longest_s and load <= OWN_LOAD:
        raise Wrong(f"{board.arch} took too long: see which step above did")
    if took_s <= longest_s:
        return True
    say(f"{board.arch}: too long, NOT judged: this machine had other work: run it again alone")
    return False


def _supply(site: Site, board: Board) -> Supply:
    """Build what the devices are given: bundles, sound and wrong, and the next package."""
    begun_s = time.monotonic()
    profiles = {kind: build(site, board.machine.value, kind) for kind in KINDS[board.arch]}
    bundles = {kind: bundle_for(site, name) for kind, name in profiles.items()}
    for bundle in bundles.values():
        add_wrong(site, bundle)
    built_s = time.monotonic() - begun_s
    say(f"{board.arch}: built on this machine for {', '.join(profiles.values())}: {built_s:.0f} s")
    following = deb_builds.built_next(SCRATCH, AGENT, board.arch)
    say(f"{board.arch}: packed {following.name}: {time.monotonic() - begun_s - built_s:.0f} s")
    packages = [_deb(name, board) for name in (AGENT, *_packages_of(KINDS[board.arch]))]
    return Supply(profiles, bundles, packages, following)


def _packages_of(kinds: Sequence[Kind]) -> list[str]:
    return [kind.package for kind in kinds]


def _deb(package: str, board: Board) -> Path:
    deb = DIST / f"{package}_{deb_builds.version_of_this()}_{board.arch}.deb"
    if not deb.exists():
        raise Wrong(f"{deb.name} is not in dist/: run make deb DEB_ARCHES={board.arch} first")
    size_mib, largest_mib = deb.stat().st_size / MIB, deb_builds.LARGEST_MIB[package]
    say(f"{board.arch}: {deb.name}: {size_mib:.1f} MiB, at most {largest_mib}")
    if size_mib > largest_mib:
        raise Wrong(f"{deb.name} is too large: see packaging/staging.py for what is left out")
    return deb


def _all_of(stories: Sequence[Callable[[], None]]) -> None:
    """Run stories side by side; raise what the first that failed has said."""
    with ThreadPoolExecutor(len(SUITES)) as pool:
        for done in as_completed([pool.submit(story) for story in stories]):
            done.result()


if __name__ == "__main__":
    sys.exit(main())
