"""What the broker shall retain, and the repair of what it lacks: the broker is a cache.

The publisher is told the whole of what is wanted (every device's order, every bundle that one
of them needs, and which of these must be there) and sends only the difference to what it believes
the broker has. Within a budget it holds the rest of the bundles too, and on a lease what a device
wants of one that was cleared: all of it at once, whoever else wants it next. After each
connect, and at intervals, it reads trust, orders and manifests back to correct that belief.

    Disconnected --connected--> collecting --quiet for collect_s--> repairing --reconcile_s--+
                                    ^--------------------------------------------------------+

Trust metadata goes first: what a timestamp vouches for, the timestamp, then the orders that need
it. Orders go before bundles, for a halt must not wait behind a large one. A bundle's chunks go
before its manifest, so a manifest that is there says that its chunks were sent; chunks are not
read back (that would cost their length each time), a device that misses one says so. Each chunk
goes once, whichever bundles share it, and few at a time, so that memory does not grow with the
bundle.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Protocol, TypeAlias

import msgspec

from wherry import codec, messages
from wherry.blobs import check_digest, digest_of
from wherry.errors import REFUSALS
from wherry.messages import Delta, Desired
from wherry.names import DeviceId, Digest
from wherry.topics import (
    AcksTopic,
    BlobTopic,
    BundleTopic,
    DesiredTopic,
    MetadataTopic,
    PresenceTopic,
    ReportedTopic,
    TimestampTopic,
    Topic,
    filter_of,
    text,
)
from wherry_controller.core.holding import hold
from wherry_controller.services.shelving import Place, chunks_named_by
from wherry_controller.services.shelving import Shelved as Shelved
from wherry_controller.services.shelving import shelve as shelve
from wherry_controller.services.shelving import shelve_delta as shelve_delta
from wherry_controller.services.shelving import size_of_all as size_of_all
from wherry_controller.store.blobs import BlobFolder

log = logging.getLogger(__name__)

TrustTopic: TypeAlias = TimestampTopic | MetadataTopic
ReadBack: TypeAlias = DesiredTopic | BundleTopic | TrustTopic

CLEARED = b""
READ_BACK = tuple(map(filter_of, (TimestampTopic, MetadataTopic, DesiredTopic, BundleTopic)))


class Broker(Protocol):
    """A connection that retains what it is given; see `mqtt.Link`."""

    @property
    def backlog(self) -> int:
        """How many publications the broker has not acknowledged."""

    def publish(self, topic: str, payload: bytes) -> None: ...

    def subscribe(self, filters: Sequence[str]) -> int | None:
        """Ask for topics; return the number that the grant will name."""

    def unsubscribe(self, filters: Sequence[str]) -> None: ...


class Beside(msgspec.Struct, frozen=True, kw_only=True):
    """What travels beside an order; see `Desired`."""

    packet: str = ""
    deltas: tuple[Delta, ...] = ()
    sources: tuple[str, ...] = ()
    pace: messages.Pace = messages.Pace()
    spread_s: float | None = None


NOTHING_BESIDE = Beside()


@dataclass(frozen=True, slots=True)
class SignedOrder:
    """An order as the broker retains it, and the bundles that it names.

    The message is put together when it is sent: what lies beside is shared by many devices.
    """

    envelope: bytes
    bundles: frozenset[Digest]
    beside: Beside = NOTHING_BESIDE
    digest: Digest = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", digest_of(self.message))

    @property
    def message(self) -> bytes:
        beside = self.beside
        desired = Desired(
            order=msgspec.Raw(self.envelope),
            packet=beside.packet,
            deltas=beside.deltas,
            sources=beside.sources,
            pace=beside.pace,
            spread_s=beside.spread_s,
        )
        return codec.encode(desired)


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast, and how often; see `settings.Broker`."""

    inflight: int = 16
    reconcile_s: float = 60.0
    collect_s: float = 1.0
    want_again_s: float = 30.0
    lease_s: float = 600.0
    budget_bytes: int = 256 * 1024 * 1024


class _State(Enum):
    DISCONNECTED = "disconnected"
    COLLECTING = "collecting"
    REPAIRING = "repairing"


@dataclass(slots=True)
class _Belief:
    """What the broker is believed to retain: documents by topic, and chunks."""

    documents: dict[Topic, Digest] = field(default_factory=dict)
    chunks: set[Digest] = field(default_factory=set)


class Publisher:
    """Keeps a broker's retained messages as they shall be; one thread calls it."""

    def __init__(self, broker: Broker, blobs: BlobFolder, pace: Pace) -> None:
        self._broker = broker
        self._blobs = blobs
        self._pace = pace
        self._state = _State.DISCONNECTED
        self._orders: Mapping[DeviceId, SignedOrder] = {}
        self._bundles: Mapping[Digest, Shelved] = {}
        self._must: Collection[Digest] = ()
        self._held: Mapping[Digest, Shelved] = {}
        self._leases: dict[Digest, float] = {}
        self._trust: Mapping[TrustTopic, bytes] = {}
        self._places: dict[Digest, Place] = {}
        self._belief = _Belief()
        self._seen: dict[Topic, bytes] = {}
        self._todo: deque[Topic] = deque()
        self._published_at: dict[Digest, float] = {}
        self._request: int | None = None
        self._is_granted = False
        self._quiet_since = 0.0
        self._collected_at = 0.0

    @property
    def is_settled(self) -> bool:
        """Whether the broker is believed to have everything, acknowledged."""
        return self._state is _State.REPAIRING and not self._todo and self._broker.backlog == 0

    def want(
        self,
        orders: Mapping[DeviceId, SignedOrder],
        bundles: Mapping[Digest, Shelved],
        now: float,
        *,
        must: Collection[Digest] | None = None,
        trust: Mapping[TrustTopic, bytes] = MappingProxyType({}),
    ) -> None:
        """Take the whole of what shall be retained, and send what is missing of it.

        `bundles` are in the order in which they are held while the budget lasts, `must` (None: all
        of them) names those that are held in any case. Deltas are among them, by their indexes.
        `trust` is the current metadata of every role, and every root.
        """
        self._orders, self._bundles, self._trust = orders, bundles, trust
        self._must = bundles.keys() if must is None else must
        self._hold(now)
        self._repair(now)

    def say(self, topic: Topic, payload: bytes) -> None:
        """Publish a document that is not kept: what is lost is said again by whoever said it."""
        if self._state is not _State.DISCONNECTED:
            self._broker.publish(text(topic), payload)

    def forget(self, device: DeviceId) -> None:
        """Clear what a device that was removed said, and what was said to it."""
        for topic in (ReportedTopic(device), PresenceTopic(device), AcksTopic(device)):
            self.say(topic, CLEARED)

    def say_again(self, device: DeviceId, digests: Iterable[Digest], now: float) -> int:
        """Publish again what a device misses of its own bundles; return how many were refused.

        Refused is what its order does not name, what finds no room, and what was published less
        than `want_again_s` ago: it is on its way. A bundle that was cleared comes back whole, and
        what it brings is not published twice.
        """
        refused = 0
        digests = tuple(digests)
        restored = self._lease(device, digests, now)
        for digest in digests:
            if digest in restored:
                continue
            topic = self._topic_for(device, digest)
            recent = now - self._published_at.get(digest, -self._pace.want_again_s)
            is_ready = self._state is _State.REPAIRING
            if topic is None or not is_ready or recent < self._pace.want_again_s:
                refused += 1
            else:
                self._published_at[digest] = now
                self._todo.appendleft(topic)
        self._send_some(now)
        return refused

    def _lease(self, device: DeviceId, digests: Iterable[Digest], now: float) -> frozenset[Digest]:
        """Bring bundles back that were cleared; return which of the digests came back so."""
        cleared: dict[Digest, Digest] = {}
        for digest in digests:
            for bundle in self._bundles_with(device, digest):
                if bundle not in self._must:
                    self._leases[bundle] = now + self._pace.lease_s
                if bundle not in self._held:
                    cleared[digest] = bundle
        if cleared:
            self._hold(now)
            self._repair(now)
        return frozenset(digest for digest, bundle in cleared.items() if bundle in self._held)

    def _hold(self, now: float) -> None:
        """Decide anew which bundles the broker shall have."""
        self._leases = {
            bundle: until
            for bundle, until in self._leases.items()
            if until > now and bundle in self._bundles
        }
        held = hold(
            self._bundles,
            {digest: bundle.sizes(digest) for digest, bundle in self._bundles.items()},
            must=self._must,
            leased=self._leases,
            budget_bytes=self._pace.budget_bytes,
        )
        self._held = {digest: one for digest, one in self._bundles.items() if digest in held}
        self._places = {d: at for one in self._held.values() for d, at in one.chunks.items()}

    def on_connected(self, now: float) -> None:
        self._published_at.clear()
        self._collect(now)

    def on_disconnected(self) -> None:
        self._state = _State.DISCONNECTED
        self._todo.clear()

    def on_delivered(self, now: float) -> None:
        self._send_some(now)

    def on_subscribed(self, request: int, now: float) -> None:
        """Begin to wait for quiet once the broker has taken the request to read back."""
        if request == self._request:
            self._is_granted = True
            self._quiet_since = now

    def on_read_back(self, topic: ReadBack, payload: bytes, now: float) -> None:
        """Take an order, a manifest or trust metadata that the broker has."""
        if self._state is _State.COLLECTING:
            self._seen[topic] = payload
            self._quiet_since = now

    def tick(self, now: float) -> None:
        if any(until <= now for until in self._leases.values()):
            self._hold(now)
            self._repair(now)
        quiet_s = now - self._quiet_since
        if (
            self._state is _State.COLLECTING
            and self._is_granted
            and quiet_s >= self._pace.collect_s
        ):
            self._end_collecting(now)
        elif self.is_settled and now - self._collected_at >= self._pace.reconcile_s:
            self._collect(now)

    def _collect(self, now: float) -> None:
        self._state = _State.COLLECTING
        self._seen.clear()
        self._quiet_since = now
        self._request = self._broker.subscribe(READ_BACK)
        self._is_granted = False

    def _end_collecting(self, now: float) -> None:
        self._broker.unsubscribe(READ_BACK)
        self._collected_at = now
        self._state = _State.REPAIRING
        self._belief = _Belief(
            documents={topic: digest_of(data) for topic, data in self._seen.items() if data},
            chunks=set(self._chunks_there()),
        )
        self._seen.clear()
        self._repair(now)

    def _repair(self, now: float) -> None:
        if self._state is _State.REPAIRING:
            self._todo = deque(self._differences())
            self._send_some(now)

    def _differences(self) -> Iterator[Topic]:
        """Yield what to publish or to clear, the most urgent first."""
        believed = self._belief
        yield from self._trust_to_say()
        for device, order in self._orders.items():
            if believed.documents.get(DesiredTopic(device)) != order.digest:
                yield DesiredTopic(device)
        planned: set[Digest] = set()
        for digest, bundle in self._held.items():
            missing = [c for c in bundle.chunks if c not in believed.chunks and c not in planned]
            planned.update(missing)
            yield from map(BlobTopic, missing)
            if believed.documents.get(BundleTopic(digest)) != digest_of(bundle.envelope):
                yield BundleTopic(digest)
        # Before the manifests that vouch for them: what a kill leaves is found again.
        yield from map(BlobTopic, believed.chunks - self._places.keys())
        yield from (topic for topic in believed.documents if self._payload(topic) == CLEARED)

    def _trust_to_say(self) -> Iterator[TrustTopic]:
        """Yield the metadata that the broker lacks, the timestamp after what it vouches for."""
        missing = [
            topic
            for topic, data in self._trust.items()
            if self._belief.documents.get(topic) != digest_of(data)
        ]
        yield from (topic for topic in missing if topic != TimestampTopic())
        yield from (topic for topic in missing if topic == TimestampTopic())

    def _send_some(self, now: float) -> None:
        while (
            self._state is _State.REPAIRING
            and self._todo
            and self._broker.backlog < self._pace.inflight
        ):
            self._send(self._todo.popleft(), now)

    def _send(self, topic: Topic, now: float) -> None:
        try:
            payload = self._payload(topic)
        except REFUSALS as error:
            log.error("blob.lost", extra={"topic": text(topic), "problem": str(error)})
            return
        self._broker.publish(text(topic), payload)
        if isinstance(topic, BlobTopic | BundleTopic):
            self._published_at[topic.digest] = now
        if isinstance(topic, BlobTopic):
            (self._belief.chunks.add if payload else self._belief.chunks.discard)(topic.digest)
        elif payload:
            self._belief.documents[topic] = digest_of(payload)
        else:
            self._belief.documents.pop(topic, None)

    def _payload(self, topic: Topic) -> bytes:
        """Return what shall stand under a topic; nothing where nothing is wanted there."""
        match topic:
            case DesiredTopic(device):
                order = self._orders.get(device)
                return CLEARED if order is None else order.message
            case BundleTopic(digest):
                bundle = self._held.get(digest)
                return CLEARED if bundle is None else bundle.envelope
            case TimestampTopic() | MetadataTopic():
                return self._trust.get(topic, CLEARED)
            case BlobTopic(digest) if digest in self._places:
                place = self._places[digest]
                return check_digest(self._blobs.part(place.blob, place.start, place.end), digest)
            case _:
                return CLEARED

    def _topic_for(self, device: DeviceId, digest: Digest) -> Topic | None:
        for bundle in self._bundles_with(device, digest):
            if bundle in self._held:
                return BundleTopic(digest) if digest == bundle else BlobTopic(digest)
        return None

    def _bundles_with(self, device: DeviceId, digest: Digest) -> Iterator[Digest]:
        """Yield what a device's order names, deltas too, and a digest is or is a part of."""
        order = self._orders.get(device)
        if order is None:
            return
        deltas = (delta.index for delta in order.beside.deltas if delta.index is not None)
        for bundle in (*order.bundles, *deltas):
            shelved = self._bundles.get(bundle)
            if shelved is not None and (digest in shelved.chunks or digest == bundle):
                yield bundle

    def _chunks_there(self) -> Iterator[Digest]:
        """Yield the chunks of manifests that were read back and are not in a wanted one's place."""
        for topic, data in self._seen.items():
            if isinstance(topic, BundleTopic) and data:
                wanted = self._bundles.get(topic.digest)
                if wanted is None:
                    yield from chunks_named_by(data)
                elif wanted.envelope == data:
                    yield from wanted.chunks
