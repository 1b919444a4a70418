"""The orders of the fleet as the broker retains them: issued, signed, with what lies beside each.

An order is issued and saved before it is signed, so one generation has the same bytes whenever it
is said. What lies beside it (the trust metadata that its device misses, and advice on fetching) is
saved too, and made anew only while the device has not followed: a new bundle makes a new snapshot,
and is no news to a fleet that has its orders. A device whose metadata is older than the timestamp
asks the trust topics for the rest: there stand the roles' current versions, every root, and the
bins of all bundles that an order names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from wherry import codec, signing
from wherry.blobs import digest_of
from wherry.messages import Order
from wherry.names import DeviceId, Digest, KeyId
from wherry.topics import MetadataTopic, TimestampTopic
from wherry.trust import packet
from wherry.trust.making import ROOT, SNAPSHOT, TARGETS
from wherry.trust.repository import Repository, pieces_for
from wherry_controller.core import device as core
from wherry_controller.core.audit import Kind
from wherry_controller.services import audit
from wherry_controller.services.publisher import NOTHING_BESIDE, Beside, SignedOrder, TrustTopic
from wherry_controller.store import devices
from wherry_controller.store.database import Store, Transaction
from wherry_controller.store.fetching import fetching_devices
from wherry_controller.store.records import Desired, Enclosure, Outline

MOST_RENEWED = 500  # At a time: a fleet that was ordered in one day is not renewed in one second.
FIRST_ROOT = 1  # What a device has at least that has not said yet which root it trusts.
LARGEST_ENCLOSURE_BYTES = 1 << 20

Advise = Callable[[DeviceId, frozenset[Digest]], Beside]
Adviser = Callable[[Transaction, frozenset[DeviceId]], Advise]
Pack = Callable[[frozenset[Digest], int], str]


class Vouching(Protocol):
    """What vouches for bundles and names the director; see `services/trust.py`."""

    def repository(self, tx: Transaction, bundles: Collection[Digest], /) -> Repository: ...

    def director(self, tx: Transaction, /) -> Ed25519PrivateKey: ...


@dataclass(frozen=True, slots=True)
class Retained:
    """Every order, and the metadata that all of them need."""

    orders: Mapping[DeviceId, SignedOrder]
    trust: Mapping[TrustTopic, bytes]


@dataclass(frozen=True, slots=True)
class _Envelope:
    """A signed order, and the bundles that it names."""

    signer: KeyId
    term: core.Term
    data: bytes
    bundles: frozenset[Digest]


def no_advice(_: Transaction, __: frozenset[DeviceId]) -> Advise:
    """Leave devices to find out by themselves how they fetch."""
    return lambda _device, _bundles: NOTHING_BESIDE


class Orders:
    """Signs the orders of the fleet; one thread calls it.

    `advise` says how a device may fetch the bundles of its order, anew while it fetches; the packet
    is put in here.
    """

    def __init__(
        self,
        store: Store,
        trust: Vouching,
        *,
        lifetime_s: float,
        advise: Adviser = no_advice,
    ) -> None:
        self._store = store
        self._trust = trust
        self._lifetime_s = lifetime_s
        self._advise = advise
        self._envelopes: dict[DeviceId, _Envelope] = {}
        self._beside: dict[Digest, Beside] = {}
        self._signed: dict[DeviceId, tuple[_Envelope, Digest, SignedOrder]] = {}

    def retained(self, now: float) -> Retained:
        """Return what the broker shall retain for each device that was ever ordered anything.

        Raises `NotFounded`, and `NoOnlineKey` where the director's key is not here.
        """
        outlines = self._issued(now)
        with self._store.reading() as tx:
            self._envelopes = self._sign_all(tx, outlines)
            named = frozenset[Digest]().union(*(one.bundles for one in self._envelopes.values()))
            repository = self._trust.repository(tx, named)
            besides = dict(self._changed(tx, repository, outlines))
        if besides:
            self._keep(besides)
            outlines = self._outlines()
        self._learn({one.enclosure for one in outlines if one.enclosure is not None})
        self._signed = {one.device: self._put_together(one) for one in outlines}
        orders = {device: order for device, (_, _, order) in self._signed.items()}
        return Retained(orders, topics_of(repository))

    def _outlines(self) -> Sequence[Outline]:
        with self._store.reading() as tx:
            return devices.list_outlines(tx)

    def _issued(self, now: float) -> Sequence[Outline]:
        """Issue what was changed, is for an enrolment of the past or past half of its life."""
        outlines = self._outlines()
        due = [one for one in outlines if core.is_due(_term(one), one.live_epoch, now=now)]
        renewals = [one for one in due if one.expires_at and one.epoch == one.live_epoch]
        later = set(renewals[MOST_RENEWED:])
        due = [one for one in due if one not in later]
        if not due:
            return outlines
        with self._store.transaction() as tx:
            snapshot = self._trust.repository(tx, ()).snapshot.signed.version
            issue = partial(core.issue, lifetime_s=self._lifetime_s, now=now, snapshot=snapshot)
            devices.issue_orders(tx, {one.device: issue(_term(one), one.live_epoch) for one in due})
            self._note_signed(tx, [one.device for one in due], now)
        return self._outlines()

    def _note_signed(self, tx: Transaction, members: Sequence[DeviceId], now: float) -> None:
        """Note what the director signs from now on, whenever these bytes are signed again."""
        signer = signing.key_id(self._trust.director(tx).public_key())
        orders = map(order_of, devices.some_desired(tx, members))
        facts = [
            {
                "order_of": order.device,
                "epoch": order.epoch,
                "generation": order.generation,
                "digest": digest_of(codec.encode(order)),
                "keys": signer,
            }
            for order in orders
        ]
        audit.note_each(tx, Kind.SIGNED, facts, now)

    def _sign_all(self, tx: Transaction, outlines: Iterable[Outline]) -> dict[DeviceId, _Envelope]:
        """Sign each order once: the same order has the same bytes."""
        director = self._trust.director(tx)
        signer = signing.key_id(director.public_key())
        stamps = {one.device: (signer, _term(one)) for one in outlines}
        known = {
            device: envelope
            for device, envelope in self._envelopes.items()
            if stamps.get(device) == (envelope.signer, envelope.term)
        }
        new = [device for device in stamps if device not in known]
        for order in map(order_of, devices.some_desired(tx, new)):
            data = signing.sign(order, director)
            known[order.device] = _Envelope(*stamps[order.device], data, bundles_of(order))
        return known

    def _changed(
        self, tx: Transaction, repository: Repository, outlines: Iterable[Outline]
    ) -> Iterable[tuple[DeviceId, Beside]]:
        """Yield what shall lie beside the orders that are not followed yet, where it is new."""
        pack = _packer(repository)
        fetching = fetching_devices(tx)
        advise = self._advise(tx, fetching)
        for one in outlines:
            bundles = self._envelopes[one.device].bundles
            if one.enclosure is None or _is_pending(one, repository):
                packed = pack(bundles, max(one.root, FIRST_ROOT))
            elif one.device in fetching:
                packed = (self._beside.get(one.enclosure) or _read(tx, one.enclosure)).packet
            else:
                continue
            beside = replace(advise(one.device, bundles), packet=packed)
            if _enclosure(beside).digest != one.enclosure:
                yield one.device, beside

    def _keep(self, besides: Mapping[DeviceId, Beside]) -> None:
        shared: dict[Enclosure, list[DeviceId]] = {}
        for device, beside in besides.items():
            shared.setdefault(_enclosure(beside), []).append(device)
        with self._store.transaction() as tx:
            for enclosure, members in shared.items():
                devices.enclose(tx, members, enclosure)
            devices.drop_loose_enclosures(tx)

    def _learn(self, digests: Iterable[Digest]) -> None:
        """Know what lies beside the orders, and forget what lay there."""
        with self._store.reading() as tx:
            self._beside = {
                digest: self._beside.get(digest) or _read(tx, digest) for digest in digests
            }

    def _put_together(self, outline: Outline) -> tuple[_Envelope, Digest, SignedOrder]:
        envelope, enclosure = self._envelopes[outline.device], outline.enclosure
        assert enclosure is not None  # Whoever has none is pending, and was given one.
        known = self._signed.get(outline.device)
        if known is not None and (known[0], known[1]) == (envelope, enclosure):
            return known
        order = SignedOrder(envelope.data, envelope.bundles, self._beside[enclosure])
        return envelope, enclosure, order


def topics_of(repository: Repository) -> Mapping[TrustTopic, bytes]:
    """Return the current metadata of every role, and every root, by topic."""
    topics: dict[TrustTopic, bytes] = {
        MetadataTopic(ROOT, root.signed.version): root.data for root in repository.roots
    }
    for role, held in repository.bins.items():
        topics[MetadataTopic(role, held.signed.version)] = held.data
    targets, snapshot = repository.targets, repository.snapshot
    topics[MetadataTopic(TARGETS, targets.signed.version)] = targets.data
    topics[MetadataTopic(SNAPSHOT, snapshot.signed.version)] = snapshot.data
    return {**topics, TimestampTopic(): repository.timestamp.data}


def order_of(desired: Desired) -> Order:
    return Order(
        device=desired.device,
        epoch=desired.epoch,
        generation=desired.generation,
        issued=desired.issued_at,
        expires=desired.expires_at,
        snapshot=desired.snapshot,
        aliases=desired.aliases,
        revoked=desired.revoked,
        trials=desired.trials,
    )


def save_order(tx: Transaction, order: Order) -> None:
    """Save an order; what lies beside it stays until it is made anew."""
    desired = replace(
        devices.get_desired(tx, order.device),
        epoch=order.epoch,
        generation=order.generation,
        issued_at=order.issued,
        expires_at=order.expires,
        snapshot=order.snapshot,
        aliases=order.aliases,
        revoked=order.revoked,
        trials=order.trials,
    )
    devices.save_desired(tx, desired)


def bundles_of(order: Order) -> frozenset[Digest]:
    """Return the bundles that a device needs for its order."""
    wanted = (one.bundle for one in order.aliases.values())
    tried = (one.bundle for one in order.trials)
    return frozenset((*wanted, *tried))


def _term(outline: Outline) -> core.Term:
    return core.Term(
        outline.generation,
        outline.epoch,
        outline.issued_at,
        outline.expires_at,
        outline.snapshot,
    )


def _is_pending(outline: Outline, repository: Repository) -> bool:
    """Say whether the device has not followed its order, or not to the newest root."""
    return (
        outline.enclosure is None
        or outline.followed < outline.generation
        or outline.root < repository.root.signed.version
    )


def _packer(repository: Repository) -> Pack:
    """Return what packs the metadata for bundles and a root, each packet once."""
    packed: dict[tuple[frozenset[Digest], int], str] = {}

    def pack(bundles: frozenset[Digest], root: int) -> str:
        key = (bundles, root)
        if key not in packed:
            packed[key] = packet.pack(pieces_for(repository, bundles, root_after=root))
        return packed[key]

    return pack


def _enclosure(beside: Beside) -> Enclosure:
    body = codec.encode(beside)
    return Enclosure(digest_of(body), body)


def _read(tx: Transaction, digest: Digest) -> Beside:
    kept = devices.get_enclosure(tx, digest)
    assert kept is not None  # A foreign key holds it.
    return codec.decode(Beside, kept.body, limit_bytes=LARGEST_ENCLOSURE_BYTES)
