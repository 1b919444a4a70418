"""A fleet under a repository that stands still, for tests that are not about trust."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.builders import a_key
from tests.trusted import a_repository
from wherry import codec, signing
from wherry.messages import Desired, Order
from wherry.trust.making import LIFETIMES
from wherry.trust.repository import Repository
from wherry_controller.services.fleet import Fleet
from wherry_controller.services.orders import Orders
from wherry_controller.services.publisher import Publisher
from wherry_controller.store.database import Store

STILL = a_repository()


def a_fleet(
    store: Store,
    publisher: Publisher,
    *,
    director: Ed25519PrivateKey | None = None,
    repository: Repository = STILL,
) -> Fleet:
    """Return the fleet of a store whose orders `a_key()` signs."""
    orders = Orders(store, director or a_key(), lifetime_s=LIFETIMES.order_s)
    return Fleet(store, publisher, orders, lambda: repository)


def order_in(message: bytes, director: Ed25519PrivateKey | None = None) -> Order:
    """Return the order that a device is told, once its signature is checked."""
    desired = codec.decode(Desired, message)
    trusted = signing.keyring((director or a_key()).public_key())
    return codec.decode(Order, signing.open_envelope(bytes(desired.order), trusted))
