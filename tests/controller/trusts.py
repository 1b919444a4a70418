"""A fleet under a repository that stands still, for tests that are not about trust."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.builders import a_key
from tests.trusted import a_repository
from wherry import codec, signing
from wherry.messages import Desired, Order
from wherry.names import Digest
from wherry.trust.making import LIFETIMES
from wherry.trust.repository import Repository
from wherry_controller.services.fleet import Fleet
from wherry_controller.services.orders import Orders, Vouching
from wherry_controller.services.publisher import Publisher
from wherry_controller.store.database import Store, Transaction


@dataclass
class StillTrust:
    """Vouches for nothing but what `held` lists, and lets `key` direct."""

    held: Repository = field(default_factory=a_repository)
    key: Ed25519PrivateKey = field(default_factory=a_key)

    def repository(self, tx: Transaction, bundles: Collection[Digest]) -> Repository:
        return self.held

    def director(self, tx: Transaction) -> Ed25519PrivateKey:
        return self.key


def a_fleet(store: Store, publisher: Publisher, *, trust: Vouching | None = None) -> Fleet:
    """Return the fleet of a store whose orders `a_key()` signs."""
    orders = Orders(store, trust or StillTrust(), lifetime_s=LIFETIMES.order_s)
    return Fleet(store, publisher, orders)


def order_in(message: bytes, director: Ed25519PrivateKey | None = None) -> Order:
    """Return the order that a device is told, once its signature is checked."""
    desired = codec.decode(Desired, message)
    trusted = signing.keyring((director or a_key()).public_key())
    return codec.decode(Order, signing.open_envelope(bytes(desired.order), trusted))
