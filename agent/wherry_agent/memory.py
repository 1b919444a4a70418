"""The agent's two machines and what of them outlives the process: one write for each step.

The state, what is trusted and what is told of both are saved together: after a kill an order that
was accepted is wholly known, or not at all. While the disk refuses to save, what was confirmed may
serve again, and everything else that outlives the process waits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from typing_extensions import assert_never

from wherry.messages import Deployment, Event, TrialResult
from wherry.names import DeviceId, ProfileName
from wherry.reasons import Reason
from wherry.trust.keeping import Trust, Verifier
from wherry_agent.core import acceptance, install, receipts, session, trial
from wherry_agent.core import agent as machine
from wherry_agent.core.acceptance import Acceptance
from wherry_agent.core.health import Bounds
from wherry_agent.database import CannotSave
from wherry_agent.outbox import Outbox
from wherry_agent.store import Store
from wherry_agent.telling import Teller

log = logging.getLogger("wherry_agent")

MOST_BEFORE_REFUSALS = 1000  # Events that wait: above it only what the device itself did is kept.


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Who this device is, and the root of trust that it was given with it."""

    device: DeviceId
    profile: ProfileName
    epoch: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Clocks:
    """UNIX time, which may be wrong, and a clock that only passes; both in seconds."""

    unix: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


Told: TypeAlias = machine.Tell | trial.Answer | receipts.TellReceipt


class Memory:
    """Used by the deciding thread only; `agent` and `acceptance` are the newest states.

    `fault` is what the disk has against saving them.
    """

    def __init__(
        self,
        store: Store,
        outbox: Outbox,
        teller: Teller,
        enrolment: Enrolment,
        verifier: Verifier,
        clocks: Clocks | None = None,
    ) -> None:
        self._store, self._outbox, self._teller = store, outbox, teller
        self._verifier, self._clocks = verifier, clocks or Clocks()
        known = store.load_trust()
        self._is_new = known is None or known.epoch != enrolment.epoch
        if known is None or self._is_new:
            # Enrolling again heals whatever went wrong: nothing of the last trust is kept.
            known = verifier.begin(enrolment.root, epoch=enrolment.epoch)
        self.agent = self._kept = machine.Agent(session=session.Session())
        self._kept_trust: Trust | None = None
        self._untold: list[Event] = []
        self._forgotten = 0
        self._held: machine.Effects = ()
        self.fault: Reason | None = None
        self.acceptance = Acceptance(
            device=enrolment.device, profile=enrolment.profile, trust=known
        )

    def wake(
        self, *, limit_bytes_per_s: float | None, bounds: Bounds | None = None
    ) -> machine.Effects:
        """Come up with what was saved; return what to do first."""
        first, last = self._outbox.span()
        self.agent, effects = machine.wake(
            self._store.load(),
            self._clocks.monotonic(),
            outbox_first=first,
            outbox_last=last,
            limit_bytes_per_s=limit_bytes_per_s,
            bounds=bounds,
        )
        if self._is_new:
            effects += self._step(machine.Reenrolled())
        return self._commit(effects)

    def step(self, event: machine.Event) -> machine.Effects:
        """Take an event; return what it orders, once that is saved."""
        effects = self._step(event)
        return self._commit(effects)

    def judge(self, event: acceptance.Event) -> tuple[acceptance.Effects, machine.Effects]:
        """Hold what came against what is trusted; take an order that is accepted in one go."""
        self.acceptance, effects = acceptance.step(
            self.acceptance, event, self._clocks.unix(), self._verifier
        )
        ordered: machine.Effects = ()
        for effect in effects:
            if isinstance(effect, acceptance.Accept):
                came = machine.OrderCame(effect.order, effect.verdicts, effect.trials)
                ordered = self._step(came)
        return effects, self._commit(ordered)

    def note(self, event: Event) -> tuple[machine.Event, ...]:
        """Put an event in the outbox, now or once it can be; return the news for the session."""
        self._untold.append(event)
        if not self._save():
            return ()
        return (session.Stored(self._outbox.span()[1], self._clocks.monotonic()),)

    def note_refusal(self, event: Event) -> Iterator[machine.Event]:
        """Put what was refused in the outbox while there is room: it costs its sender nothing."""
        first, last = self._outbox.span()
        if last - first + 1 + len(self._untold) < MOST_BEFORE_REFUSALS:
            yield from self.note(event)

    def forget(self, until: int) -> None:
        """Delete the events up to a number, at once or when the disk takes writes again."""
        self._forgotten = until
        self._save()

    def _step(self, event: machine.Event) -> machine.Effects:
        self.agent, effects = machine.step(self.agent, event, self._clocks.monotonic())
        return effects

    def _commit(self, effects: machine.Effects) -> machine.Effects:
        """Save what follows from a step, in one write; return what may be done now."""
        told = [one for one in effects if isinstance(one, Told)]
        self._untold += map(self._event_of, told)
        for tell in told:
            _log_told(tell)
        if self._save():
            held, self._held = self._held, ()
            return (*held, *effects)
        self._held += tuple(effect for effect in effects if _waits(effect))
        return tuple(effect for effect in effects if not _waits(effect))

    def _save(self) -> bool:
        """Save the state and the trust, with what is to be told of them; say whether it is."""
        trust, is_new = self.acceptance.trust, machine.must_save(self._kept, self.agent)
        is_trust_new = trust is not self._kept_trust
        if not (self._untold or self._forgotten or is_new or is_trust_new):
            return True
        try:
            with self._store.transaction():
                if is_trust_new:
                    self._store.save_trust(trust)
                if is_new:
                    self._store.save(machine.saved_of(self.agent))
                for event in self._untold:
                    self._outbox.add_event(event)
                self._outbox.forget_events(self._forgotten)
        except CannotSave as error:
            if self.fault is not error.reason:
                log.error("state.unsaved", extra={"problem": str(error)})
            self.fault = error.reason
            return False
        self._kept, self._kept_trust, self.fault = self.agent, trust, None
        self._forgotten = 0
        self._untold.clear()
        return True

    def _event_of(self, told: Told) -> Event:
        at = self._clocks.unix()
        match told:
            case trial.Answer(result):
                return self._teller.trial(result, at=at)
            case machine.Tell(alias, deployment):
                return self._teller.deployment(alias, deployment, at=at)
            case receipts.TellReceipt(alias, _, receipt):
                return self._teller.receipt(alias, receipt, at=at)
            case _:
                assert_never(told)


def _waits(effect: machine.Effect) -> bool:
    """Say whether an effect must not be ahead of the saved state.

    To serve what was confirmed is always safe, and so is to speak and to fetch.
    """
    if isinstance(effect, machine.For):
        return not isinstance(effect.effect, install.Serve | install.Retire)
    return isinstance(effect, Told | receipts.Attest | trial.Run | trial.Clear)


def _log_told(told: Told) -> None:
    match told:
        case trial.Answer(result):
            log.info("trial.answered", extra=_fields_of_trial(result))
        case machine.Tell(_, deployment):
            name = "deployment." + deployment.status.value
            log.info(name, extra=_fields(deployment))
        case receipts.TellReceipt(alias, deployment, _):
            log.info("receipt.signed", extra={"alias": alias, "deployment": deployment})
        case _:
            assert_never(told)


def _fields_of_trial(result: TrialResult) -> dict[str, str]:
    fields = {"trial": result.trial, "bundle": result.bundle}
    if result.reason:
        fields |= {"reason": result.reason.value, "why": result.detail}
    return fields


def _fields(deployment: Deployment) -> dict[str, str]:
    fields = {"deployment": deployment.deployment, "bundle": deployment.bundle}
    if deployment.phase:
        fields["phase"] = deployment.phase.value
    if deployment.reason:
        fields |= {"reason": deployment.reason.value, "why": deployment.detail}
    return fields
