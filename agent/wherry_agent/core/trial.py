"""The trial machine: what a device measures of bundles for measuring, beside what serves.

Trials are taken one after another, and only while no alias is on its way to a bundle.

    waiting --Freed--> Fetching --Fetched--> Running --Ran--> answered
       ^                   `----------`--Occupied, Refused, Tick--^

Every trial that was begun is answered once; an answered one is not begun again while an order
names it. One that an order names no more is dropped without a word. The app saves the state and
performs its `Answer` in one write. After a restart the trial under way begins anew, and is answered
when that has happened too often: its bundle may be what ends the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec
from msgspec.structs import replace
from typing_extensions import assert_never

from wherry.measures import TrialFigures
from wherry.messages import Trial, TrialResult
from wherry.names import Digest, TrialId
from wherry.reasons import Reason
from wherry.trust.target import Denied, Verdict

MAX_RESTARTS = 2

# A device that gave other outputs than the golden ones; `TrialResult.faithful`.
UNFAITHFUL = frozenset({Reason.GOLDEN_MISMATCH, Reason.NOT_FINITE})


class Fetching(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    trial: Trial
    began_s: float
    restarts: int = 0


class Running(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    trial: Trial
    began_s: float
    restarts: int = 0


class State(msgspec.Struct, frozen=True, kw_only=True):
    """`waiting` in the order's order; `answered` as long as the order names them."""

    waiting: tuple[Trial, ...] = ()
    current: Fetching | Running | None = None
    answered: tuple[TrialId, ...] = ()


# Events


class Ordered(msgspec.Struct, frozen=True):
    """A newer order names these trials and no other; of some the bundle is denied."""

    trials: tuple[Trial, ...]
    verdicts: Mapping[TrialId, Verdict] = {}


class Freed(msgspec.Struct, frozen=True):
    """No alias is on its way anywhere."""

    at_s: float


class Occupied(msgspec.Struct, frozen=True):
    """A deployment needs the device."""


class Refused(msgspec.Struct, frozen=True):
    """The bundle cannot be had, or is none to measure here."""

    bundle: Digest
    reason: Reason
    detail: str = ""


class Fetched(msgspec.Struct, frozen=True):
    bundle: Digest


class Ran(msgspec.Struct, frozen=True):
    """The worker's word of a trial: figures, or why there are none."""

    trial: TrialId
    figures: TrialFigures | None = None
    reason: Reason | None = None
    detail: str = ""


class Tick(msgspec.Struct, frozen=True):
    at_s: float


class Restarted(msgspec.Struct, frozen=True):
    """The process came up and found this state on disk; no worker runs."""

    at_s: float


Event: TypeAlias = Ordered | Freed | Occupied | Refused | Fetched | Ran | Tick | Restarted


# Effects: what to do; each may be done twice


class Run(msgspec.Struct, frozen=True):
    """Run the trial's bundle in a worker of its own, done by `deadline_s`, and answer `Ran`."""

    trial: Trial
    deadline_s: float


class Stop(msgspec.Struct, frozen=True):
    """End the worker of trials, if there is one."""


class Answer(msgspec.Struct, frozen=True):
    """Put the result in the outbox; the write that saves the state does it."""

    result: TrialResult


class Clear(msgspec.Struct, frozen=True):
    """Delete from the disk what was fetched for trials that are over."""


Effect: TypeAlias = Run | Stop | Answer | Clear
Effects: TypeAlias = tuple[Effect, ...]


def step(state: State, event: Event) -> tuple[State, Effects]:
    """Return the state that follows `event`, and what to do about it."""
    match event:
        case Ordered(trials, verdicts):
            after, stopped = _follow(state, trials)
            return _refuse_denied(after, stopped, verdicts)
        case Freed(at_s):
            return _begin(state, at_s), ()
        case Occupied():
            return _answer(state, Reason.BUSY, "a deployment came")
        case Refused(bundle, reason, detail) if fetching_of(state) == bundle:
            return _answer(state, reason, detail)
        case Fetched(bundle) if fetching_of(state) == bundle:
            return _run(state)
        case Ran(which, figures, reason, detail) if isinstance(state.current, Running):
            if state.current.trial.trial != which:
                return state, ()
            return _answer(state, reason, detail, figures)
        case Tick(at_s):
            return _watch(state, at_s)
        case Restarted(at_s):
            return _restart(state, at_s)
        case Refused() | Fetched() | Ran():
            return state, ()  # Late news of a trial that is over.
        case _:
            assert_never(event)


def fetching_of(state: State) -> Digest | None:
    """Return the bundle that a trial waits for."""
    return state.current.trial.bundle if isinstance(state.current, Fetching) else None


def bundle_of(state: State) -> Digest | None:
    """Return the bundle that the trial under way needs on the disk."""
    return state.current.trial.bundle if state.current else None


def _follow(state: State, trials: tuple[Trial, ...]) -> tuple[State, Effects]:
    named = {trial.trial for trial in trials}
    answered = tuple(trial for trial in state.answered if trial in named)
    current = state.current
    under_way = current is not None and current.trial.trial in named
    begun = {*answered, *([current.trial.trial] if current else [])}
    after = State(
        waiting=tuple(trial for trial in trials if trial.trial not in begun),
        current=current if under_way else None,
        answered=answered,
    )
    return after, (Stop(), Clear()) if current and not under_way else ()


def _refuse_denied(
    state: State, effects: Effects, verdicts: Mapping[TrialId, Verdict]
) -> tuple[State, Effects]:
    """Answer each trial that waits or runs and whose bundle is denied."""
    denied = {trial: verdict for trial, verdict in verdicts.items() if isinstance(verdict, Denied)}
    if state.current and (why := denied.get(state.current.trial.trial)):
        state, more = _answer(state, why.reason, why.detail)
        effects += more
    for waiting in (trial for trial in state.waiting if trial.trial in denied):
        why = denied[waiting.trial]
        effects += (Answer(_result(waiting, why.reason, why.detail)),)
        state = replace(state, answered=(*state.answered, waiting.trial))
    left = tuple(trial for trial in state.waiting if trial.trial not in denied)
    return replace(state, waiting=left), effects


def _begin(state: State, at_s: float) -> State:
    if state.current is not None or not state.waiting:
        return state
    first, *rest = state.waiting
    return replace(state, waiting=tuple(rest), current=Fetching(trial=first, began_s=at_s))


def _run(state: State) -> tuple[State, Effects]:
    begun = state.current
    if begun is None:
        return state, ()
    running = Running(trial=begun.trial, began_s=begun.began_s, restarts=begun.restarts)
    deadline_s = begun.began_s + begun.trial.deadline_s
    return replace(state, current=running), (Run(begun.trial, deadline_s),)


def _watch(state: State, at_s: float) -> tuple[State, Effects]:
    current = state.current
    if current is None or at_s - current.began_s <= current.trial.deadline_s:
        return state, ()
    at = "fetched" if isinstance(current, Fetching) else "measured"
    late = f"it was not {at} within {current.trial.deadline_s:g} s"
    return _answer(state, Reason.DEADLINE, late)


def _restart(state: State, at_s: float) -> tuple[State, Effects]:
    """Begin anew what was under way: the deadline too, since clocks do not outlive a boot."""
    if state.current is None:
        return state, ()
    restarts = state.current.restarts + 1
    again = Fetching(trial=state.current.trial, began_s=at_s, restarts=restarts)
    state = replace(state, current=again)
    if restarts <= MAX_RESTARTS:
        return state, ()
    why = f"the agent ended {restarts} times while it was under way"
    return _answer(state, Reason.RESTARTED_TOO_OFTEN, why)


def _answer(
    state: State, reason: Reason | None, detail: str, figures: TrialFigures | None = None
) -> tuple[State, Effects]:
    """End the trial under way with its answer."""
    if state.current is None:
        return state, ()
    trial = state.current.trial
    result = _result(trial, reason, detail, figures)
    after = replace(state, current=None, answered=(*state.answered, trial.trial))
    return after, (Stop(), Answer(result), Clear())


def _result(
    trial: Trial, reason: Reason | None, detail: str, figures: TrialFigures | None = None
) -> TrialResult:
    return TrialResult(
        trial=trial.trial,
        bundle=trial.bundle,
        faithful=_faithful(reason, figures),
        figures=figures,
        reason=reason,
        detail=detail,
    )


def _faithful(reason: Reason | None, figures: TrialFigures | None) -> bool | None:
    if reason in UNFAITHFUL:
        return False
    return True if figures is not None else None
