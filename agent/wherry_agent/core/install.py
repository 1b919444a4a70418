"""The install machine: how one alias on a device moves from one bundle to the next.

Pure: `step` takes a state and one event and returns the next state with the effects to
perform. The app saves the new state and performs its `Report`s in one write (the outbox lies
in the same database), then performs the rest. A kill between any two effects is answered by
`Restarted`, which orders them anew and counts: a bundle that kills the device must not be
tried for ever. So up to `MAX_RESTARTS - 1` kills change nothing but the time.

    Idle --Ordered--> Fetching --Fetched--> Loading --Loaded--> Probation --Tick--> Idle

Every road back to Idle reports once, and `Idle.settled` keeps the outcome, so `reported` can
be said again at every connect. The deployment id is the identity: an order that is renewed
changes nothing in flight, unless what is in flight is trusted no more (`Denied`). What the newest
order revokes serves only where nothing else can. Times are of the monotonic clock, so a restart
begins deadlines and probation anew.
"""

from __future__ import annotations

from typing import TypeAlias, TypeVar

import msgspec
from msgspec.structs import replace
from typing_extensions import assert_never

from wherry.messages import Deployment, Slots, Wanted
from wherry.names import DeploymentId, Digest
from wherry.reasons import Phase, Reason, Status

MAX_RESTARTS = 3
KEPT_BUNDLES = 2  # The serving one and the one before it, to go back without the network.


# States. `confirmed`: bundles that passed probation here, the one to serve first; `revoked`: what
# the newest order revokes.


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


class Probation(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    wanted: Wanted
    confirmed: tuple[Digest, ...]
    revoked: frozenset[Digest]
    began_s: float
    restarts: int = 0


InFlight: TypeAlias = Fetching | Loading | Probation
State: TypeAlias = Idle | InFlight
StateT = TypeVar("StateT", bound=State)


# Events: what happened, and to which deployment


class Ordered(msgspec.Struct, frozen=True):
    wanted: Wanted
    at_s: float
    revoked: frozenset[Digest] = frozenset()


class Denied(msgspec.Struct, frozen=True):
    """An order wants a bundle that this device must not install, and why."""

    wanted: Wanted
    reason: Reason
    detail: str = ""
    revoked: frozenset[Digest] = frozenset()


class Withdrawn(msgspec.Struct, frozen=True):
    """The order names this alias no more: what is in flight ends, what serves goes on."""

    revoked: frozenset[Digest] = frozenset()


class Fetched(msgspec.Struct, frozen=True):
    deployment: DeploymentId


class Refused(msgspec.Struct, frozen=True):
    """The bundle is none for this device: it is not tried again."""

    deployment: DeploymentId
    reason: Reason
    detail: str = ""


class Loaded(msgspec.Struct, frozen=True):
    deployment: DeploymentId
    at_s: float


class Sickened(msgspec.Struct, frozen=True):
    """Fetching, loading, the golden check or probation found a fault."""

    deployment: DeploymentId
    reason: Reason
    detail: str = ""


class Unservable(msgspec.Struct, frozen=True):
    """A confirmed bundle could not be brought up again."""

    bundle: Digest


class Tick(msgspec.Struct, frozen=True):
    at_s: float


class Restarted(msgspec.Struct, frozen=True):
    """The process came up and found this state on disk; nothing is serving."""

    at_s: float


Event: TypeAlias = (
    Ordered
    | Denied
    | Withdrawn
    | Fetched
    | Refused
    | Loaded
    | Sickened
    | Unservable
    | Tick
    | Restarted
)


# Effects: what to do; each may be done twice


class Fetch(msgspec.Struct, frozen=True):
    wanted: Wanted


class Load(msgspec.Struct, frozen=True):
    """Load beside the serving bundle, and answer `Loaded` or `Sickened`."""

    wanted: Wanted


class Serve(msgspec.Struct, frozen=True):
    """Answer with this bundle from now on; None: with nothing. The others stay loaded."""

    bundle: Digest | None


class Retire(msgspec.Struct, frozen=True):
    """Drain and reap every worker but the serving one."""


class Keep(msgspec.Struct, frozen=True):
    """Delete every bundle of this alias from the disk but these."""

    bundles: tuple[Digest, ...]


class Report(msgspec.Struct, frozen=True):
    """Put the outcome in the outbox; the write that saves the state does it."""

    outcome: Deployment


Effect: TypeAlias = Fetch | Load | Serve | Retire | Keep | Report
Effects: TypeAlias = tuple[Effect, ...]


def step(state: State, event: Event) -> tuple[State, Effects]:
    """Return the state that follows `event`, and what to do about it."""
    match event:
        case Ordered():
            return _follow(state, event)
        case Denied():
            return _deny(state, event)
        case Withdrawn(revoked):
            return _withdraw(state, revoked)
        case Restarted(at_s):
            return _restart(state, at_s)
        case Unservable(bundle):
            return _serve_another(state, bundle)
        case Refused(which, reason, detail) if isinstance(state, Fetching) and _is(state, which):
            return _settle(state, Status.REJECTED, reason, detail)
        case Sickened(which, reason, detail) if _is(state, which):
            return _give_up(state, reason, detail)
        case Fetched(which) if isinstance(state, Fetching) and _is(state, which):
            loading = Loading(
                wanted=state.wanted,
                confirmed=state.confirmed,
                revoked=state.revoked,
                began_s=state.began_s,
            )
            return loading, (Load(state.wanted),)
        case Loaded(which, at_s) if isinstance(state, Loading) and _is(state, which):
            return _try_out(state, at_s)
        case Tick(at_s) if not isinstance(state, Idle):
            return _watch(state, at_s - state.began_s)
        case Fetched() | Refused() | Loaded() | Sickened() | Tick():
            return state, ()  # Late news of a deployment that is settled already.
        case _:
            assert_never(event)


def phase_of(state: State) -> Phase | None:
    match state:
        case Idle():
            return None
        case Fetching():
            return Phase.FETCHING
        case Loading():
            return Phase.LOADING
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
    confirmed = (*state.confirmed, None, None)
    match state:
        case Idle():
            return Slots(active=confirmed[0], previous=confirmed[1])
        case Probation():
            return Slots(active=state.wanted.bundle, previous=_fallback(state))
        case Fetching() | Loading():
            return Slots(active=confirmed[0], previous=confirmed[1], candidate=state.wanted.bundle)
        case _:
            assert_never(state)


def serves_revoked(state: State) -> bool:
    """Say whether what serves is revoked, which is so only where nothing else can serve."""
    return slots_of(state).active in state.revoked


def _follow(state: State, order: Ordered) -> tuple[State, Effects]:
    wanted = order.wanted
    state = replace(state, revoked=order.revoked)
    if _is_current(state, wanted):
        return _shun_revoked(state)
    if not isinstance(state, Idle):
        # The newest wish wins at once: a halted rollout must not wait out a probation.
        idle, undo = _settle(state, Status.SUPERSEDED, Reason.NEWER_ORDER)
        after, do = _follow(idle, order)
        if isinstance(after, Fetching) and wanted.bundle == state.wanted.bundle:
            keep = Keep((*idle.confirmed, wanted.bundle))  # What was fetched is not fetched again.
            undo = tuple(keep if isinstance(effect, Keep) else effect for effect in undo)
        return after, undo + do
    if state.confirmed[:1] == (wanted.bundle,):
        done = _outcome(wanted, Status.SUCCEEDED, Reason.SERVES_ALREADY)
        return replace(state, settled=done), (Report(done),)
    fetching = Fetching(
        wanted=wanted, confirmed=state.confirmed, revoked=order.revoked, began_s=order.at_s
    )
    after, shun = _shun_revoked(fetching)
    return after, (*shun, Fetch(wanted))


def _deny(state: State, denied: Denied) -> tuple[State, Effects]:
    """Reject the deployment, or end it where it is under way; what is settled stays so."""
    state = replace(state, revoked=denied.revoked)
    if _is_current(state, denied.wanted):
        if isinstance(state, Idle):
            return _shun_revoked(state)
        status = Status.REVERTED if _served(state) else Status.REJECTED
        return _settle(state, status, denied.reason, denied.detail)
    idle, undo = _settle(state, Status.SUPERSEDED, Reason.NEWER_ORDER)
    after, shun = _shun_revoked(idle)
    outcome = _outcome(denied.wanted, Status.REJECTED, denied.reason, denied.detail)
    return Idle(after.confirmed, outcome, after.revoked), (*undo, *shun, Report(outcome))


def _withdraw(state: State, revoked: frozenset[Digest]) -> tuple[State, Effects]:
    state = replace(state, revoked=revoked)
    if isinstance(state, Idle):
        return _shun_revoked(state)
    return _settle(state, Status.CANCELED, Reason.WITHDRAWN)


def _shun_revoked(state: State) -> tuple[State, Effects]:
    """Serve a confirmed bundle that is not revoked instead of one that is."""
    sound = _sound_first(state)
    if isinstance(state, Probation) or sound.confirmed[:1] == state.confirmed[:1]:
        return sound, ()
    serve = Serve(_fallback(sound))
    return sound, (serve, Retire()) if isinstance(sound, Idle) else (serve,)


def _try_out(state: Loading, at_s: float) -> tuple[State, Effects]:
    probation = Probation(
        wanted=state.wanted,
        confirmed=state.confirmed,
        revoked=state.revoked,
        began_s=at_s,
        restarts=state.restarts,
    )
    return probation, (Serve(state.wanted.bundle),)


def _watch(state: InFlight, passed_s: float) -> tuple[State, Effects]:
    if not isinstance(state, Probation):
        if passed_s < state.wanted.deadline_s:
            return state, ()
        took = f"it was {state.wanted.deadline_s:g} s in {_spoken(state)}"
        return _settle(state, Status.TIMED_OUT, Reason.DEADLINE, took)
    if passed_s >= state.wanted.probation_s:
        return _confirm(state)
    return state, ()


def _confirm(state: Probation) -> tuple[State, Effects]:
    bundle = state.wanted.bundle
    others = tuple(digest for digest in state.confirmed if digest not in {bundle, *state.revoked})
    confirmed = (bundle, *others)[:KEPT_BUNDLES]
    done = _outcome(state.wanted, Status.SUCCEEDED, Reason.CONFIRMED)
    return Idle(confirmed, done, state.revoked), (Retire(), Keep(confirmed), Report(done))


def _restart(state: State, at_s: float) -> tuple[State, Effects]:
    state = _sound_first(state)
    serve = Serve(_fallback(state))
    match state:
        case Idle():
            return state, (serve, Keep(state.confirmed))
        case Fetching():
            return replace(state, began_s=at_s), (serve, Fetch(state.wanted))
        case Loading() | Probation():
            again = Loading(
                wanted=state.wanted,
                confirmed=state.confirmed,
                revoked=state.revoked,
                began_s=at_s,
                restarts=state.restarts + 1,
                served=_served(state),
            )
            if again.restarts >= MAX_RESTARTS:
                return _give_up(again, Reason.RESTARTED_TOO_OFTEN)
            return again, (serve, Load(state.wanted))
        case _:
            assert_never(state)


def _serve_another(state: State, lost: Digest) -> tuple[State, Effects]:
    """Forget a bundle that no longer comes up; serve the next, unless a candidate serves."""
    kept = replace(state, confirmed=tuple(d for d in state.confirmed if d != lost))
    kept = _sound_first(kept)
    return kept, () if isinstance(kept, Probation) else (Serve(_fallback(kept)),)


def _give_up(state: State, reason: Reason, detail: str = "") -> tuple[State, Effects]:
    return _settle(state, Status.REVERTED if _served(state) else Status.FAILED, reason, detail)


def _settle(
    state: State, status: Status, reason: Reason, detail: str = ""
) -> tuple[State, Effects]:
    """End the deployment; serve the fallback, and so reap the candidate."""
    if isinstance(state, Idle):
        return state, ()
    outcome = _outcome(state.wanted, status, reason, detail)
    idle = Idle(_sound_first(state).confirmed, outcome, state.revoked)
    return idle, (Serve(_fallback(idle)), Retire(), Keep(idle.confirmed), Report(outcome))


def _outcome(wanted: Wanted, status: Status, reason: Reason, detail: str = "") -> Deployment:
    return Deployment(
        deployment=wanted.deployment,
        bundle=wanted.bundle,
        status=status,
        reason=reason,
        detail=detail,
    )


def _fallback(state: State) -> Digest | None:
    """Return the newest confirmed bundle not revoked; a revoked one rather than nothing."""
    return next(iter(_sound_first(state).confirmed), None)


def _sound_first(state: StateT) -> StateT:
    """Move revoked bundles to the end; done only where what serves is chosen anew."""
    confirmed = tuple(sorted(state.confirmed, key=lambda digest: digest in state.revoked))
    return replace(state, confirmed=confirmed)


def _is_current(state: State, wanted: Wanted) -> bool:
    """Say whether the deployment is the one in flight, or the last that ended."""
    current = deployment_of(state)
    return current is not None and current.deployment == wanted.deployment


def _served(state: State) -> bool:
    return isinstance(state, Probation) or (isinstance(state, Loading) and state.served)


def _spoken(state: InFlight) -> str:
    phase = phase_of(state)
    return phase.value if phase else "progress"


def _is(state: State, deployment: DeploymentId) -> bool:
    return not isinstance(state, Idle) and state.wanted.deployment == deployment
