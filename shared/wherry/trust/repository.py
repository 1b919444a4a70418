"""The TUF repository: all current metadata as one value, and what may be done to it.

Everything here is pure: `now` and the keys come in, a new value comes out, and whoever keeps it
(the controller, the simulator, a test) writes down what changed. Each change makes the next
version of the roles that it touches, and of the snapshot and the timestamp that vouch for them.

    root (offline) --> timestamp --> snapshot --> targets (offline) --> bins --> bundles

A bin exists from its first bundle on. A bin that its key has not signed yet waits outside of the
repository (`changed_bins`), and joins it signed (`with_bins`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wherry.blobs import digest_of
from wherry.names import AliasName, Digest, RoleName, parse_role_name
from wherry.trust.documents import (
    BIN_BITS,
    BIN_PREFIX,
    Bin,
    Document,
    Metadata,
    Root,
    Snapshot,
    Targets,
    Timestamp,
    expires_at,
    sign,
)
from wherry.trust.making import (
    LIFETIMES,
    ROOT,
    SNAPSHOT,
    TARGETS,
    Lifetimes,
    Listing,
    make_bin,
    make_snapshot,
    make_timestamp,
)
from wherry.trust.packet import piece_name
from wherry.trust.target import Target


@dataclass(frozen=True, slots=True)
class OnlineKeys:
    """The private keys that sign by themselves; `bundle` is None where it is kept apart."""

    snapshot: Ed25519PrivateKey
    timestamp: Ed25519PrivateKey
    bundle: Ed25519PrivateKey | None


@dataclass(frozen=True, slots=True)
class Repository:
    """All current metadata, and every root that there was.

    `bins` may be those only that a change is about: the snapshot knows of the others.
    """

    roots: tuple[Metadata[Root], ...]
    targets: Metadata[Targets]
    bins: Mapping[RoleName, Metadata[Bin]]
    snapshot: Metadata[Snapshot]
    timestamp: Metadata[Timestamp]
    lifetimes: Lifetimes = field(default_factory=Lifetimes)

    @property
    def root(self) -> Metadata[Root]:
        return self.roots[-1]


def found(
    root: Metadata[Root],
    targets: Metadata[Targets],
    keys: OnlineKeys,
    now: float,
    *,
    lifetimes: Lifetimes = LIFETIMES,
) -> Repository:
    """Return the first repository under a signed root and signed targets: it lists no bundle."""
    meta = {TARGETS: targets.signed.version}
    first = make_snapshot(meta, now, version=1, lifetime_s=lifetimes.snapshot_s)
    snapshot = sign(first, keys.snapshot)
    stamp = make_timestamp(snapshot, now, version=1, lifetime_s=lifetimes.timestamp_s)
    timestamp = sign(stamp, keys.timestamp)
    return Repository((root,), targets, {}, snapshot, timestamp, lifetimes)


def bin_of(digest: Digest) -> RoleName:
    """Return the bin that lists a bundle (TAP 15: the first bits of the path's sha256)."""
    first = int(digest_of(digest.encode())[:8], 16) >> (32 - BIN_BITS)
    return parse_role_name(f"{BIN_PREFIX}-{first:0{BIN_BITS // 4}x}")


def listing_of(repository: Repository, digest: Digest) -> Listing | None:
    """Return what the repository says of a bundle."""
    held = repository.bins.get(bin_of(digest))
    return _listings(held).get(digest) if held is not None else None


def changed_bins(
    repository: Repository, listings: Mapping[Digest, Listing], now: float
) -> dict[RoleName, Bin]:
    """Return the next version of each bin that `listings` changes, for the bundle key to sign."""
    changes: dict[RoleName, dict[Digest, Listing]] = {}
    for digest, listing in listings.items():
        if listing_of(repository, digest) != listing:
            changes.setdefault(bin_of(digest), {})[digest] = listing
    return {
        role: next_bin(repository.bins.get(role), change, now, repository.lifetimes)
        for role, change in sorted(changes.items())
    }


def next_bin(
    held: Metadata[Bin] | None, changes: Mapping[Digest, Listing], now: float, lifetimes: Lifetimes
) -> Bin:
    """Return the version of a bin after `held`, with `changes` made."""
    version = 1 if held is None else held.signed.version + 1
    listings = {**_listings(held), **changes}
    return make_bin(listings, now, version=version, lifetime_s=lifetimes.bins_s)


def with_bins(
    repository: Repository, bins: Mapping[RoleName, Metadata[Bin]], keys: OnlineKeys, now: float
) -> Repository:
    """Return the repository with these signed bins, under a new snapshot and timestamp."""
    if not bins:
        return repository
    changed = replace(repository, bins={**repository.bins, **bins})
    return vouched(changed, keys, now)


def with_targets(
    repository: Repository, targets: Metadata[Targets], keys: OnlineKeys, now: float
) -> Repository:
    """Return the repository with targets that were signed offline."""
    return vouched(replace(repository, targets=targets), keys, now)


def with_root(
    repository: Repository, root: Metadata[Root], keys: OnlineKeys, now: float
) -> Repository:
    """Return the repository under the next root; what its new keys must sign is signed anew."""
    changed = replace(repository, roots=(*repository.roots, root))
    return vouched(changed, keys, now)


def vouched(repository: Repository, keys: OnlineKeys, now: float) -> Repository:
    """Return the repository under a new snapshot and timestamp."""
    versions = versions_of(repository.snapshot.signed)
    versions |= {role: held.signed.version for role, held in repository.bins.items()}
    versions[TARGETS] = repository.targets.signed.version
    document = make_snapshot(
        versions,
        now,
        version=repository.snapshot.signed.version + 1,
        lifetime_s=repository.lifetimes.snapshot_s,
    )
    return _stamped(replace(repository, snapshot=sign(document, keys.snapshot)), keys, now)


def with_bundles(
    repository: Repository, listings: Mapping[Digest, Listing], keys: OnlineKeys, now: float
) -> Repository:
    """Return the repository that says this of these bundles, where the bundle key is at hand."""
    return with_bins(
        repository, sign_bins(changed_bins(repository, listings, now), keys), keys, now
    )


def sign_bins(bins: Mapping[RoleName, Bin], keys: OnlineKeys) -> dict[RoleName, Metadata[Bin]]:
    """Return `bins` signed by the bundle key; where it is kept apart, by nobody."""
    holders = () if keys.bundle is None else (keys.bundle,)
    return {role: sign(document, *holders) for role, document in bins.items()}


def released(
    listing: Listing, alias: AliasName, counter: int, needs: Mapping[AliasName, int]
) -> Listing:
    """Return the listing of a bundle that is release `counter` under `alias`."""
    target = msgspec.structs.replace(
        listing.target,
        releases={**listing.target.releases, alias: counter},
        needs={**listing.target.needs, **needs},
    )
    return replace(listing, target=target)


def latest_release(repository: Repository, alias: AliasName) -> int:
    """Return the highest release counter under `alias`; 0 where there is none."""
    counters = (target.releases.get(alias, 0) for target in _every_target(repository))
    return max(counters, default=0)


def release(
    repository: Repository,
    alias: AliasName,
    bundles: Collection[Digest],
    keys: OnlineKeys,
    now: float,
    *,
    needs: Mapping[AliasName, int] = MappingProxyType({}),
) -> Repository:
    """Return the repository with these bundles of one version as a release under `alias`.

    A version that was released under the alias before keeps its counter. Raises `KeyError` for a
    bundle that the repository does not list.
    """
    listings = {digest: _listings(repository.bins[bin_of(digest)])[digest] for digest in bundles}
    before = _counter_of_version(repository, alias, [lst.target for lst in listings.values()])
    counter = before or latest_release(repository, alias) + 1
    changed = {
        digest: released(listing, alias, counter, needs) for digest, listing in listings.items()
    }
    return with_bundles(repository, changed, keys, now)


def resign(repository: Repository, keys: OnlineKeys, now: float) -> Repository:
    """Return the repository with all that is at half of its life signed anew by online keys.

    A bin of a key that is kept apart is left (`stale_bins` names it).
    """
    stale = stale_bins(repository, now) if keys.bundle is not None else {}
    if stale:
        return with_bins(repository, sign_bins(stale, keys), keys, now)
    if is_stale(repository.snapshot.signed, repository.lifetimes.snapshot_s, now):
        return vouched(repository, keys, now)
    if is_stale(repository.timestamp.signed, repository.lifetimes.timestamp_s, now):
        return _stamped(repository, keys, now)
    return repository


def stale_bins(repository: Repository, now: float) -> dict[RoleName, Bin]:
    """Return the next version of each bin that is at half of its life."""
    lifetimes = repository.lifetimes
    return {
        role: next_bin(held, {}, now, lifetimes)
        for role, held in repository.bins.items()
        if is_stale(held.signed, lifetimes.bins_s, now)
    }


def is_stale(document: Document, lifetime_s: float, now: float) -> bool:
    """Say whether half of the life of `document` is over."""
    return now >= expires_at(document) - lifetime_s / 2


def pieces_for(
    repository: Repository,
    bundles: Iterable[Digest],
    *,
    root_after: int = 0,
    targets_after: int = 0,
    snapshot_after: int = 0,
) -> dict[str, bytes]:
    """Return what a device needs to verify `bundles`, beside the timestamp, by name and version.

    It has root, targets and snapshot up to these versions.
    """
    pieces = {
        piece_name(ROOT, held.signed.version): held.data
        for held in repository.roots
        if held.signed.version > root_after
    }
    if repository.snapshot.signed.version > snapshot_after:
        pieces[piece_name(SNAPSHOT, repository.snapshot.signed.version)] = repository.snapshot.data
    if repository.targets.signed.version > targets_after:
        pieces[piece_name(TARGETS, repository.targets.signed.version)] = repository.targets.data
    for role in sorted({bin_of(digest) for digest in bundles} & repository.bins.keys()):
        held = repository.bins[role]
        pieces[piece_name(role, held.signed.version)] = held.data
    return pieces


def versions_of(snapshot: Snapshot) -> dict[RoleName, int]:
    """Return the version of targets and of each bin that a snapshot names."""
    return {
        parse_role_name(file.removesuffix(".json")): meta.version
        for file, meta in snapshot.meta.items()
    }


def _stamped(repository: Repository, keys: OnlineKeys, now: float) -> Repository:
    document = make_timestamp(
        repository.snapshot,
        now,
        version=repository.timestamp.signed.version + 1,
        lifetime_s=repository.lifetimes.timestamp_s,
    )
    return replace(repository, timestamp=sign(document, keys.timestamp))


def _listings(held: Metadata[Bin] | None) -> dict[Digest, Listing]:
    entries = {} if held is None else held.signed.targets
    return {digest: Listing(entry.length, entry.custom.wherry) for digest, entry in entries.items()}


def _every_target(repository: Repository) -> Iterator[Target]:
    for held in repository.bins.values():
        yield from (entry.custom.wherry for entry in held.signed.targets.values())


def _counter_of_version(
    repository: Repository, alias: AliasName, bundles: Collection[Target]
) -> int:
    versions = {(target.model, target.version) for target in bundles}
    counters = (
        target.releases.get(alias, 0)
        for target in _every_target(repository)
        if (target.model, target.version) in versions
    )
    return max(counters, default=0)
