"""The install machine: how one alias on a device moves from one bundle to the next.

Pure: `step` takes a state and one event and returns the next state with the effects to
perform. The app saves the new state and performs its `Report`s in one write (the outbox lies
in the same database), then performs the rest. A kill between any two effects is answered by
`Restarted`, which orders them anew and counts: a bundle that kills the device must not be
tried for ever. So up to `MAX_RESTARTS - 1` kills change nothing but the time.

    Idle --Ordered--> Fetching --Fetched--> Loading --Loaded--> Probation --Tick--> Idle
                                               `--Loaded--> Shadowing --Tick--^

An order may ask for shadowing before probation, and for a probation in which the candidate answers
a share only. Both compare it with the incumbent: where none serves that is not revoked there is
neither. Every road back to Idle reports once, and `Idle.settled` keeps the outcome, so `reported`
can be said again at every connect. The deployment id is the identity: an order that is renewed
changes nothing in flight, unless what is in flight is trusted no more (`Denied`), and a bundle that
was reverted is not taken again under it. Times are of the monotonic clock, so a restart begins
deadlines, shadowing and probation anew.

The states stand in `standing`, events and effects in `changes`.
"""

from __future__ import annotations

from msgspec.structs import replace
from typing_extensions import assert_never

from wherry.messages import Deployment, Wanted
from wherry.names import Digest
from wherry.reasons import Reason, Status
from wherry_agent.core.changes import (
    Compared,
    Denied,
    Effect,
    Effects,
    EngineEffect,
    Event,
    Fetch,
    Fetched,
    Keep,
    Load,
    Loaded,
    Ordered,
    Refused,
    Report,
    Restarted,
    Retire,
    Serve,
    Shadow,
    Share,
    Sickened,
    Tick,
    Unservable,
    Withdrawn,
)
from wherry_agent.core.standing import (
    PAST_FETCHING,
    Fetching,
    Idle,
    InFlight,
    Loading,
    Probation,
    Shadowing,
    Shown,
    State,
    deployment_of,
    fallback_of,
    has_served,
    is_current,
    is_under_way,
    phase_of,
    rival_of,
    serves_revoked,
    slots_of,
    sound_first,
)

__all__ = [
    "KEPT_BUNDLES",
    "MAX_RESTARTS",
    "PAST_FETCHING",
    "Compared",
    "Denied",
    "Effect",
    "Effects",
    "EngineEffect",
    "Event",
    "Fetch",
    "Fetched",
    "Fetching",
    "Idle",
    "InFlight",
    "Keep",
    "Load",
    "Loaded",
    "Loading",
    "Ordered",
    "Probation",
    "Refused",
    "Report",
    "Restarted",
    "Retire",
    "Serve",
    "Shadow",
    "Shadowing",
    "Share",
    "Shown",
    "Sickened",
    "State",
    "Tick",
    "Unservable",
    "Withdrawn",
    "deployment_of",
    "phase_of",
    "serves_revoked",
    "slots_of",
    "step",
]

MAX_RESTARTS = 3
UNSERVABLE = "it was loaded, and can answer no more: its files are gone, or it does not come up"
KEPT_BUNDLES = 2  # The serving one and the one before it, to go back without the network.


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
        case Unservable(bundle, may_pass):
            if may_pass and state.confirmed == (bundle,):
                return state, ()  # There is no other one: it is better tried again than forgotten.
            return _serve_another(state, bundle)
        case Tick(at_s):
            return _watch(state, at_s)
        case Fetched() | Refused() | Loaded() | Compared() | Sickened():
            if isinstance(state, Idle) or not is_under_way(state, event.deployment):
                return state, ()  # Late news of a deployment that is settled already.
            return _go_on(state, event)
        case _:
            assert_never(event)


def _go_on(
    state: InFlight, event: Fetched | Refused | Loaded | Compared | Sickened
) -> tuple[State, Effects]:
    """Take what happened to the deployment in flight, where it is not past it already."""
    match event:
        case Fetched() if isinstance(state, Fetching):
            return _load(state)
        case Refused(_, reason, detail) if isinstance(state, Fetching | Loading):
            status = Status.REVERTED if has_served(state) else Status.REJECTED
            return _settle(state, status, reason, detail)
        case Loaded() if isinstance(state, Loading):
            return _bring_out(state, event)
        case Compared(_, requests) if isinstance(state, Shadowing):
            return replace(state, compared=requests), ()
        case Sickened(_, reason, detail):
            return _give_up(state, reason, detail)
        case Fetched() | Refused() | Loaded() | Compared():
            return state, ()
        case _:
            assert_never(event)


def _follow(state: State, order: Ordered) -> tuple[State, Effects]:
    wanted = order.wanted
    state = replace(state, revoked=order.revoked)
    if is_current(state, wanted):
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
    if is_current(state, denied.wanted):
        if isinstance(state, Idle):
            return _shun_revoked(state)
        status = Status.REVERTED if has_served(state) else Status.REJECTED
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
    sound = sound_first(state)
    if sound.confirmed[:1] == state.confirmed[:1]:
        return sound, ()
    after, effects = _change_incumbent(sound)
    return after, (*effects, Retire()) if isinstance(after, Idle) else effects


def _change_incumbent(state: State) -> tuple[State, Effects]:
    """Serve what stands first now; a comparison with what stood there is begun anew or ended."""
    serve = Serve(fallback_of(state))
    match state:
        case Idle() | Fetching():
            return state, (serve,)
        case Loading() | Shadowing():
            loading = _loading_again(state, state.began_s, restarts=state.restarts)
            rival = rival_of(loading)
            is_new = rival is not None or isinstance(state, Shadowing)
            return loading, (serve, Load(state.wanted, rival)) if is_new else (serve,)
        case Probation(shares=True):
            return replace(state, shares=False), (Serve(state.wanted.bundle),)
        case Probation():
            return state, ()
        case _:
            assert_never(state)


def _load(state: Fetching) -> tuple[State, Effects]:
    loading = Loading(
        wanted=state.wanted,
        confirmed=state.confirmed,
        revoked=state.revoked,
        began_s=state.began_s,
    )
    return loading, (Load(state.wanted, rival_of(loading)),)


def _bring_out(state: Loading, loaded: Loaded) -> tuple[State, Effects]:
    """Show the candidate requests: copies first where that is wanted, else those it answers."""
    rival, shadow = rival_of(state), state.wanted.shadow
    if rival is not None and loaded.alone:
        alone = "there is no room for the candidate and for what it is to be compared with"
        return _give_up(state, Reason.OVER_BUDGET, alone)
    if rival is None or shadow is None or state.served:
        return _try_out(state, loaded.at_s, loaded.shown)
    shadowing = Shadowing(
        wanted=state.wanted,
        confirmed=state.confirmed,
        revoked=state.revoked,
        began_s=loaded.at_s,
        restarts=state.restarts,
        shown=loaded.shown,
    )
    return shadowing, (Shadow(state.wanted.bundle, shadow),)


def _try_out(state: Loading | Shadowing, at_s: float, shown: Shown | None) -> tuple[State, Effects]:
    bundle, split = state.wanted.bundle, state.wanted.split
    shares = split is not None and rival_of(state) is not None
    probation = Probation(
        wanted=state.wanted,
        confirmed=state.confirmed,
        revoked=state.revoked,
        began_s=at_s,
        restarts=state.restarts,
        shown=shown,
        shares=shares,
    )
    return probation, (Share(bundle, split) if split and shares else Serve(bundle),)


def _watch(state: State, at_s: float) -> tuple[State, Effects]:
    match state:
        case Idle():
            return state, ()
        case Fetching() | Loading():
            return _limit(state, at_s)
        case Shadowing():
            return _conclude(state, at_s)
        case Probation():
            is_over = at_s - state.began_s >= state.wanted.probation_s
            return _confirm(state) if is_over else (state, ())
        case _:
            assert_never(state)


def _limit(state: Fetching | Loading, at_s: float) -> tuple[State, Effects]:
    if at_s - state.began_s < state.wanted.deadline_s:
        return state, ()
    took = f"it was {state.wanted.deadline_s:g} s in {_spoken(state)}"
    return _settle(state, Status.TIMED_OUT, Reason.DEADLINE, took)


def _conclude(state: Shadowing, at_s: float) -> tuple[State, Effects]:
    """Try it out once enough was compared for long enough; give it up at the deadline."""
    shadow, passed_s = state.wanted.shadow, at_s - state.began_s
    enough = shadow is None or state.compared >= shadow.min_requests
    if shadow is None or (enough and passed_s >= shadow.for_s):
        return _try_out(state, at_s, state.shown)
    if enough or passed_s < shadow.deadline_s:
        return state, ()
    compared = f"{state.compared} of {shadow.min_requests} requests"
    took = f"{compared} were compared within {shadow.deadline_s:g} s"
    return _settle(state, Status.TIMED_OUT, Reason.DEADLINE, took)


def _confirm(state: Probation) -> tuple[State, Effects]:
    bundle = state.wanted.bundle
    others = tuple(digest for digest in state.confirmed if digest not in {bundle, *state.revoked})
    confirmed = (bundle, *others)[:KEPT_BUNDLES]
    done = _outcome(state.wanted, Status.SUCCEEDED, Reason.CONFIRMED)
    serve = (Serve(bundle),) if state.shares else ()
    return Idle(confirmed, done, state.revoked), (*serve, Retire(), Keep(confirmed), Report(done))


def _restart(state: State, at_s: float) -> tuple[State, Effects]:
    state = sound_first(state)
    serve = Serve(fallback_of(state))
    match state:
        case Idle():
            return state, (serve, Keep(state.confirmed))
        case Fetching():
            return replace(state, began_s=at_s), (serve, Fetch(state.wanted))
        case Loading() | Shadowing() | Probation():
            again = _loading_again(state, at_s, restarts=state.restarts + 1)
            if again.restarts >= MAX_RESTARTS:
                return _give_up(again, Reason.RESTARTED_TOO_OFTEN)
            return again, (serve, Load(state.wanted, rival_of(again)))
        case _:
            assert_never(state)


def _loading_again(
    state: Loading | Shadowing | Probation, began_s: float, *, restarts: int
) -> Loading:
    return Loading(
        wanted=state.wanted,
        confirmed=state.confirmed,
        revoked=state.revoked,
        began_s=began_s,
        restarts=restarts,
        served=has_served(state),
    )


def _serve_another(state: State, lost: Digest) -> tuple[State, Effects]:
    """Forget a bundle that no longer comes up; serve the next, unless a candidate serves.

    A candidate that it is said of is given up.
    """
    kept = replace(state, confirmed=tuple(digest for digest in state.confirmed if digest != lost))
    kept = sound_first(kept)
    if isinstance(kept, Shadowing | Probation) and kept.wanted.bundle == lost:
        return _give_up(kept, Reason.LOAD_FAILED, UNSERVABLE)
    if lost != slots_of(state).active:
        return kept, ()
    after, effects = _change_incumbent(kept)
    return after, (*effects, Retire()) if isinstance(after, Idle) else effects


def _give_up(state: State, reason: Reason, detail: str = "") -> tuple[State, Effects]:
    return _settle(state, Status.REVERTED if has_served(state) else Status.FAILED, reason, detail)


def _settle(
    state: State, status: Status, reason: Reason, detail: str = ""
) -> tuple[State, Effects]:
    """End the deployment; serve the fallback, and so reap the candidate."""
    if isinstance(state, Idle):
        return state, ()
    outcome = _outcome(state.wanted, status, reason, detail)
    idle = Idle(sound_first(state).confirmed, outcome, state.revoked)
    return idle, (Serve(fallback_of(idle)), Retire(), Keep(idle.confirmed), Report(outcome))


def _outcome(wanted: Wanted, status: Status, reason: Reason, detail: str = "") -> Deployment:
    return Deployment(
        deployment=wanted.deployment,
        bundle=wanted.bundle,
        status=status,
        reason=reason,
        detail=detail,
    )


def _spoken(state: InFlight) -> str:
    phase = phase_of(state)
    return phase.value if phase else "progress"
