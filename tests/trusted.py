"""A ready TUF repository for tests, with the keys of all its roles.

`a_repository(bundles)` lists the bundles and makes each version a release, in their order;
`desired_of(repository, order)` is what the controller would publish for one device. Root needs 2
of 3 keys, every other role one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.builders import A_TIME, a_key
from wherry import codec, signing
from wherry.bundle import Bundle
from wherry.messages import Desired, Order
from wherry.names import AliasName, Digest, parse_alias_name
from wherry.trust import packet
from wherry.trust.documents import Metadata, Root, Targets, sign
from wherry.trust.making import (
    LIFETIMES,
    Holders,
    Lifetimes,
    Listing,
    Signers,
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
    with_root,
    with_targets,
)

ROOT_KEYS = (a_key(101), a_key(102), a_key(103))
TARGETS_KEY = a_key(111)
SNAPSHOT_KEY = a_key(112)
TIMESTAMP_KEY = a_key(113)
BUNDLE_KEY = a_key(114)
DIRECTOR_KEY = a_key(115)
EVIL_KEY = a_key(200)  # Nobody trusts it.

ONLINE = OnlineKeys(snapshot=SNAPSHOT_KEY, timestamp=TIMESTAMP_KEY, bundle=BUNDLE_KEY)
DEFAULT_ALIAS = parse_alias_name("default")


def the_holders(
    *,
    root: Sequence[Ed25519PrivateKey] = ROOT_KEYS,
    root_threshold: int = 2,
    targets: Ed25519PrivateKey = TARGETS_KEY,
    snapshot: Ed25519PrivateKey = SNAPSHOT_KEY,
    timestamp: Ed25519PrivateKey = TIMESTAMP_KEY,
    director: Ed25519PrivateKey = DIRECTOR_KEY,
    bundle: Ed25519PrivateKey = BUNDLE_KEY,
) -> Holders:
    """Return who holds each role, with what a test changes."""
    return Holders(
        root=Signers(tuple(key.public_key() for key in root), root_threshold),
        targets=only(targets),
        snapshot=only(snapshot),
        timestamp=only(timestamp),
        director=only(director),
        bundle=only(bundle),
    )


def a_root(
    version: int = 1,
    *,
    now: float = A_TIME,
    holders: Holders | None = None,
    signed_by: Sequence[Ed25519PrivateKey] = ROOT_KEYS[:2],
) -> Metadata[Root]:
    document = make_root(
        holders or the_holders(), now, version=version, lifetime_s=LIFETIMES.root_s
    )
    return sign(document, *signed_by)


def a_targets(
    version: int = 1,
    *,
    now: float = A_TIME,
    min_release: Mapping[AliasName, int] = MappingProxyType({}),
    bundle: Ed25519PrivateKey = BUNDLE_KEY,
    signed_by: Sequence[Ed25519PrivateKey] = (TARGETS_KEY,),
) -> Metadata[Targets]:
    document = make_targets(
        only(bundle),
        now,
        version=version,
        lifetime_s=LIFETIMES.targets_s,
        min_release=min_release,
    )
    return sign(document, *signed_by)


def a_listing(bundle: Bundle) -> Listing:
    """Return what the repository says of a bundle before it is released."""
    return listing_of_manifest(bundle.manifest)


def a_repository(
    bundles: Iterable[Bundle] = (),
    *,
    alias: AliasName | None = DEFAULT_ALIAS,
    now: float = A_TIME,
    min_release: Mapping[AliasName, int] = MappingProxyType({}),
    needs: Mapping[AliasName, int] = MappingProxyType({}),
    lifetimes: Lifetimes = LIFETIMES,
) -> Repository:
    """Return a repository that lists `bundles`, each version released under `alias` in order.

    With None for an alias they are listed only, as sealed ones are before a rollout; a bundle for
    measuring is never released.
    """
    targets = a_targets(now=now, min_release=min_release)
    repository = found(a_root(now=now), targets, ONLINE, now, lifetimes=lifetimes)
    every = tuple(bundles)
    repository = with_bundles(
        repository, {bundle.digest: a_listing(bundle) for bundle in every}, ONLINE, now
    )
    for bundle in every:
        if alias is not None and not bundle.manifest.measuring:
            repository = release(repository, alias, [bundle.digest], ONLINE, now, needs=needs)
    return repository


def with_min_release(
    repository: Repository, min_release: Mapping[AliasName, int], *, now: float = A_TIME
) -> Repository:
    """Return the repository after an operator raised `min_release` with the offline key."""
    version = repository.targets.signed.version + 1
    targets = a_targets(version, now=now, min_release=min_release)
    return with_targets(repository, targets, ONLINE, now)


def with_next_root(
    repository: Repository,
    *,
    now: float = A_TIME,
    holders: Holders | None = None,
    signed_by: Sequence[Ed25519PrivateKey] = ROOT_KEYS[:2],
    keys: OnlineKeys = ONLINE,
) -> Repository:
    """Return the repository under its next root; `keys` are the online keys that it names."""
    version = repository.root.signed.version + 1
    root = a_root(version, now=now, holders=holders, signed_by=signed_by)
    return with_root(repository, root, keys, now)


def sign_order(order: Order, key: Ed25519PrivateKey = DIRECTOR_KEY) -> bytes:
    """Return the envelope of `order`."""
    return signing.sign(order, key)


def bundles_of(order: Order) -> tuple[Digest, ...]:
    """Return the bundles that an order names, for aliases and for trials."""
    wanted = [wanted.bundle for wanted in order.aliases.values()]
    return (*wanted, *(trial.bundle for trial in order.trials))


def desired_of(
    repository: Repository,
    order: Order,
    *,
    key: Ed25519PrivateKey = DIRECTOR_KEY,
    root_after: int = 1,
) -> bytes:
    """Return a device's desired state: the signed order and all metadata but the timestamp."""
    pieces = pieces_for(repository, bundles_of(order), root_after=root_after)
    envelope = msgspec.Raw(sign_order(order, key))
    return codec.encode(Desired(order=envelope, packet=packet.pack(pieces)))
