"""The runtimes that a build's profiles name, installed before any of the version's code runs.

They are shared by all versions, so the confined part of a build may read them and not change
them: one version's code must not decide what another's is measured on.
"""

from __future__ import annotations

import sys
from pathlib import Path

from msgspec.structs import replace

from wherry.profile import Profile
from wherry_controller.builder.running.environments import Readiness, install, state_of
from wherry_controller.builder.running.place import Place, places_of
from wherry_controller.core.build import BuildRequest, Refused
from wherry_controller.core.fault import BuildRefused


def prepare(request: BuildRequest) -> tuple[BuildRequest, list[Refused]]:
    """Return the request for the profiles that can be run, and the refusals of the others.

    An emulated processor without its runtime refuses nothing: the report says that it is missing.
    """
    runtimes = Path(request.runtimes)
    ready: list[Profile] = []
    refused: list[Refused] = []
    for profile in request.profiles:
        places = places_of(profile)
        try:
            for place in (places.evaluated, places.floor):
                install(place, runtimes)
        except BuildRefused as refusal:
            refused.append(Refused(refusal.fault.reason, refusal.fault.sentence, profile.name))
        else:
            ready.append(profile)
            for place in places.emulated:
                _try_to_install(place, runtimes)
    return replace(request, profiles=tuple(ready)), refused


def _try_to_install(place: Place, runtimes: Path) -> None:
    if state_of(place, runtimes) is Readiness.INSTALLABLE:
        try:
            install(place, runtimes)
        except BuildRefused as refusal:
            sys.stderr.write(f"{place.cpu}: {refusal}\n")
