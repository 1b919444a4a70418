"""Which bundles are resident under each alias: brought up, flipped to, drained, started again.

A bundle is brought up beside what serves (`availability`), or once everything else of its alias
is gone (`resource`); then what served is brought up again by itself where the candidate fails.
A runner that answers or shadows and dies is started again: at once the first time, then after
pauses that grow (`core.restarts`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from wherry.measures import Seen
from wherry.messages import Shadow, Split, SwapPolicy
from wherry.names import AliasName, DeploymentId, Digest
from wherry.reasons import Reason
from wherry_agent.asking import (
    Bringing,
    BundlePlace,
    Comparison,
    Proof,
    Question,
    Runner,
    StartRunner,
    Unanswered,
)
from wherry_agent.core import restarts
from wherry_agent.core.residency import Resident, choose_policy
from wherry_agent.core.restarts import Restarts
from wherry_agent.engine.clock import Clock
from wherry_agent.engine.events import (
    CameBack,
    EngineEvent,
    Flipped,
    Loaded,
    LoadFailed,
    Unservable,
    WorkerDied,
)
from wherry_agent.engine.recording import Recording
from wherry_agent.engine.requests import Requests, nothing_serves
from wherry_agent.engine.settings import EngineSettings
from wherry_agent.engine.shadows import Shadows
from wherry_agent.engine.slots import Duty, Slots, Wish
from wherry_agent.frames import Fault

LOADING_NICENESS = 10  # Never SCHED_IDLE: beside a busy process that took 20 s to load.
GAVE_WAY = "it gave way to what is to serve, for the memory of both is not there; order it again"
NO_ROOM = (
    "there is no memory for it beside what serves, and it is to be compared with that one: "
    "roll it out without shadow and split, or free memory"
)


class Residents:
    """Carries out orders, and is the `RunnerListener` of every runner; on the engine's loop."""

    def __init__(
        self,
        clock: Clock,
        slots: dict[AliasName, Slots],
        *,
        requests: Requests,
        shadows: Shadows,
        recorder: Recording,
        settings: EngineSettings,
        start_runner: StartRunner,
        memory_available_bytes: Callable[[], int | None],
        on_event: Callable[[EngineEvent], None],
    ) -> None:
        self._clock, self._slots, self._settings = clock, slots, settings
        self._requests, self._shadows, self._recorder = requests, shadows, recorder
        self._start_runner, self._on_event = start_runner, on_event
        self._memory_available_bytes = memory_available_bytes

    # Orders

    def load(
        self,
        alias: AliasName,
        deployment: DeploymentId,
        place: BundlePlace,
        policy: SwapPolicy,
        duty: Duty,
    ) -> None:
        slots, bundle = self._of(alias), place.digest
        slots.retired.discard(bundle)
        if slots.ready(bundle):
            self._tell_loaded(slots, deployment, bundle, SwapPolicy.AVAILABILITY)
            return
        waiting = slots.loads.setdefault(bundle, [])
        if deployment not in waiting:
            waiting.append(deployment)
        if bundle in slots.runners or slots.next_up == place:
            return
        self._load_by_policy(slots, place, policy, duty)

    def serve(self, alias: AliasName, place: BundlePlace | None) -> None:
        slots = self._of(alias)
        slots.wish = Wish(place) if place else None
        if place is not None:
            slots.retired.discard(place.digest)
            self._fulfil(slots)
            return
        slots.serving = slots.sharing = slots.shadowing = slots.before = None
        if slots.next_up and slots.next_up.digest not in slots.loads:
            slots.next_up = None
        self._requests.change_lanes(slots)

    def share(self, alias: AliasName, place: BundlePlace, split: Split) -> None:
        slots = self._of(alias)
        if slots.serving is None or slots.serves(place.digest):
            self.serve(alias, place)
            return
        slots.wish = Wish(place, split)
        slots.retired.discard(place.digest)
        self._fulfil(slots)

    def shadow(self, alias: AliasName, place: BundlePlace, shadow: Shadow | None) -> None:
        slots = self._of(alias)
        if shadow is None:
            slots.shadowing = None
            return
        slots.retired.discard(place.digest)
        self._shadows.begin(slots, place, shadow)
        self._bring_up(slots, place)

    def retire(self, alias: AliasName) -> None:
        slots = self._of(alias)
        if slots.next_up and not self._is_kept(slots, slots.next_up.digest):
            self._forget_next(slots)
        for bundle in tuple(slots.runners):
            if self._is_kept(slots, bundle):
                continue
            if slots.serves(bundle) or slots.shares(bundle):
                slots.retired.add(bundle)
            else:
                self._drain(slots, bundle)
        self._bring_back(slots)

    # Bringing up

    def _of(self, alias: AliasName) -> Slots:
        return self._slots.setdefault(alias, Slots(alias))

    def _is_kept(self, slots: Slots, bundle: Digest) -> bool:
        """Say whether a bundle is what shall answer, or shares with it."""
        wish = slots.wish
        if wish is None:
            return False
        return slots.wants(bundle) or (wish.split is not None and slots.serves(bundle))

    def _load_by_policy(
        self, slots: Slots, place: BundlePlace, policy: SwapPolicy, duty: Duty
    ) -> None:
        chosen = choose_policy(
            policy,
            place.manifest,
            self._resident(slots),
            available_bytes=self._memory_available_bytes(),
            reserve_bytes=self._settings.reserve_bytes,
        )
        if chosen is SwapPolicy.RESOURCE and duty is not Duty.ANSWER:
            self._tell_failure(slots, place, Reason.OVER_BUDGET, NO_ROOM)
            return
        slots.policy = chosen
        if chosen is SwapPolicy.RESOURCE:
            slots.swapping = place.digest
        self._bring_up(slots, place)

    def _resident(self, slots: Slots) -> Resident | None:
        if slots.serving is None:
            return None
        runner = slots.ready(slots.serving.digest)  # None: it is being started again.
        return Resident(slots.serving.manifest, runner.memory_bytes() if runner else 0)

    def _bring_up(self, slots: Slots, place: BundlePlace) -> None:
        if place.digest in slots.runners:
            return
        if slots.policy is SwapPolicy.RESOURCE and (slots.runners or slots.leaving):
            if slots.next_up and slots.next_up != place:
                self._tell_load_failed(slots, slots.next_up.digest, Reason.LOAD_FAILED, GAVE_WAY)
            slots.next_up = place
            for bundle in tuple(slots.runners):
                self._tell_load_failed(slots, bundle, Reason.LOAD_FAILED, GAVE_WAY)
                self._drain(slots, bundle)
        else:
            self._start(slots, place)

    def _start(self, slots: Slots, place: BundlePlace) -> None:
        try:
            runner = self._start_runner(slots.alias, place, self, self._bringing(slots, place))
        except OSError as error:
            detail = f"its worker could not be set up: {error}"
            self._tell_failure(slots, place, Reason.LOAD_FAILED, detail)
        else:
            slots.runners[place.digest] = runner

    def _bringing(self, slots: Slots, place: BundlePlace) -> Bringing:
        settings = self._settings
        tried = slots.restarts.get(place.digest, Restarts())
        return Bringing(
            load_timeout_s=settings.load_timeout_s * restarts.patience(tried),
            silence_s=settings.request_timeout_s,
            niceness=0 if slots.waits_for(place.digest) else LOADING_NICENESS,
            is_proved=place.digest in slots.proved,
            seen_share=settings.seen_share,
            optimized_folder=settings.optimized_folder,
        )

    def _drain(self, slots: Slots, bundle: Digest) -> None:
        runner = slots.runners.pop(bundle, None)
        for forgotten in (slots.loads, slots.proofs):
            forgotten.pop(bundle, None)
        slots.proved.discard(bundle)  # Should it be loaded again, it is a candidate.
        if slots.before == bundle:
            slots.before = None
        if slots.swapping == bundle:
            slots.swapping = None
        if runner:
            slots.leaving.add(runner)
            runner.drain(self._settings.drain_timeout_s)

    def _bring_back(self, slots: Slots) -> None:
        """Bring up what serves, where it was unloaded for a candidate that will not serve."""
        serving = slots.serving
        if serving is None or slots.swapping or slots.next_up:
            return
        if serving.digest not in slots.runners and serving.digest not in slots.pauses:
            self._bring_up(slots, serving)

    # Flips

    def _fulfil(self, slots: Slots) -> None:
        """Have what is wished for answer, once it is resident."""
        wish = slots.wish
        if wish is None:
            return
        if slots.fulfils(wish):
            self._give_up_swap(slots)
            return
        ends_split = wish.split is None and slots.serves(wish.place.digest)
        if slots.ready(wish.place.digest) or ends_split:
            self._flip(slots, wish)
        else:
            self._bring_up(slots, wish.place)

    def _give_up_swap(self, slots: Slots) -> None:
        """Bring up again what shall go on serving, where a candidate was to follow it."""
        self._forget_next(slots)
        self._bring_back(slots)

    def _forget_next(self, slots: Slots) -> None:
        """Forget a candidate that waits for the memory of others, and its swap."""
        slots.swapping = None
        if slots.next_up:
            self._tell_load_failed(slots, slots.next_up.digest, Reason.LOAD_FAILED, GAVE_WAY)
            slots.next_up = None

    def _flip(self, slots: Slots, wish: Wish) -> None:
        bundle, serving = wish.place.digest, slots.serving
        replaced = serving.digest if serving else None
        if wish.split is not None:
            slots.sharing = wish
        else:
            if slots.serves(bundle) and slots.sharing:
                replaced = slots.before = slots.sharing.place.digest
            else:
                slots.before, slots.serving = replaced, wish.place
            slots.sharing = None
        slots.shadowing = slots.swapping = None
        counted = slots.restarts.items()
        slots.restarts = {each: count for each, count in counted if slots.is_in_use(each)}
        old = slots.runners.get(replaced) if replaced else None
        in_flight = old.in_flight if old else 0
        event = Flipped(slots.alias, bundle, replaced, in_flight, wish.share, slots.policy)
        self._on_event(event)
        self._drain_retired(slots)
        self._requests.change_lanes(slots)

    def _drain_retired(self, slots: Slots) -> None:
        for bundle in tuple(slots.retired):
            if not self._is_kept(slots, bundle):
                self._drain(slots, bundle)
        slots.retired.clear()

    # RunnerListener

    def became_ready(self, runner: Runner, proof: Proof) -> None:
        slots, bundle = self._slots[runner.alias], runner.place.digest
        slots.proofs[bundle] = proof
        slots.proved.add(bundle)
        if (counted := slots.restarts.get(bundle)) is not None:
            slots.restarts[bundle] = restarts.come_up(counted)
            if slots.serves(bundle) and restarts.is_given_up(counted, self._settings.restarts):
                self._on_event(CameBack(slots.alias, bundle))
        for deployment in slots.loads.pop(bundle, []):
            self._tell_loaded(slots, deployment, bundle, slots.policy)
        if slots.wants(bundle):
            self._fulfil(slots)
        self._requests.pump(slots)

    def failed_to_load(self, runner: Runner, reason: Reason, detail: str) -> None:
        slots = self._slots[runner.alias]
        if self._forget(slots, runner):
            self._tell_failure(slots, runner.place, reason, detail)

    def died(self, runner: Runner, detail: str) -> None:
        slots, bundle = self._slots[runner.alias], runner.place.digest
        if not self._forget(slots, runner) or not slots.is_in_use(bundle):
            return
        self._on_event(WorkerDied(slots.alias, bundle, detail))
        now_s, bounds = self._clock.time(), self._settings.restarts
        counted = restarts.die(
            slots.restarts.get(bundle, Restarts()),
            bounds,
            now_s=now_s,
            lived_s=now_s - runner.ready_at_s,
        )
        if restarts.is_looping(counted, bounds):
            often = f"it died {len(counted.deaths)} times within {bounds.within_s:g} s: {detail}"
            loop = Reason.CRASH_LOOP
            self._on_event(Unservable(slots.alias, bundle, loop, often, is_tried_again=True))
            counted = restarts.count_anew(counted)
        self._restart_later(slots, runner.place, counted)

    def left_unanswered(self, runner: Runner, question: Question | Comparison) -> None:
        bundle = runner.place.digest
        detail = nothing_serves(question.alias)
        question.done(Unanswered(Fault.WORKER_DIED, detail, bundle))

    def has_room(self, runner: Runner) -> None:
        self._requests.pump(self._slots[runner.alias])

    def saw(self, runner: Runner, inputs: tuple[Seen, ...], outputs: tuple[Seen, ...]) -> None:
        self._recorder.saw(runner.alias, runner.place.digest, inputs, outputs)

    def ended(self, runner: Runner) -> None:
        slots = self._slots[runner.alias]
        slots.leaving.discard(runner)
        is_free = not slots.leaving and not self._requests.is_closing
        if slots.next_up and is_free:
            place, slots.next_up = slots.next_up, None
            self._start(slots, place)

    def _forget(self, slots: Slots, runner: Runner) -> bool:
        """Take a runner that ended off its alias; say whether it stood there."""
        bundle = runner.place.digest
        if slots.runners.get(bundle) is not runner:
            return False
        del slots.runners[bundle]
        slots.proofs.pop(bundle, None)
        slots.leaving.add(runner)
        return True

    # Telling, and starting again

    def _tell_loaded(
        self, slots: Slots, deployment: DeploymentId, bundle: Digest, policy: SwapPolicy
    ) -> None:
        proof = slots.proofs[bundle]
        self._on_event(Loaded(slots.alias, deployment, bundle, proof=proof, policy=policy))

    def _tell_failure(self, slots: Slots, place: BundlePlace, reason: Reason, detail: str) -> None:
        bundle = place.digest
        self._tell_load_failed(slots, bundle, reason, detail)
        if slots.swapping == bundle:
            slots.swapping = None
        may_pass = slots.awaits(bundle) and reason in restarts.MAY_PASS
        if slots.is_in_use(bundle) or may_pass:
            self._count_failure(slots, place, reason, detail)
        elif slots.wants(bundle):
            slots.wish = Wish(slots.serving) if slots.serving else None
            self._on_event(Unservable(slots.alias, bundle, reason, detail))
        self._bring_back(slots)
        self._requests.pump(slots)

    def _tell_load_failed(self, slots: Slots, bundle: Digest, reason: Reason, detail: str) -> None:
        for deployment in slots.loads.pop(bundle, []):
            self._on_event(LoadFailed(slots.alias, deployment, bundle, reason, detail))

    def _count_failure(self, slots: Slots, place: BundlePlace, reason: Reason, detail: str) -> None:
        bounds = self._settings.restarts
        counted = restarts.fail(slots.restarts.get(place.digest, Restarts()))
        if restarts.has_just_failed_too_often(counted, bounds):
            told = Unservable(slots.alias, place.digest, reason, detail, is_tried_again=True)
            self._on_event(told)
        self._restart_later(slots, place, counted)

    def _restart_later(self, slots: Slots, place: BundlePlace, counted: Restarts) -> None:
        counted, pause_s = restarts.pause(counted, self._settings.restarts)
        slots.restarts[place.digest] = counted
        slots.pauses[place.digest] = pause_s
        self._clock.call_at(self._clock.time() + pause_s, partial(self._restart, slots, place))

    def _restart(self, slots: Slots, place: BundlePlace) -> None:
        slots.pauses.pop(place.digest, None)
        if slots.swapping or self._requests.is_closing:
            return
        is_owed = slots.is_in_use(place.digest) or slots.awaits(place.digest)
        if is_owed and place.digest not in slots.runners:
            self._recorder.restarted(slots.alias, place.digest)
            self._bring_up(slots, place)
