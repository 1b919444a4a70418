"""Where one alias stands: the states of the install machine, and which bundle each puts where.

`confirmed` are the bundles that passed probation here, the one to serve first; `revoked` is what
the newest order revokes. A revoked bundle serves only where nothing else can.
"""

from __future__ import annotations

from typing import TypeAlias, TypeVar

import msgspec
from msgspec.structs import replace
from typing_extensions import assert_never

from wherry.messages import Deployment, Slots, Wanted
from wherry.names import DeploymentId, Digest
from wherry.reasons import Phase, Status


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle showed when it was brought up here.

    `outputs` is the sha256 of what it computed for the golden inputs, `memory_bytes` what its
    worker had of its own once it was warm.
    """

    runtime: str
    runtime_version: str
    outputs: Digest
    memory_bytes: int


class Idle(msgspec.Struct, frozen=True, tag=True):
    confirmed: tuple[Digest, ...] = ()
    settled: Deployment | None = None
    revoked: frozenset[Digest] = frozenset()


class Fetching(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    wanted: Wanted
    confirmed: tuple[Digest, ...]
    revoked: frozenset[Digest]
    began_s: float


class Loading(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """`served` says that it was in probation before a restart."""

    wanted: Wanted
    confirmed: tuple[Digest, ...]
    revoked: frozenset[Digest]
    began_s: float
    restarts: int = 0
    served: bool = False


class Shadowing(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """It gets copies of requests; `compared` of its answers were held against the incumbent's."""

    wanted: Wanted
    confirmed: tuple[Digest, ...]
    revoked: frozenset[Digest]
    began_s: float
    restarts: int = 0
    shown: Shown | None = None
    compared: int = 0


class Probation(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """`shares` says that it answers a part of the requests, and the incumbent the others."""

    wanted: Wanted
    confirmed: tuple[Digest, ...]
    revoked: frozenset[Digest]
    began_s: float
    restarts: int = 0
    shown: Shown | None = None
    shares: bool = False


InFlight: TypeAlias = Fetching | Loading | Shadowing | Probation
State: TypeAlias = Idle | InFlight
StateT = TypeVar("StateT", bound=State)

PAST_FETCHING = (Loading, Shadowing, Probation)


def phase_of(state: State) -> Phase | None:
    match state:
        case Idle():
            return None
        case Fetching():
            return Phase.FETCHING
        case Loading():
            return Phase.LOADING
        case Shadowing():
            return Phase.SHADOWING
        case Probation():
            return Phase.PROBATION
        case _:
            assert_never(state)


def deployment_of(state: State) -> Deployment | None:
    """Return the deployment in progress, else the last one that ended."""
    if isinstance(state, Idle):
        return state.settled
    return Deployment(
        deployment=state.wanted.deployment,
        bundle=state.wanted.bundle,
        status=Status.IN_PROGRESS,
        phase=phase_of(state),
    )


def slots_of(state: State) -> Slots:
    """Return which bundle serves, which one it would go back to, and which one is on its way."""
    if isinstance(state, Probation) and not state.shares:
        return Slots(active=state.wanted.bundle, previous=fallback_of(state))
    active, previous = (*state.confirmed, None, None)[:2]
    candidate = None if isinstance(state, Idle) else state.wanted.bundle
    return Slots(active=active, previous=previous, candidate=candidate)


def serves_revoked(state: State) -> bool:
    """Say whether what serves is revoked, which is so only where nothing else can serve."""
    return slots_of(state).active in state.revoked


def fallback_of(state: State) -> Digest | None:
    """Return the newest confirmed bundle not revoked; a revoked one rather than nothing."""
    return next(iter(sound_first(state).confirmed), None)


def sound_first(state: StateT) -> StateT:
    """Move revoked bundles to the end; done only where what serves is chosen anew."""
    confirmed = tuple(sorted(state.confirmed, key=lambda digest: digest in state.revoked))
    return replace(state, confirmed=confirmed)


def rival_of(state: InFlight) -> Digest | None:
    """Return the incumbent that the candidate is yet to be compared with.

    None where the order asks for no comparison, where one was made before a restart, and where
    nothing serves but what is revoked.
    """
    wanted = state.wanted
    incumbent = fallback_of(state)
    shadows = wanted.shadow is not None and not has_served(state)
    wants_one = shadows or wanted.split is not None
    return incumbent if wants_one and incumbent not in state.revoked else None


def is_current(state: State, wanted: Wanted) -> bool:
    """Say whether the deployment is the one in flight, or the last that ended."""
    current = deployment_of(state)
    return current is not None and current.deployment == wanted.deployment


def is_under_way(state: State, deployment: DeploymentId) -> bool:
    return not isinstance(state, Idle) and state.wanted.deployment == deployment


def has_served(state: State) -> bool:
    """Say whether the bundle on its way has answered requests."""
    return isinstance(state, Probation) or (isinstance(state, Loading) and state.served)
