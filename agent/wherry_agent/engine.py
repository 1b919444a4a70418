"""The engine: which bundle answers under each alias, in workers that come up, flip and drain.

It lives on a loop in a thread of its own, which the local API shares. The deciding thread calls
`load`, `serve` and `retire`; they return at once, may be repeated, and what came of them comes
back through `on_event`, which is called on the engine's thread and must only put on a queue.

A request goes to the worker that serves when it is dispatched, and its answer carries that
worker's digest, so a flip drops nothing: the old worker answers what it was asked, then waits,
resident, until `retire`. A serving worker that dies is started again with growing pauses;
until it is back the bundle that served before answers, if it is still resident, and what was
in flight is asked once more there. The engine knows no runtime.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from wherry.names import AliasName, DeploymentId, Digest
from wherry.reasons import Reason
from wherry_agent.frames import Fault, Tensor
from wherry_agent.link import Answer, BundlePlace, Link, LinkState, Question, Unanswered

__all__ = [
    "Answer",
    "BundlePlace",
    "Engine",
    "EngineEvent",
    "EngineSettings",
    "Unanswered",
    "nothing_serves",
]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    load_timeout_s: float = 60.0
    drain_timeout_s: float = 10.0
    request_timeout_s: float = 10.0
    queue_limit: int = 256  # Requests that one worker may owe an answer.
    restart_pause_s: float = 0.1  # Before the first restart; doubled for each that follows.
    longest_restart_pause_s: float = 30.0
    steady_s: float = 30.0  # A worker that lived so long starts again with the shortest pause.
    restarts: int = 3  # So many that fail in a row make a bundle unservable; they go on.


# Events


@dataclass(frozen=True, slots=True)
class Loaded:
    """The bundle stands in memory, warm and checked, beside what serves."""

    alias: AliasName
    deployment: DeploymentId
    bundle: Digest


@dataclass(frozen=True, slots=True)
class LoadFailed:
    alias: AliasName
    deployment: DeploymentId
    bundle: Digest
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Flipped:
    """From now on `bundle` answers; `replaced` still owed `in_flight` answers at that instant."""

    alias: AliasName
    bundle: Digest
    replaced: Digest | None
    in_flight: int


@dataclass(frozen=True, slots=True)
class Unservable:
    """A bundle that was to serve does not come up; what served before goes on."""

    alias: AliasName
    bundle: Digest
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """The serving worker ended; the engine starts it again by itself."""

    alias: AliasName
    bundle: Digest
    detail: str


EngineEvent: TypeAlias = Loaded | LoadFailed | Flipped | Unservable | WorkerDied


@dataclass(slots=True)
class _Slots:
    """The workers of one alias."""

    links: dict[Digest, Link] = field(default_factory=dict)
    loads: dict[Digest, list[DeploymentId]] = field(default_factory=dict)
    wanted: BundlePlace | None = None  # What `serve` asked for last.
    serving: BundlePlace | None = None  # What answers.
    before: Digest | None = None  # What answered before it.
    retired: set[Digest] = field(default_factory=set)  # To be drained at the next flip.
    pauses: int = 0  # Before restarts, since the last steady time.
    failed_restarts: int = 0  # In a row.

    def ready(self, bundle: Digest | None) -> Link | None:
        link = self.links.get(bundle) if bundle else None
        return link if link and link.state is LinkState.READY else None

    @property
    def answering(self) -> Link | None:
        """Return the worker that gets the next request."""
        if self.serving is None:
            return None
        return self.ready(self.serving.digest) or self.ready(self.before)

    def serves(self, bundle: Digest) -> bool:
        return self.serving is not None and self.serving.digest == bundle

    def wants(self, bundle: Digest) -> bool:
        return self.wanted is not None and self.wanted.digest == bundle


class Engine:
    """Started once and closed once; in between its orders may come from any thread."""

    def __init__(
        self, *, on_event: Callable[[EngineEvent], None], settings: EngineSettings
    ) -> None:
        self._on_event, self._settings = on_event, settings
        self._slots: dict[AliasName, _Slots] = {}
        self._leaving: set[Link] = set()  # Draining, or ended and not yet reaped.
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="serving", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End every worker and the engine's thread."""
        self.loop.call_soon_threadsafe(self._end)
        self._thread.join()

    def load(self, alias: AliasName, deployment: DeploymentId, place: BundlePlace) -> None:
        """Start a worker beside the serving one; answers `Loaded` or `LoadFailed`."""
        self.loop.call_soon_threadsafe(self._load, alias, deployment, place)

    def serve(self, alias: AliasName, place: BundlePlace | None) -> None:
        """Answer with this bundle from now on (None: with nothing).

        Answers `Flipped` at once where it is resident, else after it was loaded, or
        `Unservable`; nothing where it serves already.
        """
        self.loop.call_soon_threadsafe(self._serve, alias, place)

    def retire(self, alias: AliasName) -> None:
        """Drain and end every worker of the alias but the serving one.

        While the bundle to serve is still being loaded, the serving one ends after the flip.
        """
        self.loop.call_soon_threadsafe(self._retire, alias)

    # For the local API, on the engine's own thread

    def serving(self, alias: AliasName) -> BundlePlace | None:
        """Return the bundle whose worker gets the next request; None where there is none."""
        slots = self._slots.get(alias)
        link = slots.answering if slots else None
        return link.place if link else None

    def aliases(self) -> list[AliasName]:
        """Return the aliases that a bundle was ever ordered for."""
        return sorted(self._slots)

    def ask(
        self,
        alias: AliasName,
        tensors: tuple[Tensor, ...],
        done: Callable[[Answer | Unanswered], None],
    ) -> None:
        """Have the serving worker compute; `done` is called once with what came of it."""
        self._dispatch(Question(alias, tensors, done))

    # Orders

    def _load(self, alias: AliasName, deployment: DeploymentId, place: BundlePlace) -> None:
        slots = self._slots.setdefault(alias, _Slots())
        slots.retired.discard(place.digest)
        if slots.ready(place.digest):
            self._on_event(Loaded(alias, deployment, place.digest))
            return
        waiting = slots.loads.setdefault(place.digest, [])
        if deployment not in waiting:
            waiting.append(deployment)
        self._bring_up(alias, place)

    def _serve(self, alias: AliasName, place: BundlePlace | None) -> None:
        slots = self._slots.setdefault(alias, _Slots())
        slots.wanted = place
        if place is None:
            slots.serving = slots.before = None
            return
        slots.retired.discard(place.digest)
        if slots.serves(place.digest):
            return
        link = slots.ready(place.digest)
        if link:
            self._flip(slots, link)
        else:
            self._bring_up(alias, place)

    def _retire(self, alias: AliasName) -> None:
        slots = self._slots.setdefault(alias, _Slots())
        for bundle in list(slots.links):
            if slots.serves(bundle) and not slots.wants(bundle):
                slots.retired.add(bundle)
            elif not slots.serves(bundle) and not slots.wants(bundle):
                self._drain(slots, bundle)

    # Workers

    def _bring_up(self, alias: AliasName, place: BundlePlace) -> None:
        slots = self._slots[alias]
        if place.digest in slots.links:
            return
        timeout_s = self._settings.request_timeout_s
        try:
            link = Link(alias, place, listener=self, request_timeout_s=timeout_s)
        except OSError as error:
            detail = f"no process could be started for it: {error}"
            self._tell_failure(alias, place, Reason.LOAD_FAILED, detail)
            return
        slots.links[place.digest] = link
        link.limit_loading(self._settings.load_timeout_s)

    def _flip(self, slots: _Slots, link: Link) -> None:
        replaced = slots.serving.digest if slots.serving else None
        slots.failed_restarts = 0
        old = slots.links.get(replaced) if replaced else None
        slots.before, slots.serving, slots.pauses = replaced, link.place, 0
        in_flight = old.in_flight if old else 0
        self._on_event(Flipped(link.alias, link.bundle, replaced, in_flight))
        for bundle in slots.retired:
            self._drain(slots, bundle)
        slots.retired.clear()

    def _drain(self, slots: _Slots, bundle: Digest) -> None:
        link = slots.links.pop(bundle, None)
        slots.loads.pop(bundle, None)
        if slots.before == bundle:
            slots.before = None  # Should it be loaded again, it is a candidate.
        if link:
            self._leaving.add(link)
            link.drain(self._settings.drain_timeout_s)

    # LinkListener

    def became_ready(self, link: Link) -> None:
        slots = self._slots[link.alias]
        if slots.serves(link.bundle):
            slots.failed_restarts = 0
        for deployment in slots.loads.pop(link.bundle, []):
            self._on_event(Loaded(link.alias, deployment, link.bundle))
        if slots.wants(link.bundle) and not slots.serves(link.bundle):
            self._flip(slots, link)

    def failed_to_load(self, link: Link, reason: Reason, detail: str) -> None:
        if self._forget(link):
            self._tell_failure(link.alias, link.place, reason, detail)

    def died(self, link: Link, detail: str) -> None:
        slots = self._slots[link.alias]
        if not self._forget(link) or not slots.serves(link.bundle):
            return
        self._on_event(WorkerDied(link.alias, link.bundle, detail))
        if self.loop.time() - link.ready_at_s >= self._settings.steady_s:
            slots.pauses = 0
        self._restart_later(slots, link.alias, link.place)

    def left_unanswered(self, link: Link, question: Question) -> None:
        now = self.serving(question.alias)
        if question.retried or not now or now.manifest.signature != link.place.manifest.signature:
            question.done(_unserved(question.alias, link.bundle))
        else:
            self._dispatch(replace(question, retried=True))

    def ended(self, link: Link) -> None:
        self._leaving.discard(link)

    def _forget(self, link: Link) -> bool:
        """Take a worker that ended off its alias; say whether it stood there."""
        slots = self._slots[link.alias]
        if slots.links.get(link.bundle) is not link:
            return False
        del slots.links[link.bundle]
        self._leaving.add(link)
        return True

    def _tell_failure(
        self, alias: AliasName, place: BundlePlace, reason: Reason, detail: str
    ) -> None:
        slots = self._slots[alias]
        for deployment in slots.loads.pop(place.digest, []):
            self._on_event(LoadFailed(alias, deployment, place.digest, reason, detail))
        if slots.serves(place.digest):
            slots.failed_restarts += 1
            if slots.failed_restarts == self._settings.restarts:
                self._on_event(Unservable(alias, place.digest, reason, detail))
            self._restart_later(slots, alias, place)
        elif slots.wants(place.digest):
            slots.wanted = slots.serving
            self._on_event(Unservable(alias, place.digest, reason, detail))

    def _restart_later(self, slots: _Slots, alias: AliasName, place: BundlePlace) -> None:
        pause_s = self._settings.restart_pause_s * 2 ** min(slots.pauses, 30)
        slots.pauses += 1
        pause_s = min(pause_s, self._settings.longest_restart_pause_s)
        self.loop.call_later(pause_s, self._restart, alias, place)

    def _restart(self, alias: AliasName, place: BundlePlace) -> None:
        if self._slots[alias].serves(place.digest):
            self._bring_up(alias, place)

    # Requests

    def _dispatch(self, question: Question) -> None:
        slots = self._slots.get(question.alias)
        link = slots.answering if slots else None
        if link is None:
            serving = slots.serving.digest if slots and slots.serving else None
            question.done(_unserved(question.alias, serving))
        elif link.in_flight >= self._settings.queue_limit:
            detail = f"{link.in_flight} requests wait already; send fewer at a time"
            question.done(Unanswered(Fault.OVERLOADED, detail, link.bundle))
        else:
            link.ask(question)

    # The thread

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    def _end(self) -> None:
        links = [link for slots in self._slots.values() for link in slots.links.values()]
        self._slots.clear()
        for link in (*links, *self._leaving):
            link.kill()
        self.loop.call_soon(self.loop.stop)


def nothing_serves(alias: AliasName) -> str:
    """Return what is said to whoever asks while no worker can answer."""
    return f"nothing serves under {alias!r} now; try again in a second"


def _unserved(alias: AliasName, bundle: Digest | None) -> Unanswered:
    return Unanswered(Fault.WORKER_DIED, nothing_serves(alias), bundle)
