"""The way of requests: from the queue of their alias to a runner with room, and back.

A request is handed on when its runner owes fewer than `DEPTH` answers; until then it can still be
merged with others, go to another runner, or expire, in which case it is never computed. When a
runner ends over a request, it is asked once more, alone, by whoever answers then. Merged
requests that get no answer are asked again one by one: one bad request does not spoil the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial

from wherry.names import AliasName, Digest
from wherry_agent.asking import DEPTH, Answer, BundlePlace, Question, Runner, Unanswered
from wherry_agent.core.sharing import are_alike, falls_to
from wherry_agent.engine import batches
from wherry_agent.engine.clock import Clock
from wherry_agent.engine.settings import EngineSettings
from wherry_agent.engine.shadows import Shadows
from wherry_agent.engine.slots import Slots
from wherry_agent.engine.waiting import Asking, Lane, Waiting
from wherry_agent.frames import Fault

# Of a timer that fires at its time.
CLOCK_SLACK_S = 1e-6


class Requests:
    """What was asked and not yet answered, of every alias; on the engine's loop."""

    def __init__(
        self,
        clock: Clock,
        slots: dict[AliasName, Slots],
        shadows: Shadows,
        settings: EngineSettings,
    ) -> None:
        self._clock, self._slots, self._shadows = clock, slots, shadows
        self._settings = settings
        self._waits_for_company = settings.batch_rows > 1 and settings.batch_wait_s > 0
        self._number = 0
        self.unanswered = 0
        self.is_closing = False

    def ask(self, asking: Asking) -> None:
        slots = self._slots.get(asking.alias)
        place = _find_place(slots, asking.bundle) if slots else None
        if slots is None or place is None or self.is_closing:
            bundle = slots.serving.digest if slots and slots.serving else None
            asking.done(_unserved(asking.alias, asking.bundle or bundle))
            return
        entry = self._enter(asking, place)
        entry.lane = _lane_of(slots, entry)
        waiting = len(slots.queue)
        if waiting >= self._settings.queue_requests:
            detail = f"{waiting} requests wait already; send fewer at a time"
            self._tell(entry, Unanswered(Fault.OVERLOADED, detail, place.digest))
            return
        if not waiting and not self._waits_for_company:
            runner = _route(slots, entry)
            if runner is not None and runner.in_flight < DEPTH:
                self._hand_on(slots, runner, [entry])
                return
        slots.queue.append(entry)
        self._watch(slots)
        self.pump(slots)

    def pump(self, slots: Slots) -> None:
        """Hand on what waits, the oldest first whose runner has room."""
        gone: list[Waiting] = []
        while any(self._pump_one(slots, lane, gone) for lane in slots.queue.by_age()):
            pass
        for entry in gone:  # Told last, since who is told may ask at once.
            self._tell(entry, self._why_gone(slots, entry))

    def change_lanes(self, slots: Slots) -> None:
        """Have what waits wait for those who answer now."""
        for entry in slots.queue.take_all():
            entry.lane = _lane_of(slots, entry)
            slots.queue.append(entry)
        self.pump(slots)

    # From the queue to a runner

    def _enter(self, asking: Asking, place: BundlePlace) -> Waiting:
        self._number += 1
        self.unanswered += 1
        now_s = self._clock.time()
        deadline_s = now_s + self._settings.request_timeout_s
        return Waiting(asking, self._number, now_s, deadline_s, place.manifest.signature)

    def _pump_one(self, slots: Slots, lane: deque[Waiting], gone: list[Waiting]) -> bool:
        """Move the first request of a lane on; say whether that could be done."""
        first = lane[0]
        runner = _route(slots, first)
        if self._is_late(first) or (runner is None and not _may_wait(slots, first)):
            gone.append(lane.popleft())
            return True
        if runner is None or runner.in_flight >= DEPTH:
            return False
        entries = self._gather(slots, runner, lane)
        if not entries:
            return False
        self._hand_on(slots, runner, entries)
        return True

    def _gather(self, slots: Slots, runner: Runner, lane: deque[Waiting]) -> list[Waiting]:
        """Take what is computed together off the lane; nothing while others are waited for."""
        limit = min(self._settings.batch_rows, runner.place.manifest.signature.max_batch)
        count, rows = 1, lane[0].rows
        while count < len(lane) and rows < limit:
            entry = lane[count]
            if rows + entry.rows > limit or not _are_mergeable(lane[0], entry):
                break
            if _route(slots, entry) is not runner:
                break
            count, rows = count + 1, rows + entry.rows
        if self._waits_for_others(lane, count, rows, limit):
            return []
        return [lane.popleft() for _ in range(count)]

    def _waits_for_others(self, lane: deque[Waiting], count: int, rows: int, limit: int) -> bool:
        if rows >= limit or count < len(lane):
            return False
        begins_s = lane[0].came_s + self._settings.batch_wait_s
        return self._clock.time() < begins_s - CLOCK_SLACK_S

    def _hand_on(self, slots: Slots, runner: Runner, entries: list[Waiting]) -> None:
        asking = entries[0].asking
        tensors = asking.tensors
        if len(entries) > 1:
            tensors = batches.merge([entry.asking.tensors for entry in entries])
        timeout_s = entries[0].deadline_s - self._clock.time()
        done = partial(self._settle, slots, runner.place, entries)
        runner.ask(Question(slots.alias, tensors, done, asking.berth), timeout_s)

    # From a runner back

    def _settle(
        self,
        slots: Slots,
        place: BundlePlace,
        entries: list[Waiting],
        outcome: Answer | Unanswered,
    ) -> None:
        if isinstance(outcome, Unanswered):
            self._settle_unanswered(slots, entries, outcome)
        elif len(entries) == 1:
            self._give(slots, entries[0], outcome)
        else:
            self._give_each(slots, entries, outcome)

    def _settle_unanswered(self, slots: Slots, entries: list[Waiting], outcome: Unanswered) -> None:
        ended = outcome.fault is Fault.WORKER_DIED
        spoilt = len(entries) > 1 and outcome.fault in (Fault.NOT_FINITE, Fault.RUNTIME_FAILED)
        for entry in entries:
            if (ended and not entry.retried) or spoilt:
                entry.retried = entry.retried or ended
                self._ask_again(slots, entry)
            else:
                self._tell(entry, outcome)
        self.pump(slots)

    def _ask_again(self, slots: Slots, entry: Waiting) -> None:
        entry.alone = True
        entry.lane = _lane_of(slots, entry)
        slots.queue.put_back(entry)
        self._watch(slots)

    def _give(self, slots: Slots, entry: Waiting, answer: Answer) -> None:
        copy = self._shadows.sample(slots, entry, answer) if slots.shadowing else None
        self._tell(entry, answer)
        if copy is not None:
            self._shadows.hand_on(slots, copy)

    def _give_each(self, slots: Slots, entries: Sequence[Waiting], answer: Answer) -> None:
        answers = batches.split(answer, [entry.rows for entry in entries])
        if answers is None:
            for entry in entries:
                self._ask_again(slots, entry)
            self.pump(slots)
            return
        for entry, part in zip(entries, answers, strict=True):
            self._give(slots, entry, part)

    def _tell(self, entry: Waiting, outcome: Answer | Unanswered) -> None:
        self.unanswered -= 1
        entry.asking.done(outcome)

    # Time

    def _watch(self, slots: Slots) -> None:
        """See to it that what waits expires, and is not kept waiting for others for too long."""
        deadline_s = slots.queue.next_deadline_s()
        if not slots.is_watched and deadline_s is not None:
            slots.is_watched = True
            self._clock.call_at(deadline_s, partial(self._expire, slots))
        if self._waits_for_company:
            begins_s = self._clock.time() + self._settings.batch_wait_s
            self._clock.call_at(begins_s, partial(self.pump, slots))

    def _expire(self, slots: Slots) -> None:
        slots.is_watched = False
        for entry in tuple(slots.queue.take_expired(self._clock.time() + CLOCK_SLACK_S)):
            self._tell(entry, self._why_gone(slots, entry))
        if len(slots.queue):
            self._watch(slots)

    def _is_late(self, entry: Waiting) -> bool:
        return entry.deadline_s <= self._clock.time() + CLOCK_SLACK_S

    def _why_gone(self, slots: Slots, entry: Waiting) -> Unanswered:
        bundle = entry.asking.bundle or (slots.serving.digest if slots.serving else None)
        if not self._is_late(entry):
            return _unserved(slots.alias, bundle)
        waited = f"it waited for {self._settings.request_timeout_s:g} s and was not computed"
        advice = "send fewer at a time" if slots.answering else "what answers is being loaded"
        detail = f"{waited}; {advice}"
        return Unanswered(Fault.TIMED_OUT, detail, bundle)


def nothing_serves(alias: AliasName) -> str:
    """Return what is said to whoever asks while no runner can answer."""
    return f"nothing serves under {alias!r} now; try again in a second"


def _unserved(alias: AliasName, bundle: Digest | None) -> Unanswered:
    return Unanswered(Fault.WORKER_DIED, nothing_serves(alias), bundle)


def _find_place(slots: Slots, bundle: Digest | None) -> BundlePlace | None:
    """Return the bundle that a request is asked of: the one it names, or the full one."""
    places = slots.places()
    if bundle is None:
        return next(places, None)
    return next((place for place in places if place.digest == bundle), None)


def _lane_of(slots: Slots, entry: Waiting) -> Lane:
    if entry.asking.bundle is not None:
        return entry.asking.bundle
    return slots.sharing.place.digest if slots.sharing and _is_shared(slots, entry) else None


def _is_shared(slots: Slots, entry: Waiting) -> bool:
    sharing = slots.sharing
    if sharing is None:
        return False
    key = entry.asking.key or str(entry.number)
    return falls_to(sharing.place.digest, key, sharing.share)


def _route(slots: Slots, entry: Waiting) -> Runner | None:
    """Return the runner that is to answer; None where there is none now."""
    if entry.asking.bundle is not None:
        return slots.ready(entry.asking.bundle)
    runner = slots.answering
    if entry.lane is not None:
        shared = slots.ready(entry.lane)
        runner = shared if shared and _can_answer(shared, entry) else runner
    return runner if runner and _can_answer(runner, entry) else None


def _may_wait(slots: Slots, entry: Waiting) -> bool:
    """Say whether a request that nobody can answer now waits for what serves to come up."""
    named = entry.asking.bundle
    expected = slots.expected if slots.is_awaited else None
    return expected is not None and named in (None, expected.digest)


def _can_answer(runner: Runner, entry: Waiting) -> bool:
    signature = runner.place.manifest.signature
    return are_alike(entry.signature, signature) and entry.rows <= signature.max_batch


def _are_mergeable(one: Waiting, other: Waiting) -> bool:
    if one.alone or other.alone:
        return False
    return batches.fit_together(one.asking.tensors, other.asking.tensors)
