"""The trust of a simulated fleet: a repository that lists its bundles, and what devices begin with.

The keys are the same in each run, so that the same seed plays the same story.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wherry import codec, signing
from wherry.bundle import Bundle
from wherry.messages import Desired, Order
from wherry.names import AliasName
from wherry.trust import packet
from wherry.trust.documents import sign
from wherry.trust.making import (
    LIFETIMES,
    Holders,
    listing_of_manifest,
    make_root,
    make_targets,
    only,
)
from wherry.trust.repository import (
    OnlineKeys,
    Repository,
    found,
    pieces_for,
    release,
    with_bundles,
)

BEGAN_AT = 1_800_000_000.0  # UNIX time, where a story's own time is 0.
EPOCH = 1


@dataclass(frozen=True, slots=True)
class Director:
    """What a simulated controller vouches and orders with."""

    repository: Repository
    key: Ed25519PrivateKey

    @property
    def root(self) -> bytes:
        return self.repository.root.data

    @property
    def timestamp(self) -> bytes:
        return self.repository.timestamp.data

    def desired(self, order: Order) -> bytes:
        """Return what the broker retains for the device of a signed order."""
        wanted = [one.bundle for one in order.aliases.values()]
        pieces = pieces_for(self.repository, wanted, root_after=self.repository.root.signed.version)
        envelope = msgspec.Raw(signing.sign(order, self.key))
        return codec.encode(Desired(order=envelope, packet=packet.pack(pieces)))


def appoint(alias: AliasName, bundles: Sequence[Bundle]) -> Director:
    """Return a director of a fleet for which each bundle is a release under `alias`, in order."""
    root, targets, bundle, director = (_key(seed) for seed in range(1, 5))
    online = OnlineKeys(snapshot=_key(5), timestamp=_key(6), bundle=bundle)
    holders = Holders(
        root=only(root),
        targets=only(targets),
        snapshot=only(online.snapshot),
        timestamp=only(online.timestamp),
        director=only(director),
        bundle=only(bundle),
    )
    now = BEGAN_AT
    first = make_root(holders, now, version=1, lifetime_s=LIFETIMES.root_s)
    listed = make_targets(only(bundle), now, version=1, lifetime_s=LIFETIMES.targets_s)
    repository = found(sign(first, root), sign(listed, targets), online, now)
    listings = {one.digest: listing_of_manifest(one.manifest) for one in bundles}
    repository = with_bundles(repository, listings, online, now)
    for one in bundles:
        repository = release(repository, alias, [one.digest], online, now)
    return Director(repository, director)


def _key(seed: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([seed] * 32))
