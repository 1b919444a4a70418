"""Says what a build for a profile would miss here: `python -m … PROFILE.json RUNTIMES [--install]`.

One `Checked` a line of JSON; `--install` makes what can be made first. A place is ready when its
runtime is there in its version and its processor is this machine's, or can be emulated.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from wherry import codec
from wherry.cpuinfo import features_in
from wherry.profile import Facts, Profile, find_wrong_processor
from wherry_controller.builder.running import emulation
from wherry_controller.builder.running.environments import Readiness, install, state_of
from wherry_controller.builder.running.place import Place, places_of, this_arch
from wherry_controller.core.fault import BuildRefused
from wherry_controller.core.profiles import Checked, Use

INSTALL = "--install"
NOT_YET = "it is not installed yet: a build installs it, or `wherry profile check --install`"

Look = Callable[[Place, Path], str]


def check(profile: Profile, runtimes: Path, look: Look) -> Iterator[Checked]:
    """Tell of each place that the profile names, then of this machine's own processor."""
    places = places_of(profile)
    yield _told(Use.EVALUATED, places.evaluated, look(places.evaluated, runtimes))
    if places.floor != places.evaluated:
        yield _told(Use.FLOOR, places.floor, look(places.floor, runtimes))
    for place in places.emulated:
        yield _told(Use.EMULATED, place, look(place, runtimes))
    if profile.arch is this_arch():
        yield Checked(use=Use.PROCESSOR, place=profile.arch.value, problem=_own_lack(profile))


def look_only(place: Place, runtimes: Path) -> str:
    """Return what the place lacks; nothing is made."""
    match state_of(place, runtimes):
        case Readiness.READY:
            return ""
        case Readiness.INSTALLABLE:
            return NOT_YET
        case Readiness.MISSING:
            return emulation.why_not(place, runtimes)


def install_first(place: Place, runtimes: Path) -> str:
    """Make what the place lacks; return what it lacks still."""
    try:
        install(place, runtimes)
    except BuildRefused as refused:
        return refused.fault.sentence
    return look_only(place, runtimes)


def _told(use: Use, place: Place, problem: str) -> Checked:
    where = f" on {place.cpu}" if place.cpu else ""
    return Checked(use=use, place=f"{place.runtime.value} {place.version}{where}", problem=problem)


def _own_lack(profile: Profile) -> str:
    """Return what the profile asks of a processor and this one lacks: its figures would be off."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    facts = Facts(arch=profile.arch.value, cpu_features=features_in(cpuinfo))
    lack = find_wrong_processor(profile, facts)
    return f"{lack}: build on a machine of the profile, or measure on one" if lack else ""


def main() -> None:
    """Print what is checked as it is; the profile's file is the caller's own."""
    file, runtimes, *rest = sys.argv[1:]
    profile = codec.decode(Profile, Path(file).read_bytes())
    look = install_first if rest == [INSTALL] else look_only
    for checked in check(profile, Path(runtimes), look):
        sys.stdout.write(codec.encode(checked).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
