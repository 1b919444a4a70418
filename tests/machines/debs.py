"""`make test-deb`: our packages in Debian 12 and 13: installed, served, upgraded, cut off, purged.

No program in a root has a network. What a check saw is printed; the first that does not hold ends
the run with exit code 1. CUTS says how often an upgrade is cut off, SEED draws at which instants.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.machines import deb_builds, deb_checks, deb_contents, deb_homes
from tests.machines.deb_checks import AGENT, CONFFILE, CONTROLLER
from tests.machines.deb_cuts import Version, cut_and_repair
from tests.machines.deb_roots import SUITES, Failed, Root, a_root
from tests.machines.installed import PACKAGES
from tests.machines.nspawn import say

DIST, SCRATCH = deb_builds.ROOT / "dist", deb_builds.ROOT / "build/machines/debs"
KINDS = {"wherry-agent-onnx": "onnx", "wherry-agent-litert": "litert"}
MIB = 1 << 20
CUTS = int(os.environ.get("CUTS", "20"))
SEED = int(os.environ.get("SEED", "1"))
WHOLE = "installed"  # What dpkg says of a package that it is not at work on.


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # So that nothing stays behind then.
    try:
        _check_all()
    except (Failed, subprocess.SubprocessError) as error:
        say(f"FAILED: {error}")
        return 1
    finally:
        shutil.rmtree(SCRATCH, ignore_errors=True)
    return 0


def _check_all() -> None:
    for arch in ("amd64", "arm64"):
        for package in PACKAGES:
            _check_size(_deb(package, arch), deb_builds.LARGEST_MIB[package])
        deb_contents.check_old_python(_deb(AGENT, arch), *map(partial(_deb, arch=arch), KINDS))
    say("packed for Python 3.10 too, the same libraries: untried, for no Debian here has it")
    debs = {package: _deb(package, "amd64") for package in PACKAGES}
    _check_lintian([_deb(package, arch) for package in PACKAGES for arch in ("amd64", "arm64")])
    for package, deb in debs.items():
        _check_identical(package, deb)
    homes = {kind: deb_homes.a_confirmed_home(kind, SCRATCH) for kind in deb_homes.MODELS}
    new = Version(deb_builds.next_version(), deb_builds.built_next(SCRATCH, AGENT))
    for suite, name in SUITES.items():
        with a_root(suite, SCRATCH) as root:
            _check_root(root, name, debs, homes, new)


def _check_root(
    root: Root, name: str, debs: dict[str, Path], homes: dict[str, Path], new: Version
) -> None:
    before = root.files()
    old = Version(deb_builds.version_of_this(), debs[AGENT])
    begun = time.monotonic()
    deb_checks.install(root, [debs[AGENT], debs["wherry-agent-onnx"]])
    deb_checks.give_home(root, homes["onnx"])
    deb_checks.check_answer(root)
    took_s = time.monotonic() - begun
    say(f"{name}: installed without a network, first answer (onnx) after {took_s:.1f} s")
    deb_checks.install(root, [debs["wherry-agent-litert"], debs[CONTROLLER]])
    for package in debs:
        deb_checks.check_imports(root, package)
        deb_checks.check_installed(root, package, old.version)
    root.said("wherry-agent", "profile")
    deb_checks.check_controller(root)
    say(f"{name}: the controller is founded and serves, as a user of its own")
    for kind, home in homes.items():
        deb_checks.give_home(root, home)
        deb_checks.check_answer(root)
        say(f"{name}: answers with {kind}, every library is found")
    conffile = root.folder / CONFFILE
    conffile.write_text(conffile.read_text() + "# An operator's line.\n")
    _check_cuts(root, name, old, new)
    if "operator" not in conffile.read_text():
        raise Failed(["dpkg", "--install"], f"/{CONFFILE} lost what an operator wrote")
    say(f"{name}: /{CONFFILE} kept what an operator wrote")
    deb_checks.check_purge(root, list(debs), before)
    say(f"{name}: purged, and nothing is left")


def _check_cuts(root: Root, name: str, old: Version, new: Version) -> None:
    begun = time.monotonic()
    root.said("dpkg", "--force-confold", "--install", _inside(root, new.deb))
    took_s = time.monotonic() - begun
    deb_checks.check_installed(root, AGENT, new.version)
    deb_checks.check_answer(root)
    say(f"{name}: upgraded to {new.version} in {took_s:.1f} s")
    seen: Counter[str] = Counter()
    for number in range(CUTS):
        pair = (new, old) if number % 2 == 0 else (old, new)
        chance = random.Random(f"{SEED}/{name}/{number}")
        cut = cut_and_repair(root, *pair, chance.uniform(0, took_s))
        seen[cut.status] += 1
        served = "the old one" if cut.served == pair[0].version else "the new one"
        say(f"{name}: cut {number + 1} after {cut.after_s:.2f} s: {cut.status}, {served} serves")
    states = ", ".join(f"{count} {state}" for state, count in sorted(seen.items()))
    if not set(seen) - {WHOLE}:
        raise Failed(["dpkg", "--install"], f"{CUTS} cuts, and none of them hit dpkg at work")
    said = "a whole version served after each, each repaired"
    say(f"{name}: {CUTS} cuts, seed {SEED} ({states}): {said}")


def _inside(root: Root, deb: Path) -> str:
    shutil.copy(deb, root.folder / "tmp")
    return f"/tmp/{deb.name}"


def _deb(package: str, arch: str) -> Path:
    return DIST / f"{package}_{deb_builds.version_of_this()}_{arch}.deb"


def _check_size(deb: Path, largest_mib: int) -> None:
    if not deb.exists():
        raise Failed(["make", "deb"], f"{deb.name} is not in dist/: run make deb first")
    size_mib = deb.stat().st_size / MIB
    say(f"{deb.name}: {size_mib:.1f} MiB, at most {largest_mib}")
    if size_mib > largest_mib:
        raise Failed(["make", "deb"], f"{deb.name} is too large")


def _check_lintian(debs: Sequence[Path]) -> None:
    command = ["lintian", "--allow-root", "--fail-on", "error,warning", *map(str, debs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(command, done.stdout)
    say(f"lintian finds neither errors nor warnings in {len(debs)} packages")


def _check_identical(package: str, deb: Path) -> None:
    again = deb_builds.built_again(SCRATCH, package)
    if _digest(again) != _digest(deb):
        raise Failed(["make", "deb"], f"{deb.name} built again is another file")
    say(f"{deb.name}: built again in another place, it is the same")


def _digest(place: Path) -> str:
    return hashlib.sha256(place.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
