"""The TUF repository of this controller: what it vouches for, signed, kept and renewed.

    trust.add_bundle(tx, manifest, now)                       when a bundle was sealed or imported
    trust.release(tx, alias, bundles, needs=…, now=now)       when a rollout is created
    trust.unpublished(tx, alias, bundles)                     not empty: the rollout waits
    trust.repository(tx, bundles)                             what `pieces_for` packs for devices
    trust.director(tx)                                        who signs orders now
    trust.publish(tx, files, now)                             what was signed on another machine
    trust.resign(tx, now)                                     on a timer: half of a life is over

Each works in its caller's transaction, which must write (not `reading`) where something changes:
a rollout and its release stand together or not at all. The value of `repository` is a snapshot of
what is published; compare `repository.timestamp.signed.version` to see whether it changed.

Where the bundle key is kept apart, a changed bin waits in the database for its signature, and the
repository stays as it was until `publish` brings it; changes meanwhile wait in later versions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wherry.errors import Unavailable
from wherry.manifest import Manifest
from wherry.names import AliasName, Digest, KeyId, RoleName
from wherry.trust import documents, repository
from wherry.trust.documents import Bin, Metadata, Root, Snapshot, Targets, Timestamp
from wherry.trust.making import (
    LIFETIMES,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    Lifetimes,
    Listing,
    listing_of_manifest,
)
from wherry.trust.repository import OnlineKeys, Repository, bin_of
from wherry_controller.core import trust as core
from wherry_controller.core.audit import Kind
from wherry_controller.services import audit, offering
from wherry_controller.services.missing import UnknownBundle
from wherry_controller.store import trust as store
from wherry_controller.store.database import Transaction
from wherry_controller.store.trust import MetadataRecord, ReleaseRecord

log = logging.getLogger(__name__)

KeysHeld = Mapping[KeyId, Ed25519PrivateKey]


class NotFounded(Unavailable):
    """A database without a root of trust."""

    def __str__(self) -> str:
        return "this controller has no root of trust yet: give it one with `wherry init`."


class Trust:
    """What this controller vouches for; `keys` reads the private keys that it has now."""

    def __init__(self, keys: Callable[[], KeysHeld], lifetimes: Lifetimes = LIFETIMES) -> None:
        self._keys = keys
        self._lifetimes = lifetimes
        self._has_read_all = False

    def found(self, tx: Transaction, root: bytes, targets: bytes, now: float) -> bool:
        """Begin with a first root and targets; say False where there is a root already.

        Raises what `check_first_root` and `check_targets` raise.
        """
        store.take_trust(tx)
        if store.list_roots(tx):
            return False
        first = documents.read(Root, root)
        core.check_first_root(first, self._keys(), now)
        above = documents.read(Targets, targets)
        core.check_targets(None, above, root=first.signed, latest={}, now=now)
        keys = self._online(first.signed, above.signed)
        begun = repository.found(first, above, keys, now, lifetimes=self._lifetimes)
        self._save(tx, None, begun, now, cause="founded")
        return True

    def add_bundle(self, tx: Transaction, manifest: Manifest, bundle: Digest, now: float) -> None:
        """Vouch for a bundle that was sealed or imported; twice is the same as once."""
        cause = f"{manifest.model}:{manifest.version} for {manifest.profile.name}"
        self.add_bundles(tx, {bundle: manifest}, now, cause=cause)

    def add_bundles(
        self, tx: Transaction, bundles: Mapping[Digest, Manifest], now: float, *, cause: str
    ) -> None:
        """Vouch for bundles in one change; those that were added before stay as they are."""
        store.take_trust(tx)
        known = self._latest(tx, bundles)
        new = {
            bundle: listing_of_manifest(manifest)
            for bundle, manifest in bundles.items()
            if bundle not in known
        }
        if new:
            self._change(tx, new, now, cause=cause)

    def release(
        self,
        tx: Transaction,
        alias: AliasName,
        bundles: Collection[Digest],
        *,
        now: float,
        needs: Mapping[AliasName, int] = MappingProxyType({}),
    ) -> int:
        """Make the bundles of one version a release under `alias`; return its counter.

        A version that was released under the alias before keeps its counter. Raises
        `UnknownBundle` for one that was never added.
        """
        store.take_trust(tx)
        listings = self._latest(tx, bundles)
        for bundle in bundles:
            if bundle not in listings:
                raise UnknownBundle(bundle)
        counters = {_counter(tx, alias, listing, now) for listing in listings.values()}
        (counter,) = counters  # The bundles are of one version.
        changed = {
            bundle: repository.released(listing, alias, counter, needs)
            for bundle, listing in listings.items()
        }
        self._change(tx, changed, now, cause=f"release {counter} of {alias}")
        return counter

    def unpublished(
        self, tx: Transaction, alias: AliasName, bundles: Collection[Digest]
    ) -> tuple[Digest, ...]:
        """Return those bundles that no device would take under `alias` yet.

        Their bins wait for the bundle key's signature.
        """
        published = self.repository(tx, bundles)
        return tuple(
            bundle
            for bundle in bundles
            if (listing := repository.listing_of(published, bundle)) is None
            or alias not in listing.target.releases
        )

    def repository(self, tx: Transaction, bundles: Collection[Digest] = ()) -> Repository:
        """Return what is published, with the bins of `bundles`; raise `NotFounded`."""
        return self._read(tx, {bin_of(bundle) for bundle in bundles})

    def director(self, tx: Transaction) -> Ed25519PrivateKey:
        """Return the key that signs orders, as root names it; raise `NoOnlineKey`."""
        root = _newest_root(tx).signed
        return self._held("director", root.wherry.director.keyids)

    def held(self) -> frozenset[KeyId]:
        """Return which keys can sign by themselves now."""
        return frozenset(self._keys())

    def vouches_at_once(self, tx: Transaction) -> bool:
        """Say whether devices take what is added at once, or its bin waits for the bundle key."""
        return self._keys_of(self.repository(tx)).bundle is not None

    def waiting(self, tx: Transaction) -> Sequence[MetadataRecord]:
        """Return the bins that wait for the bundle key's signature, the newest version of each."""
        return list({record.role: record for record in store.list_waiting(tx)}.values())

    def resign(self, tx: Transaction, now: float) -> bool:
        """Sign anew what is at half of its life; say whether anything was published.

        A stale bin of a key that is kept apart is made to wait.
        """
        store.take_trust(tx)
        before = self._read(tx, self._old_bins(tx, now))
        keys = self._keys_of(before)
        if keys.bundle is None:
            self._let_stale_bins_wait(tx, before, now)
        after = repository.resign(before, keys, now)
        if after is before:
            return False
        self._save(tx, before, after, now, cause="half of a life is over")
        return True

    def _old_bins(self, tx: Transaction, now: float) -> Collection[RoleName] | None:
        """Return the bins that may be stale; at first all, for a lifetime may be another now."""
        if not self._has_read_all:
            self._has_read_all = True
            return None
        return store.list_made_before(tx, now - self._lifetimes.bins_s / 2)

    def publish(self, tx: Transaction, files: Sequence[bytes], now: float) -> tuple[str, ...]:
        """Publish metadata that was signed elsewhere; return its names, as `root/3`.

        Files may be copies of one document with different signatures. Nothing is published
        unless all is sound, and unless a device could follow. Raises what `core.trust` raises,
        and `NothingWaits` for a bin that this controller did not make.
        """
        store.take_trust(tx)
        before = self._read(tx, None)
        waiting = store.list_waiting(tx)
        offered = offering.sort_out(files, waiting)
        after = offering.accepted(
            before,
            offered,
            waiting=waiting,
            online=self._online,
            held=self.held(),
            latest=_latest_counters(tx),
            now=now,
        )
        if after is not before:
            self._save(tx, before, after, now, cause="published")
        return offered.names

    def _change(
        self, tx: Transaction, listings: Mapping[Digest, Listing], now: float, *, cause: str
    ) -> None:
        """Say this of these bundles: at once, or as soon as the bundle key has signed."""
        roles = {bin_of(bundle) for bundle in listings}
        published = self._read(tx, roles)
        newest = replace(published, bins={**published.bins, **_waiting_bins(tx, roles)})
        changed = repository.changed_bins(newest, listings, now)
        keys = self._keys_of(published)
        bins = repository.sign_bins(changed, keys)
        if keys.bundle is None:
            _let_wait(tx, bins, now)
        elif bins:
            after = repository.with_bins(published, bins, keys, now)
            self._save(tx, published, after, now, cause=cause)

    def _let_stale_bins_wait(self, tx: Transaction, published: Repository, now: float) -> None:
        waiting = {record.role for record in store.list_waiting(tx)}
        stale = repository.stale_bins(published, now)
        new = {role: document for role, document in stale.items() if role not in waiting}
        _let_wait(tx, {role: documents.sign(document) for role, document in new.items()}, now)

    def _latest(self, tx: Transaction, bundles: Collection[Digest]) -> dict[Digest, Listing]:
        """Return what was last said of each bundle, published or waiting."""
        roles = {bin_of(bundle) for bundle in bundles}
        published = self._read(tx, roles)
        newest = replace(published, bins={**published.bins, **_waiting_bins(tx, roles)})
        found = {bundle: repository.listing_of(newest, bundle) for bundle in bundles}
        return {bundle: listing for bundle, listing in found.items() if listing is not None}

    def _read(self, tx: Transaction, bins: Collection[RoleName] | None) -> Repository:
        """Return what is published with these bins, with all of them for None."""
        roots = tuple(documents.read(Root, record.data) for record in store.list_roots(tx))
        if not roots:
            raise NotFounded
        top = store.list_published(tx, (TARGETS, SNAPSHOT, TIMESTAMP))
        snapshot = documents.read(Snapshot, top[SNAPSHOT].data)
        there = repository.versions_of(snapshot.signed).keys() - {TARGETS}
        wanted = there if bins is None else there & set(bins)
        records = store.list_published(tx, wanted).values()
        return Repository(
            roots=roots,
            targets=documents.read(Targets, top[TARGETS].data),
            bins={record.role: documents.read(Bin, record.data) for record in records},
            snapshot=snapshot,
            timestamp=documents.read(Timestamp, top[TIMESTAMP].data),
            lifetimes=self._lifetimes,
        )

    def _keys_of(self, published: Repository) -> OnlineKeys:
        return self._online(published.root.signed, published.targets.signed)

    def _online(self, root: Root, targets: Targets) -> OnlineKeys:
        """Return the keys that sign by themselves under this root and these targets."""
        bins = targets.delegations.succinct_roles
        held = self._keys()
        here = [held[keyid] for keyid in bins.keyids if keyid in held]
        return OnlineKeys(
            snapshot=self._held("snapshot", root.roles["snapshot"].keyids),
            timestamp=self._held("timestamp", root.roles["timestamp"].keyids),
            bundle=here[0] if here and bins.threshold == 1 else None,
        )

    def _held(self, role: str, keyids: Sequence[KeyId]) -> Ed25519PrivateKey:
        held = self._keys()
        for keyid in keyids:
            if keyid in held:
                return held[keyid]
        raise core.NoOnlineKey(role, keyids)

    def _save(
        self,
        tx: Transaction,
        before: Repository | None,
        after: Repository,
        now: float,
        *,
        cause: str,
    ) -> None:
        """Write down what changed, and note it in the audit log."""
        new = _new_metadata(before, after)
        for (role, version), data in new.items():
            store.save_published(tx, role, version, data, now)
        facts: dict[str, str] = {role: str(version) for role, version in new}
        audit.note(tx, Kind.SIGNED, {"cause": cause, **facts}, now)
        log.info("trust.published", extra={"cause": cause, **facts})


def _new_metadata(
    before: Repository | None, after: Repository
) -> dict[tuple[RoleName, int], bytes]:
    known = {} if before is None else _pieces_of(before)
    return {name: data for name, data in _pieces_of(after).items() if known.get(name) != data}


def _pieces_of(published: Repository) -> dict[tuple[RoleName, int], bytes]:
    pieces = {(ROOT, root.signed.version): root.data for root in published.roots}
    pieces |= {(role, one.signed.version): one.data for role, one in published.bins.items()}
    pieces[TARGETS, published.targets.signed.version] = published.targets.data
    pieces[SNAPSHOT, published.snapshot.signed.version] = published.snapshot.data
    pieces[TIMESTAMP, published.timestamp.signed.version] = published.timestamp.data
    return pieces


def _newest_root(tx: Transaction) -> Metadata[Root]:
    roots = store.list_roots(tx)
    if not roots:
        raise NotFounded
    return documents.read(Root, roots[-1].data)


def _waiting_bins(tx: Transaction, roles: Collection[RoleName]) -> dict[RoleName, Metadata[Bin]]:
    records = (record for record in store.list_waiting(tx) if record.role in roles)
    return {record.role: documents.read(Bin, record.data) for record in records}


def _let_wait(tx: Transaction, bins: Mapping[RoleName, Metadata[Bin]], now: float) -> None:
    for role, held in bins.items():
        store.save_waiting(tx, role, held.signed.version, held.data, now)
        log.info("trust.waits", extra={"role": role, "version": held.signed.version})


def _counter(tx: Transaction, alias: AliasName, listing: Listing, now: float) -> int:
    """Return the release counter of a bundle's version under an alias, a new one if it has none."""
    target = listing.target
    known = store.get_release(tx, alias, target.model, target.version)
    if known is not None:
        return known.counter
    counter = store.latest_counter(tx, alias) + 1
    record = ReleaseRecord(
        alias=alias,
        model=target.model,
        version=target.version,
        counter=counter,
        released_at=now,
    )
    store.save_release(tx, record)
    return counter


def _latest_counters(tx: Transaction) -> dict[AliasName, int]:
    return {record.alias: record.counter for record in store.list_releases(tx)}
