"""What the engine and the gauge are told to do, each perhaps twice, and what comes of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Protocol

from typing_extensions import assert_never

from wherry.manifest import Manifest
from wherry.messages import Shadow, Split, SwapPolicy, detail
from wherry.names import AliasName, DeploymentId, Digest
from wherry.reasons import Reason
from wherry.signature import states_of
from wherry_agent import engine
from wherry_agent.asking import BundlePlace
from wherry_agent.core import agent as machine
from wherry_agent.core import install, restarts, trial
from wherry_agent.gauge import Gauge
from wherry_agent.probing import RuntimesProbed
from wherry_agent.shelf import Shelf

log = logging.getLogger("wherry_agent")

GONE = "its files are gone from the disk"
OTHER_STATES = (
    "it passes other states around than the bundle that serves, so that the two cannot be "
    "compared: roll it out without shadow and split"
)
LONGEST_FLIP_S = 5.0


class Orders(Protocol):
    """What the engine can be told; it returns at once, and tells what came of it as events."""

    def load(
        self,
        alias: AliasName,
        deployment: DeploymentId,
        place: BundlePlace,
        policy: SwapPolicy,
        duty: engine.Duty,
    ) -> None: ...
    def serve(self, alias: AliasName, place: BundlePlace | None) -> None: ...
    def share(self, alias: AliasName, place: BundlePlace, split: Split) -> None: ...
    def shadow(self, alias: AliasName, place: BundlePlace, shadow: Shadow) -> None: ...
    def retire(self, alias: AliasName) -> None: ...


class Places(Protocol):
    """Where bundles stand on the disk: the shelf's part."""

    def place(self, bundle: Digest) -> BundlePlace | None: ...


class Installer:
    """Orders the engine what the install machines want, and reads its news; deciding thread only.

    Nothing is loaded before the runtimes were probed. `bad_runtimes` says what is wrong with those
    that do not run here, `missed` why what shall answer does not come up.
    """

    def __init__(self, serving: Orders, shelf: Places) -> None:
        self._engine, self._shelf = serving, shelf
        self._is_probed = False
        self._loads: dict[AliasName, install.Load] = {}  # Which wait for the probes.
        self._answers: dict[AliasName, Digest] = {}  # What answers alone, as the engine has told.
        self._flips: dict[AliasName, tuple[Digest, float]] = {}
        self.bad_runtimes: Mapping[str, str] = {}
        self.missed: dict[AliasName, Reason] = {}

    def perform(
        self, effect: install.EngineEffect, alias: AliasName, now_s: float
    ) -> Iterator[machine.Event]:
        """Order the engine; yield what cannot be done."""
        match effect:
            case install.Load():
                yield from self._load(alias, effect)
            case install.Serve(bundle):
                yield from self._serve(alias, bundle, now_s)
            case install.Shadow(bundle) | install.Share(bundle):
                yield from self._compare(effect, alias, bundle)
            case install.Retire():
                self._loads.pop(alias, None)  # A candidate that was given up is loaded no more.
                self._engine.retire(alias)
            case _:
                assert_never(effect)

    def note_probes(self, probed: RuntimesProbed) -> Iterator[machine.Event]:
        """Load what waited for the probes, as far as its runtime is sound."""
        self._is_probed, self.bad_runtimes = True, probed.bad
        loads, self._loads = self._loads, {}
        for alias, load in loads.items():
            yield from self._load(alias, load)

    def is_flipping(self, now_s: float) -> bool:
        """Say whether the engine is yet to answer with what it was ordered to, for a while."""
        return any(now_s < until_s for _, until_s in self._flips.values())

    def note_flip(self, flip: engine.Flipped) -> None:
        if flip.share == 1.0:
            self._answers[flip.alias] = flip.bundle
            self.missed.pop(flip.alias, None)
        if self._flips.get(flip.alias, (None,))[0] == flip.bundle:
            del self._flips[flip.alias]

    def note_return(self, back: engine.CameBack) -> None:
        self.missed.pop(back.alias, None)

    def read(
        self,
        item: engine.Loaded | engine.LoadFailed | engine.Unservable | engine.WorkerDied,
        state: install.State,
        now_s: float,
    ) -> Iterator[machine.Event]:
        """Say what news of the engine mean for its alias, which stands at `state`."""
        match item:
            case engine.Loaded(alias, deployment):
                shown = self._shown(item)
                alone = item.policy is SwapPolicy.RESOURCE
                yield machine.Installed(alias, install.Loaded(deployment, now_s, shown, alone))
            case engine.LoadFailed(alias, deployment, _, reason, why):
                sickened = install.Sickened(deployment, reason, detail(why))
                yield machine.Installed(alias, sickened)
            case engine.Unservable(alias, bundle, reason, why):
                log.error("bundle.unservable", extra={"bundle": bundle, "reason": reason.value})
                self._flips.pop(alias, None)
                if reason is not Reason.CRASH_LOOP:  # What dies again and again answers meanwhile.
                    self.missed[alias] = reason
                yield from _sickened(item, state, reason)
                may_pass = item.is_tried_again and reason in restarts.MAY_PASS
                yield machine.Installed(alias, install.Unservable(bundle, may_pass))
            case engine.WorkerDied(_, bundle, why):
                log.warning("worker.died", extra={"bundle": bundle, "why": why})
                yield from _sickened(item, state, Reason.WORKER_DIED)
            case _:
                assert_never(item)

    def _load(self, alias: AliasName, load: install.Load) -> Iterator[machine.Event]:
        if not self._is_probed:
            self._loads[alias] = load
            return
        wanted, place = load.wanted, self._shelf.place(load.wanted.bundle)
        if place is None:
            sickened = install.Sickened(wanted.deployment, Reason.LOAD_FAILED, GONE)
            yield machine.Installed(alias, sickened)
            return
        refusal = self._refusal(place.manifest, load.rival)
        if refusal is not None:
            reason, why = refusal
            yield machine.Installed(alias, install.Refused(wanted.deployment, reason, detail(why)))
        else:
            duty = _duty(load)
            self._engine.load(alias, wanted.deployment, place, wanted.policy, duty)

    def _refusal(self, candidate: Manifest, rival: Digest | None) -> tuple[Reason, str] | None:
        """Return why a bundle is not even loaded, or None."""
        runtime = candidate.profile.runtime.value
        if runtime in self.bad_runtimes:
            return Reason.BAD_RUNTIME, f"{runtime} does not run here: {self.bad_runtimes[runtime]}"
        beside = self._shelf.place(rival) if rival else None
        if beside and states_of(beside.manifest.signature) != states_of(candidate.signature):
            return Reason.STATE_DIFFERS, OTHER_STATES
        return None

    def _compare(
        self, effect: install.Shadow | install.Share, alias: AliasName, bundle: Digest
    ) -> Iterator[machine.Event]:
        place = self._shelf.place(bundle)
        if place is None:
            yield machine.Installed(alias, install.Unservable(bundle))
        elif isinstance(effect, install.Shadow):
            self._engine.shadow(alias, place, effect.shadow)
        else:
            self._answers.pop(alias, None)
            self._engine.share(alias, place, effect.split)

    def _serve(
        self, alias: AliasName, bundle: Digest | None, now_s: float
    ) -> Iterator[machine.Event]:
        place = self._shelf.place(bundle) if bundle else None
        self._flips.pop(alias, None)
        self.missed.pop(alias, None)
        if bundle and place is None:
            yield machine.Installed(alias, install.Unservable(bundle))
            return
        if bundle is None:
            self._answers.pop(alias, None)
        elif self._answers.get(alias) != bundle:
            self._flips[alias] = bundle, now_s + LONGEST_FLIP_S
        self._engine.serve(alias, place)

    def _shown(self, loaded: engine.Loaded) -> install.Shown | None:
        place = self._shelf.place(loaded.bundle)
        if place is None:
            return None
        proof = loaded.proof
        return install.Shown(
            runtime=place.manifest.profile.runtime.value,
            runtime_version=proof.runtime_version,
            outputs=proof.outputs,
            memory_bytes=proof.memory_bytes,
        )


def _duty(load: install.Load) -> engine.Duty:
    if load.rival is None:
        return engine.Duty.ANSWER
    return engine.Duty.SHADOW if load.wanted.shadow else engine.Duty.SHARE


def _sickened(
    item: engine.Unservable | engine.WorkerDied, state: install.State, reason: Reason
) -> Iterator[machine.Event]:
    """End a shadowing or a probation whose bundle does not run; any other goes on."""
    watched = install.Shadowing | install.Probation
    if isinstance(state, watched) and state.wanted.bundle == item.bundle:
        sickened = install.Sickened(state.wanted.deployment, reason, detail(item.detail))
        yield machine.Installed(item.alias, sickened)


def perform_trial(
    effect: trial.Run | trial.Stop, gauge: Gauge, shelf: Shelf
) -> Iterator[machine.Event]:
    """Order the gauge; yield what cannot be done."""
    match effect:
        case trial.Run(wanted, deadline_s):
            place = shelf.place(wanted.bundle)
            if place is None:
                yield trial.Ran(wanted.trial, None, Reason.LOAD_FAILED, GONE)
            else:
                gauge.run(wanted, place, deadline_s=deadline_s)
        case trial.Stop():
            gauge.stop()
        case _:
            assert_never(effect)
