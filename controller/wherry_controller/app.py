"""The controller, wired by hand: one thread decides, the others put events on its queue.

    paho's thread --Arrived, Connected--> queue --> deciding thread --> store, publisher
    HTTP threads  --decide(work)-------->

Messages of devices are taken in batches, one transaction for all that waits. Importing this
loads no torch: builds are child processes.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

from wherry.errors import REFUSALS, Unavailable
from wherry.files import make_folder
from wherry.names import DeviceId
from wherry.topics import (
    BundleTopic,
    DesiredTopic,
    EventsTopic,
    MetadataTopic,
    PresenceTopic,
    ReportedTopic,
    TelemetryTopic,
    TimestampTopic,
    WantsTopic,
    filter_of,
)
from wherry_controller.authority import CA, Authority, found_authority
from wherry_controller.broker import EmbeddedBroker, start_broker
from wherry_controller.core.rights import ANSWERS
from wherry_controller.foundation import Keys, read_keys
from wherry_controller.mqtt import (
    Arrived,
    Connected,
    Delivered,
    Disconnected,
    Inbound,
    Link,
    Subscribed,
    Traffic,
    context_of,
)
from wherry_controller.services.acks import Acks
from wherry_controller.services.admission import Policy
from wherry_controller.services.adoption import open_trust
from wherry_controller.services.bench import Bench
from wherry_controller.services.builds import Builds
from wherry_controller.services.child import ChildBuilder
from wherry_controller.services.crl import Revocations
from wherry_controller.services.delivery import Advisor
from wherry_controller.services.delta_maker import ChildMaker
from wherry_controller.services.deltas import Deltas
from wherry_controller.services.fleet import Fleet
from wherry_controller.services.identity import Identities, OpenBroker, Places
from wherry_controller.services.ingest import Drop, Ingest, Message
from wherry_controller.services.mosquitto import OWN_CERTIFICATE, OWN_KEY, Upkeep
from wherry_controller.services.orders import Orders
from wherry_controller.services.publisher import Pace, Publisher
from wherry_controller.services.rights import MosquittoRights
from wherry_controller.services.rollouts import Rollouts
from wherry_controller.services.shipped import declare_shipped
from wherry_controller.services.trials import Trials
from wherry_controller.services.trust import Trust
from wherry_controller.settings import EMBEDDED, Settings
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.database import Store, open_store
from wherry_controller.store.identities import list_enrolled
from wherry_controller.store.trust import newest_root

log = logging.getLogger(__name__)

T = TypeVar("T")

HEARD = (ReportedTopic, EventsTopic, TelemetryTopic, PresenceTopic, WantsTopic)
LONGEST_QUEUE = 20_000
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


class Controller:
    """A controller on its folder; `start` and `close` once each."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        keys: Keys,
        trust: Trust,
        *,
        clock: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.store = store
        self.keys = keys
        self.trust = trust
        self.clock = clock
        self.blobs = BlobFolder(settings.blob_folder, limit_bytes=settings.largest_blob_bytes)
        folder = make_folder(settings.authority_folder, mode=0o700)
        self.authority = found_authority(folder, clock())
        self.revocations = Revocations(store, self.authority, folder)
        self._upkeep = _upkeep(settings, self.authority)
        if self._upkeep is not None:
            self.revocations.tell(self._upkeep.hear)
        self._queue: queue.Queue[Queued] = queue.Queue(LONGEST_QUEUE)
        self._link = _link(settings, self._queue.put)
        self._making = ThreadPoolExecutor(1, thread_name_prefix="delta")
        self._deltas = self._open_deltas() if settings.delivery.deltas else None
        self._desk = _desk(
            settings,
            store,
            self.blobs,
            trust,
            self._link,
            self.authority,
            self.revocations,
            self._deltas,
        )
        self.builds = Builds(
            store,
            self.blobs,
            keys.bundles,
            vouch=trust.add_bundle,
            vouches_at_once=trust.vouches_at_once,
            builder=ChildBuilder(),
            executor=ThreadPoolExecutor(settings.build.at_once, thread_name_prefix="build"),
            bench=_bench(settings),
            trials=Trials(
                store,
                lambda work: self.decide(lambda desk: work(desk.fleet)),
                budget_bytes=settings.broker.budget_bytes,
                silence_s=settings.build.measure_silence_s,
                clock=clock,
            ),
            clock=clock,
            limits=settings.build.limits,
        )
        self._broker: EmbeddedBroker | None = None
        self._thread = threading.Thread(target=self._decide_on, name="decide", daemon=True)
        self._is_closing = threading.Event()
        self._judge = Due(settings.gates.judge_s)
        self._look_for_silent = Due(settings.fleet.online_deadline_s / 4)
        self._look_at_revoked = Due(REVOKED_S)
        self._renew = Due(RENEW_S, last=clock())

    def start(self) -> None:
        """Take up what an earlier process left, and begin; raises what `start_broker` raises."""
        if self.settings.broker.url == EMBEDDED:
            log_folder = self.settings.log_folder
            self._broker = start_broker(log_folder, self.settings.broker.embedded_port)
        self.builds.start()
        self._thread.start()
        self._link.start()

    def close(self) -> None:
        """End every thread and child; work that comes too late is refused with `Closing`."""
        self.builds.stop()
        if self._deltas is not None:
            self._deltas.stop()
        self._making.shutdown(cancel_futures=True)
        self._link.close()
        if self._thread.is_alive():
            self._is_closing.set()
            self._queue.put(Stop())
            self._thread.join()
        if self._broker is not None:
            self._broker.stop()
        self.store.close()

    def _open_deltas(self) -> Deltas:
        """Have deltas made beside the deciding thread, and offered once they are there."""

        def publish(desk: Desk) -> None:
            desk.fleet.publish(self.clock())

        return Deltas(
            self.store,
            self.blobs,
            self._making,
            maker=ChildMaker(),
            clock=self.clock,
            on_made=lambda: self._queue.put(Work(publish)),
        )

    def decide(self, work: Callable[[Desk], T], /) -> T:
        """Have the deciding thread do `work`; return or raise what came of it, or `Closing`."""
        outcome: Future[T] = Future()
        self._queue.put(Work(partial(_perform, work, outcome)))
        if self._is_closing.is_set() and outcome.cancel():
            raise Closing
        try:
            return outcome.result()
        except CancelledError as error:
            raise Closing from error

    def traffic(self) -> Traffic:
        """Return the bytes at the controller's sockets to the broker since it started."""
        return self._link.traffic()

    def _decide_on(self) -> None:
        """Decide until `Stop`: the outermost loop of the deciding thread."""
        self._guarded(lambda: self._sign_anew(self.clock()))
        self._guarded(lambda: self._desk.rollouts.resume_all(self.clock()))
        self._guarded(lambda: self._desk.fleet.publish(self.clock()))
        is_over = False
        while not is_over:
            batch = self._next_batch()
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
            batch.append(self._queue.get(timeout=TURN_S))
            while len(batch) < LARGEST_BATCH:
                batch.append(self._queue.get_nowait())
        return batch

    def _handle(self, batch: list[Queued]) -> None:
        desk, now = self._desk, self.clock()
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
        desk, now = self._desk, self.clock()
        desk.publisher.tick(now)
        desk.acks.tick(now)
        if self._judge.is_now(now):
            desk.rollouts.tick(now)
        if self._look_for_silent.is_now(now):
            desk.fleet.note_silent(now - self.settings.fleet.online_deadline_s)
        if self._look_at_revoked.is_now(now):
            desk.identities.tick(now)
            if self._upkeep is not None:
                self._upkeep.tick(now)
        if self._renew.is_now(now):
            self._sign_anew(now)
            desk.fleet.publish(now)

    def _sign_anew(self, now: float) -> None:
        """Sign what is at half of its life, however long nobody looked at it."""
        with self.store.transaction() as tx:
            self._desk.trust.resign(tx, now)


def open_controller(settings: Settings, *, clock: Callable[[], float] = time.time) -> Controller:
    """Open the controller's database, keys and folders; nothing runs before `start`.

    Raises `NoKeys`, `BadKey`, `NoDatabase`, `NewerDatabase`, `BadSetting`, and what `open_trust`
    raises for a root that cannot be served.
    """
    keys = read_keys(settings)
    store = open_store(settings.database_url)
    declare_shipped(store)
    return Controller(settings, store, keys, open_trust(settings, store, clock()), clock=clock)


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


def _bench(settings: Settings) -> Bench:
    folder = Path(settings.folder)
    return Bench(
        builds=folder / "builds",
        cache=folder / "cache",
        runtimes=folder / "runtimes",
        previous=folder / "previous",
        logs=settings.log_folder / "builds",
        cache_bytes=settings.build.cache_bytes,
    )


def _link(settings: Settings, inbox: Callable[[Inbound], None]) -> Link:
    own, heard = settings.authority_folder, tuple(filter_of(kind) for kind in HEARD)
    files = own / CA, own / OWN_CERTIFICATE, own / OWN_KEY
    is_guarded = settings.has_guarded_broker
    return Link(
        settings.broker_address,
        inbox,
        client_id=settings.broker.client_id,
        subscriptions=(*heard, ANSWERS) if is_guarded else heard,
        inflight=settings.broker.inflight,
        keepalive_s=settings.broker.keepalive_s,
        longest_backoff_s=settings.broker.longest_backoff_s,
        secured=partial(context_of, *files) if is_guarded else None,
    )


def _guard(settings: Settings, store: Store, link: Link) -> MosquittoRights | None:
    """Return what keeps the rights of devices on a broker that has any."""

    def enrolled() -> Collection[DeviceId]:
        with store.reading() as tx:
            return list_enrolled(tx)

    return MosquittoRights(link, enrolled) if settings.has_guarded_broker else None


def _upkeep(settings: Settings, authority: Authority) -> Upkeep | None:
    """Return what keeps certificates fresh that a broker shows and refuses."""
    if not settings.has_guarded_broker:
        return None
    own, how = settings.authority_folder, settings.broker.reload
    return Upkeep(settings.broker_folder, own, authority, how=how)


def _identities(
    settings: Settings,
    store: Store,
    authority: Authority,
    revocations: Revocations,
    guard: MosquittoRights | None,
) -> Identities:
    door = settings.door
    return Identities(
        store,
        authority,
        revocations,
        rights=guard or OpenBroker(),
        root=newest_root,
        places=Places(
            broker=door.broker or settings.broker_url,
            fetch_broker=door.fetch_broker or settings.fetch_url,
            blobs=door.blob_url,
        ),
        policy=Policy(
            certificate_s=door.certificate_s,
            renew_grace_s=door.renew_grace_s,
            token_s=door.token_s,
        ),
    )


def _desk(
    settings: Settings,
    store: Store,
    blobs: BlobFolder,
    trust: Trust,
    link: Link,
    authority: Authority,
    revocations: Revocations,
    deltas: Deltas | None,
) -> Desk:
    pace = Pace(
        inflight=settings.broker.inflight,
        reconcile_s=settings.broker.reconcile_s,
        collect_s=settings.broker.collect_s,
        want_again_s=settings.broker.want_again_s,
        lease_s=settings.delivery.lease_s,
        budget_bytes=settings.broker.budget_bytes,
    )
    publisher = Publisher(link, blobs, pace)
    advisor = Advisor(settings.delivery, deltas)
    orders = Orders(store, trust, lifetime_s=settings.trust.order_s, advise=advisor.begin)
    fleet = Fleet(store, publisher, orders, deltas=advisor.shelved)
    rollouts = Rollouts(
        store,
        fleet,
        trust,
        incumbent_span_s=settings.gates.incumbent_span_s,
        budget_bytes=settings.broker.budget_bytes,
    )
    acks = Acks(publisher, every_s=settings.fleet.ack_s)
    guard = _guard(settings, store, link)
    identities = _identities(settings, store, authority, revocations, guard)
    return Desk(fleet, rollouts, Ingest(store), publisher, acks, guard, identities, trust)
