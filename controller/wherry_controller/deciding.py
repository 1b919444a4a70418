"""The deciding thread: it takes what waits in batches, and does again and again what is due.

    paho's thread --Arrived, Connected--> inbox --> deciding thread --> store, publisher
    HTTP threads  --decide(work)-------->

Messages of devices are taken in batches, one transaction for all that waits.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, TypeVar

from wherry.errors import REFUSALS, Unavailable
from wherry.systemd import Notifier
from wherry.topics import BundleTopic, DesiredTopic, MetadataTopic, TimestampTopic
from wherry_controller.core.rights import ANSWERS
from wherry_controller.mqtt import (
    Arrived,
    Connected,
    Delivered,
    Disconnected,
    Inbound,
    Subscribed,
)
from wherry_controller.services.acks import Acks
from wherry_controller.services.fleet import Fleet
from wherry_controller.services.identity import Identities
from wherry_controller.services.ingest import Drop, Ingest, Message
from wherry_controller.services.mosquitto import Upkeep
from wherry_controller.services.publisher import Publisher
from wherry_controller.services.rights import MosquittoRights
from wherry_controller.services.rollouts import Rollouts
from wherry_controller.services.trust import Trust
from wherry_controller.settings import Settings
from wherry_controller.store.database import Store

log = logging.getLogger(__name__)

T = TypeVar("T")

LONGEST_INBOX = 20_000
LARGEST_BATCH = 1000
TURN_S = 0.1
REVOKED_S = 600.0
RENEW_S = 60.0


class Closing(Unavailable):
    """The controller stopped before it came to a piece of work."""

    def __str__(self) -> str:
        return "the controller is stopping: ask again when it is back."


@dataclass(frozen=True, slots=True)
class Desk:
    """What only the deciding thread touches."""

    fleet: Fleet
    rollouts: Rollouts
    ingest: Ingest
    publisher: Publisher
    acks: Acks
    guard: MosquittoRights | None
    upkeep: Upkeep | None
    identities: Identities
    trust: Trust


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of work for the deciding thread: it hands its outcome over by itself."""

    perform: Callable[[Desk], None]


@dataclass(frozen=True, slots=True)
class Stop:
    """Nothing comes after this."""


Queued: TypeAlias = Inbound | Work | Stop
Inbox: TypeAlias = queue.Queue[Queued]


@dataclass(slots=True)
class Due:
    """A thing to do again and again, `every_s` apart."""

    every_s: float
    last: float = 0.0

    def is_now(self, now: float) -> bool:
        if now - self.last < self.every_s:
            return False
        self.last = now
        return True


class Decider:
    """The thread that decides; `start` and `stop` once each."""

    def __init__(
        self,
        inbox: Inbox,
        desk: Desk,
        store: Store,
        settings: Settings,
        *,
        clock: Callable[[], float],
        notifier: Notifier,
    ) -> None:
        self._inbox = inbox
        self._notifier = notifier
        self._desk = desk
        self._store = store
        self._clock = clock
        self._deadline_s = settings.fleet.online_deadline_s
        self._thread = threading.Thread(target=self._decide_on, name="decide", daemon=True)
        self._is_closing = threading.Event()
        self._judge = Due(settings.gates.judge_s)
        self._look_for_silent = Due(self._deadline_s / 4)
        self._look_at_revoked = Due(REVOKED_S)
        self._renew = Due(RENEW_S, last=clock())

    def start(self) -> None:
        """Take up what an earlier process left, and go on."""
        self._thread.start()

    def stop(self) -> None:
        """Take what waits, and end; work that comes later is refused with `Closing`."""
        if self._thread.is_alive():
            self._is_closing.set()
            self._inbox.put(Stop())
            self._thread.join()

    def decide(self, work: Callable[[Desk], T], /) -> T:
        """Have the deciding thread do `work`; return or raise what came of it, or `Closing`."""
        outcome: Future[T] = Future()
        self._inbox.put(Work(partial(_perform, work, outcome)))
        if self._is_closing.is_set() and outcome.cancel():
            raise Closing
        try:
            return outcome.result()
        except CancelledError as error:
            raise Closing from error

    def _decide_on(self) -> None:
        """Decide until `Stop`: the outermost loop of the deciding thread."""
        self._guarded(lambda: self._sign_anew(self._clock()))
        self._guarded(lambda: self._desk.rollouts.resume_all(self._clock()))
        self._guarded(lambda: self._desk.fleet.publish(self._clock()))
        is_over = False
        while not is_over:
            batch = self._next_batch()
            self._notifier.live()
            is_over = any(isinstance(one, Stop) for one in batch)
            self._guarded(partial(self._handle, batch))
            self._guarded(self._tick)

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception:
            log.exception("turn.broke")

    def _next_batch(self) -> list[Queued]:
        """Wait a turn for the first event, and take all that wait with it."""
        batch: list[Queued] = []
        with contextlib.suppress(queue.Empty):
            batch.append(self._inbox.get(timeout=TURN_S))
            while len(batch) < LARGEST_BATCH:
                batch.append(self._inbox.get_nowait())
        return batch

    def _handle(self, batch: list[Queued]) -> None:
        desk, now = self._desk, self._clock()
        said: list[Message] = []
        for event in batch:
            match event:
                case Arrived(topic, payload) if topic == ANSWERS:
                    if desk.guard is not None:
                        desk.guard.on_answer(payload)
                case Arrived():
                    said += self._read(event, now)
                case Delivered():
                    desk.publisher.on_delivered(now)
                case Subscribed(request):
                    desk.publisher.on_subscribed(request, now)
                case Connected():
                    log.info("broker.connected")
                    if desk.guard is not None:
                        desk.guard.on_connected()
                    desk.publisher.on_connected(now)
                case Disconnected(reason):
                    log.warning("broker.disconnected", extra={"reason": reason})
                    desk.publisher.on_disconnected()
                case Work(perform):
                    self._take(said, now)
                    said = []
                    perform(desk)
                case Stop():
                    pass
        self._take(said, now)

    def _read(self, arrived: Arrived, now: float) -> Iterator[Message]:
        read = self._desk.ingest.read(arrived.topic, arrived.payload, retained=arrived.retained)
        match read:
            case Message():
                yield read
            case DesiredTopic() | BundleTopic() | TimestampTopic() | MetadataTopic():
                self._desk.publisher.on_read_back(read, arrived.payload, now)
            case None:
                pass

    def _take(self, said: list[Message], now: float) -> None:
        """Take messages into the database, then do what follows from them."""
        if not said:
            return
        desk = self._desk
        taken = desk.ingest.take(said, now)
        desk.acks.note(taken.acks)
        if taken.has_outrun:
            desk.fleet.publish(now)
        for device, digests in taken.wants:
            refused = desk.publisher.say_again(device, digests, now)
            if refused:
                desk.ingest.drop(Drop.WANTS_REFUSED, device, f"{refused} digests")
        desk.rollouts.follow(taken.moved, now)

    def _tick(self) -> None:
        desk, now = self._desk, self._clock()
        desk.publisher.tick(now)
        desk.acks.tick(now)
        if self._judge.is_now(now):
            desk.rollouts.tick(now)
        if self._look_for_silent.is_now(now):
            desk.fleet.note_silent(now - self._deadline_s)
        if self._look_at_revoked.is_now(now):
            desk.identities.tick(now)
            if desk.upkeep is not None:
                desk.upkeep.tick(now)
        if self._renew.is_now(now):
            self._sign_anew(now)
            desk.fleet.publish(now)

    def _sign_anew(self, now: float) -> None:
        """Sign what is at half of its life, however long nobody looked at it."""
        with self._store.transaction() as tx:
            self._desk.trust.resign(tx, now)


def _perform(work: Callable[[Desk], T], outcome: Future[T], desk: Desk) -> None:
    if not outcome.set_running_or_notify_cancel():
        return
    try:
        result = work(desk)
    except REFUSALS as error:
        outcome.set_exception(error)
    except Exception as error:
        log.exception("work.broke")
        outcome.set_exception(error)
    else:
        outcome.set_result(result)
