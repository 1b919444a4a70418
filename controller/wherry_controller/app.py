"""The controller, wired by hand: what `deciding` decides with, and what runs beside it.

Importing this loads no torch: builds are child processes.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from wherry.files import make_folder
from wherry.names import DeviceId
from wherry.systemd import Notifier
from wherry.topics import (
    EventsTopic,
    PresenceTopic,
    ReportedTopic,
    TelemetryTopic,
    WantsTopic,
    filter_of,
)
from wherry_controller.authority import CA, Authority, found_authority
from wherry_controller.broker import EmbeddedBroker, start_broker
from wherry_controller.core.rights import ANSWERS
from wherry_controller.deciding import LONGEST_INBOX, Decider, Desk, Inbox, Work
from wherry_controller.foundation import Keys, read_keys
from wherry_controller.mqtt import (
    Inbound,
    Link,
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
from wherry_controller.services.ingest import Ingest
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
        notifier: Notifier,
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
        self._inbox: Inbox = queue.Queue(LONGEST_INBOX)
        self._link = _link(settings, self._inbox.put)
        self._making = ThreadPoolExecutor(1, thread_name_prefix="delta")
        self._deltas = self._open_deltas() if settings.delivery.deltas else None
        desk = self._desk()
        self._decider = Decider(self._inbox, desk, store, settings, clock=clock, notifier=notifier)
        self.builds = self._open_builds()
        self._broker: EmbeddedBroker | None = None

    def start(self) -> None:
        """Take up what an earlier process left, and begin; raises what `start_broker` raises."""
        if self.settings.broker.url == EMBEDDED:
            log_folder = self.settings.log_folder
            self._broker = start_broker(log_folder, self.settings.broker.embedded_port)
        self.builds.start()
        self._decider.start()
        self._link.start()

    def close(self) -> None:
        """End every thread and child; work that comes too late is refused with `Closing`."""
        self.builds.stop()
        if self._deltas is not None:
            self._deltas.stop()
        self._making.shutdown(cancel_futures=True)
        self._link.close()
        self._decider.stop()
        if self._broker is not None:
            self._broker.stop()
        self.store.close()

    def _desk(self) -> Desk:
        """Return what the deciding thread touches, each part made for those that need it."""
        settings, store = self.settings, self.store
        publisher = Publisher(self._link, self.blobs, _pace(settings))
        advisor = Advisor(settings.delivery, self._deltas, fleet=settings.fleet)
        lifetime_s = settings.trust.order_s
        orders = Orders(store, self.trust, lifetime_s=lifetime_s, advise=advisor.begin)
        fleet = Fleet(store, publisher, orders, deltas=advisor.shelved)
        rollouts = Rollouts(
            store,
            fleet,
            self.trust,
            incumbent_span_s=settings.gates.incumbent_span_s,
            budget_bytes=settings.broker.budget_bytes,
        )
        guard = _guard(settings, store, self._link)
        upkeep = _upkeep(settings, self.authority)
        if upkeep is not None:
            self.revocations.tell(upkeep.hear)
        return Desk(
            fleet=fleet,
            rollouts=rollouts,
            ingest=Ingest(store),
            publisher=publisher,
            acks=Acks(publisher, every_s=settings.fleet.ack_s),
            guard=guard,
            upkeep=upkeep,
            identities=_identities(settings, store, self.authority, self.revocations, guard),
            trust=self.trust,
        )

    def _open_builds(self) -> Builds:
        build = self.settings.build
        trials = Trials(
            self.store,
            lambda work: self.decide(lambda desk: work(desk.fleet)),
            budget_bytes=self.settings.broker.budget_bytes,
            silence_s=build.measure_silence_s,
            clock=self.clock,
        )
        return Builds(
            self.store,
            self.blobs,
            self.keys.bundles,
            vouch=self.trust.add_bundle,
            vouches_at_once=self.trust.vouches_at_once,
            builder=ChildBuilder(),
            executor=ThreadPoolExecutor(build.at_once, thread_name_prefix="build"),
            bench=_bench(self.settings),
            trials=trials,
            clock=self.clock,
            limits=build.limits,
        )

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
            on_made=lambda: self._inbox.put(Work(publish)),
        )

    def decide(self, work: Callable[[Desk], T], /) -> T:
        """Have the deciding thread do `work`; return or raise what came of it, or `Closing`."""
        return self._decider.decide(work)

    def traffic(self) -> Traffic:
        """Return the bytes at the controller's sockets to the broker since it started."""
        return self._link.traffic()


def open_controller(
    settings: Settings,
    *,
    clock: Callable[[], float] = time.time,
    notifier: Notifier | None = None,
) -> Controller:
    """Open the controller's database, keys and folders; nothing runs before `start`.

    Raises `NoKeys`, `BadKey`, `NoDatabase`, `NewerDatabase`, `BadSetting`, and what `open_trust`
    raises for a root that cannot be served.
    """
    keys = read_keys(settings)
    store = open_store(settings.database_url)
    declare_shipped(store)
    trust = open_trust(settings, store, clock())
    notifier = notifier or Notifier({})
    return Controller(settings, store, keys, trust, clock=clock, notifier=notifier)


def _pace(settings: Settings) -> Pace:
    return Pace(
        inflight=settings.broker.inflight,
        reconcile_s=settings.broker.reconcile_s,
        collect_s=settings.broker.collect_s,
        want_again_s=settings.broker.want_again_s,
        lease_s=settings.delivery.lease_s,
        budget_bytes=settings.broker.budget_bytes,
    )


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
