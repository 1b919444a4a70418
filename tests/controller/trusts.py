"""A controller's trust and fleet for tests, with the keys of `tests.trusted`."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.builders import A_TIME
from tests.trusted import (
    BUNDLE_KEY,
    DIRECTOR_KEY,
    SNAPSHOT_KEY,
    TIMESTAMP_KEY,
    a_root,
    a_targets,
)
from wherry import codec, signing
from wherry.bundle import Bundle
from wherry.messages import Desired, Order
from wherry.names import Digest
from wherry.trust.making import LIFETIMES
from wherry.trust.repository import listing_of
from wherry.trust.target import Target
from wherry_controller.services.fleet import Fleet
from wherry_controller.services.orders import Orders
from wherry_controller.services.publisher import Publisher
from wherry_controller.services.trust import Trust
from wherry_controller.store.database import Store

ONLINE_KEYS = (SNAPSHOT_KEY, TIMESTAMP_KEY, DIRECTOR_KEY)


def a_trust(
    store: Store,
    *,
    now: float = A_TIME,
    bundle: Ed25519PrivateKey | None = BUNDLE_KEY,
    more: Sequence[Ed25519PrivateKey] = (),
) -> Trust:
    """Return the founded trust of a store; with None the bundle key is kept apart.

    `more` are keys that the controller has too, for a root that names them later.
    """
    keys = (*ONLINE_KEYS, *more) if bundle is None else (*ONLINE_KEYS, *more, bundle)
    held = {signing.key_id(key.public_key()): key for key in keys}
    trust = Trust(lambda: held)
    with store.transaction() as tx:
        trust.found(tx, a_root().data, a_targets().data, now)
    return trust


def a_fleet(store: Store, publisher: Publisher, trust: Trust | None = None) -> Fleet:
    orders = Orders(store, trust or a_trust(store), lifetime_s=LIFETIMES.order_s)
    return Fleet(store, publisher, orders)


def vouch(store: Store, trust: Trust, bundle: Bundle, *, now: float = A_TIME) -> None:
    """Have the controller vouch for a bundle, as it does for one that it sealed."""
    with store.transaction() as tx:
        trust.add_bundle(tx, bundle.manifest, bundle.digest, now)


def target_of(store: Store, trust: Trust, bundle: Digest) -> Target | None:
    """Return what is published of a bundle."""
    with store.reading() as tx:
        listing = listing_of(trust.repository(tx, [bundle]), bundle)
    return None if listing is None else listing.target


def order_in(message: bytes, director: Ed25519PrivateKey = DIRECTOR_KEY) -> Order:
    """Return the order that a device is told, once the director's signature is checked."""
    desired = codec.decode(Desired, message)
    trusted = signing.keyring(director.public_key())
    return codec.decode(Order, signing.open_envelope(bytes(desired.order), trusted))
