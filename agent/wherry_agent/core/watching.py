"""What is watched of every alias: the incumbent's last windows, and the candidate beside it.

The incumbent's windows and labels are kept as long as it serves, over restarts too, so that the
next candidate has something to be compared with. A confirmed candidate's become the incumbent's;
those of a bundle that is lost go with it.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec.structs import replace

from wherry.histogram import Histogram, merge
from wherry.measures import Feedback, ShadowCounts
from wherry.names import AliasName, Digest
from wherry_agent.core import install
from wherry_agent.core.health import (
    WINDOWS_KEPT,
    Bounds,
    Incumbent,
    Sickness,
    Watch,
    Window,
    diagnose,
    diagnose_shadow,
    observe,
    observe_beside,
)
from wherry_agent.core.labels import halved, labels_of
from wherry_agent.core.standing import Idle, Probation, Shadowing, State, fallback_of, slots_of

T = TypeVar("T")

LABELS_KEPT = 10_000  # Above it all are halved: what was long ago fades.


class Watching(msgspec.Struct, frozen=True, kw_only=True):
    """`recent` and `labels` are the incumbents', `watches` and `shadows` the candidates'."""

    recent: dict[AliasName, tuple[Histogram, ...]] = {}
    labels: dict[AliasName, Feedback] = {}
    watches: dict[AliasName, Watch] = {}
    shadows: dict[AliasName, ShadowCounts] = {}
    temperature_c: float | None = None
    bounds: Bounds = Bounds()


def follow(watching: Watching, alias: AliasName, before: State, after: State) -> Watching:
    """Begin and end watches as an alias goes from one state to the next."""
    watch = watching.watches.get(alias)
    watching = _follow_incumbent(watching, alias, before, after)
    if isinstance(after, Probation) and not isinstance(before, Probation):
        watch = _begin(watching, alias, after)
    if isinstance(after, Probation) and watch is not None:
        watch = replace(watch, shares=after.shares)
        watching = replace(watching, watches={**watching.watches, alias: watch})
    else:
        watching = replace(watching, watches=_without(watching.watches, alias))
    if isinstance(after, Shadowing) and not isinstance(before, Shadowing):
        return replace(watching, shadows={**watching.shadows, alias: ShadowCounts()})
    if not isinstance(after, Shadowing):
        return replace(watching, shadows=_without(watching.shadows, alias))
    return watching


def weigh(
    watching: Watching, alias: AliasName, state: State, bundle: Digest, window: Window
) -> tuple[Watching, install.Event | None]:
    """Take what a window measured of a bundle; return what it says of the candidate, if anything.

    Labels come late: the incumbent's count for it while another bundle answers.
    """
    if window.temperature_c is not None and not isinstance(state, Probation):
        watching = replace(watching, temperature_c=window.temperature_c)
    if not isinstance(state, Idle) and bundle == state.wanted.bundle:
        return _weigh_candidate(watching, alias, state, window)
    if bundle == fallback_of(state):
        watching = _note_labels(watching, alias, window)
        if isinstance(state, Probation):
            watch = observe_beside(watching.watches[alias], window)
            watching = replace(watching, watches={**watching.watches, alias: watch})
    if bundle == slots_of(state).active and window.compute.total:
        recent = (*watching.recent.get(alias, ()), window.compute)[-WINDOWS_KEPT:]
        watching = replace(watching, recent={**watching.recent, alias: recent})
    return watching, None


def _weigh_candidate(
    watching: Watching, alias: AliasName, state: install.InFlight, window: Window
) -> tuple[Watching, install.Event | None]:
    deployment = state.wanted.deployment
    match state:
        case Probation():
            watch = observe(watching.watches[alias], window)
            watching = replace(watching, watches={**watching.watches, alias: watch})
            return watching, _sickened(state, diagnose(watch, watching.bounds))
        case Shadowing() if window.shadow is not None and state.wanted.shadow is not None:
            counts = watching.shadows[alias] + window.shadow
            watching = replace(watching, shadows={**watching.shadows, alias: counts})
            sickened = _sickened(state, diagnose_shadow(counts, state.wanted.shadow))
            return watching, sickened or install.Compared(deployment, counts.requests)
        case _:
            return watching, None


def _sickened(state: install.InFlight, sickness: Sickness | None) -> install.Sickened | None:
    if sickness is None:
        return None
    return install.Sickened(state.wanted.deployment, sickness.reason, sickness.detail)


def _begin(watching: Watching, alias: AliasName, probation: Probation) -> Watch:
    incumbent = Incumbent(
        compute=merge(watching.recent.get(alias, ())),
        labels=watching.labels.get(alias, Feedback()),
        temperature_c=watching.temperature_c,
    )
    base_bytes = probation.shown.memory_bytes if probation.shown else 0
    return Watch(incumbent=incumbent, base_bytes=base_bytes or None)


def _follow_incumbent(
    watching: Watching, alias: AliasName, before: State, after: State
) -> Watching:
    """Keep what was measured of the bundle that the device goes back to, and of no other."""
    if fallback_of(before) == fallback_of(after):
        return watching
    recent, labels = _without(watching.recent, alias), _without(watching.labels, alias)
    if isinstance(before, Probation) and fallback_of(after) == before.wanted.bundle:
        watch = watching.watches[alias]
        recent, labels = {**recent, alias: watch.compute}, {**labels, alias: watch.labels}
    return replace(watching, recent=recent, labels=labels)


def _note_labels(watching: Watching, alias: AliasName, window: Window) -> Watching:
    labels = watching.labels.get(alias, Feedback()) + labels_of(window.feedback)
    if max(labels.labelled, labels.answers) > LABELS_KEPT:
        labels = halved(labels)
    if labels == Feedback():
        return watching
    return replace(watching, labels={**watching.labels, alias: labels})


def _without(facts: dict[AliasName, T], alias: AliasName) -> dict[AliasName, T]:
    return {name: fact for name, fact in facts.items() if name != alias}
