"""The repository behind the fleet: what it vouches for, and what it publishes of others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from tests.builders import A_TIME, a_bundle_of, a_key, a_profile, an_alias
from tests.controller.stores import a_store, add_version
from tests.trusted import (
    BUNDLE_KEY,
    DIRECTOR_KEY,
    EVIL_KEY,
    ROOT_KEYS,
    SNAPSHOT_KEY,
    TARGETS_KEY,
    TIMESTAMP_KEY,
    a_root,
    a_targets,
    the_holders,
)
from wherry import signing
from wherry.bundle import Bundle
from wherry.names import parse_profile_name, parse_version_name
from wherry.trust import documents, repository, workflow
from wherry.trust.documents import Bin, Metadata, Root, Targets, add_signature
from wherry.trust.making import DAY_S, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, make_bin
from wherry.trust.refusals import MetadataRefused
from wherry.trust.repository import bin_of, pieces_for
from wherry_controller.core.trust import (
    ExpiredAlready,
    LowerMinimum,
    NoOnlineKey,
    NoSuchRelease,
    OnlineThreshold,
    OtherBins,
    TooFewSignatures,
    WrongVersion,
)
from wherry_controller.services.missing import UnknownBundle
from wherry_controller.services.offering import NothingWaits
from wherry_controller.services.trust import NotFounded, Trust
from wherry_controller.store import audit
from wherry_controller.store import trust as kept
from wherry_controller.store.database import Store

ALIAS = an_alias("digits")
ONLINE = (SNAPSHOT_KEY, TIMESTAMP_KEY, DIRECTOR_KEY)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = a_store(tmp_path)
    with store.transaction() as tx:
        add_version(tx, "v1")
        add_version(tx, "v2")
    yield store
    store.close()


def a_trust(store: Store, *keys: Ed25519PrivateKey) -> Trust:
    """Return a founded one that holds the online keys and `keys`, the bundle key by default."""
    held = {signing.key_id(key.public_key()): key for key in (*ONLINE, *(keys or (BUNDLE_KEY,)))}
    trust = Trust(lambda: held)
    with store.transaction() as tx:
        trust.found(tx, a_root().data, a_targets().data, A_TIME)
    return trust


def a_version(name: str = "v1", data: bytes = b"weights") -> tuple[Bundle, Bundle]:
    """Return the bundles of one version for two profiles."""
    version = parse_version_name(name)
    other = a_profile(name=parse_profile_name("pi-onnx-fp32"))
    first = a_bundle_of(data + name.encode(), version=version)
    return first, a_bundle_of(data + name.encode(), version=version, profile=other)


def add(store: Store, trust: Trust, bundles: Sequence[Bundle]) -> None:
    with store.transaction() as tx:
        for bundle in bundles:
            trust.add_bundle(tx, bundle.manifest, bundle.digest, A_TIME)


def release(store: Store, trust: Trust, bundles: Sequence[Bundle]) -> int:
    with store.transaction() as tx:
        return trust.release(tx, ALIAS, [bundle.digest for bundle in bundles], now=A_TIME)


def published(store: Store, trust: Trust, *bundles: Bundle) -> repository.Repository:
    with store.reading() as tx:
        return trust.repository(tx, [bundle.digest for bundle in bundles])


def everything(store: Store) -> tuple[object, ...]:
    """Return all that `Trust` keeps, to see that nothing changed."""
    with store.reading() as tx:
        rows = kept.list_published(tx, (ROOT, TARGETS, SNAPSHOT, TIMESTAMP))
        return rows, kept.list_roots(tx), kept.list_waiting(tx), kept.list_releases(tx)


def follow(held: repository.Repository) -> workflow.TrustedSet:
    """Follow a repository from its first root as a device does."""
    trusted = workflow.begin(held.roots[0].data)
    for root in held.roots[1:]:
        trusted = workflow.update_root(trusted, root.data)
    trusted = workflow.update_timestamp(trusted, held.timestamp.data, A_TIME)
    trusted = workflow.update_snapshot(trusted, held.snapshot.data, A_TIME)
    trusted = workflow.update_targets(trusted, "targets", held.targets.data, A_TIME)
    for role, one in held.bins.items():
        trusted = workflow.update_targets(trusted, role, one.data, A_TIME)
    return trusted


def test_a_sealed_bundle_is_vouched_for_without_being_a_release(store: Store) -> None:
    trust, (bundle, _) = a_trust(store), a_version()
    add(store, trust, [bundle])
    held = published(store, trust, bundle)
    listing = repository.listing_of(held, bundle.digest)
    assert listing is not None and listing.target.releases == {}
    assert bundle.digest in follow(held).targets[bin_of(bundle.digest)].targets


def test_a_bundle_that_is_added_twice_changes_nothing(store: Store) -> None:
    trust, bundles = a_trust(store), a_version()
    add(store, trust, bundles)
    before = everything(store)
    add(store, trust, bundles)
    assert everything(store) == before


def test_a_release_counts_all_bundles_of_a_version_as_one(store: Store) -> None:
    trust = a_trust(store)
    for name in ("v1", "v2"):
        add(store, trust, a_version(name))
    assert [release(store, trust, a_version(name)) for name in ("v1", "v2", "v1")] == [1, 2, 1]
    for bundle in a_version("v2"):
        listing = repository.listing_of(published(store, trust, bundle), bundle.digest)
        assert listing is not None and listing.target.releases == {ALIAS: 2}
        with store.reading() as tx:
            assert trust.unpublished(tx, ALIAS, [bundle.digest]) == ()


def test_a_bundle_that_was_never_added_is_not_released(store: Store) -> None:
    trust = a_trust(store)
    with pytest.raises(UnknownBundle):
        release(store, trust, a_version())
    with store.reading() as tx:
        assert kept.list_releases(tx) == []


def test_a_release_falls_with_the_transaction_that_made_it(store: Store) -> None:
    trust, bundles = a_trust(store), a_version()
    add(store, trust, bundles)
    before = everything(store)
    with contextlib.suppress(ZeroDivisionError), store.transaction() as tx:
        trust.release(tx, ALIAS, [bundles[0].digest], now=A_TIME)
        raise ZeroDivisionError
    assert everything(store) == before


def test_every_signature_is_noted_in_the_audit_log(store: Store) -> None:
    trust, bundles = a_trust(store), a_version()
    add(store, trust, bundles[:1])
    with store.reading() as tx:
        newest = audit.newest_entries(tx)[0]
    assert '"kind":"signed"' in newest and bin_of(bundles[0].digest) in newest


class TestKeptApart:
    """The bundle key is on another machine."""

    @pytest.fixture
    def trust(self, store: Store) -> Trust:
        return a_trust(store, a_key(9))

    def waiting(self, store: Store, trust: Trust) -> list[bytes]:
        with store.reading() as tx:
            return [record.data for record in trust.waiting(tx)]

    def test_a_bundle_waits_for_its_signature(self, store: Store, trust: Trust) -> None:
        bundle, _ = a_version()
        before = published(store, trust)
        add(store, trust, [bundle])
        release(store, trust, [bundle])
        with store.reading() as tx:
            assert trust.unpublished(tx, ALIAS, [bundle.digest]) == (bundle.digest,)
        assert published(store, trust, bundle) == before

    def test_it_is_published_once_it_is_signed(self, store: Store, trust: Trust) -> None:
        bundle, _ = a_version()
        add(store, trust, [bundle])
        release(store, trust, [bundle])
        signed = [add_signature(data, BUNDLE_KEY) for data in self.waiting(store, trust)]
        with store.transaction() as tx:
            trust.publish(tx, signed, A_TIME)
            assert trust.unpublished(tx, ALIAS, [bundle.digest]) == ()
            assert not trust.waiting(tx)
        follow(published(store, trust, bundle))

    def test_what_changes_meanwhile_waits_on(self, store: Store, trust: Trust) -> None:
        bundle, _ = a_version()
        add(store, trust, [bundle])
        signed = [add_signature(data, BUNDLE_KEY) for data in self.waiting(store, trust)]
        release(store, trust, [bundle])
        with store.transaction() as tx:
            trust.publish(tx, signed, A_TIME)
            assert trust.unpublished(tx, ALIAS, [bundle.digest]) == (bundle.digest,)
            (record,) = trust.waiting(tx)
        assert documents.read(Bin, record.data).signed.version == 2

    def test_a_bin_that_another_key_signed_is_refused(self, store: Store, trust: Trust) -> None:
        add(store, trust, a_version())
        before = everything(store)
        signed = [add_signature(data, EVIL_KEY) for data in self.waiting(store, trust)]
        with pytest.raises(TooFewSignatures), store.transaction() as tx:
            trust.publish(tx, signed, A_TIME)
        assert everything(store) == before

    def test_what_no_device_could_follow_is_not_published(self, store: Store, trust: Trust) -> None:
        add(store, trust, a_version()[:1])
        before = everything(store)
        signed = [add_signature(data, BUNDLE_KEY) for data in self.waiting(store, trust)]
        with pytest.raises(MetadataRefused), store.transaction() as tx:
            trust.publish(tx, signed, A_TIME + 366 * DAY_S)
        assert everything(store) == before

    def test_a_bin_that_does_not_wait_is_refused(self, store: Store, trust: Trust) -> None:
        before = everything(store)
        strange = make_bin({}, A_TIME, version=1, lifetime_s=DAY_S)
        with pytest.raises(NothingWaits), store.transaction() as tx:
            trust.publish(tx, [documents.sign(strange, BUNDLE_KEY).data], A_TIME)
        assert everything(store) == before

    def test_a_stale_bin_waits_to_be_signed_anew(self, store: Store, trust: Trust) -> None:
        add(store, trust, a_version()[:1])
        signed = [add_signature(data, BUNDLE_KEY) for data in self.waiting(store, trust)]
        with store.transaction() as tx:
            trust.publish(tx, signed, A_TIME)
            trust.resign(tx, A_TIME + 183 * DAY_S)
            (record,) = trust.waiting(tx)
        assert documents.read(Bin, record.data).signed.version == 2

    def test_a_bin_is_stale_by_when_it_was_made_not_published(
        self, store: Store, trust: Trust
    ) -> None:
        add(store, trust, a_version()[:1])
        signed = [add_signature(data, BUNDLE_KEY) for data in self.waiting(store, trust)]
        with store.transaction() as tx:
            trust.resign(tx, A_TIME)
            trust.publish(tx, signed, A_TIME + 2 * DAY_S)
            trust.resign(tx, A_TIME + 183 * DAY_S)
            assert trust.waiting(tx)

    def test_targets_that_name_a_key_that_is_here_end_the_waiting(
        self, store: Store, trust: Trust
    ) -> None:
        bundle, _ = a_version()
        add(store, trust, [bundle])
        with store.transaction() as tx:
            trust.publish(tx, [a_targets(2, bundle=a_key(9)).data], A_TIME)
            assert not trust.waiting(tx)
        assert (
            bundle.digest
            in follow(published(store, trust, bundle)).targets[bin_of(bundle.digest)].targets
        )

    def test_targets_may_not_drop_the_key_that_signed_what_is_published(
        self, store: Store, trust: Trust
    ) -> None:
        add(store, trust, a_version()[:1])
        signed = [add_signature(data, BUNDLE_KEY) for data in self.waiting(store, trust)]
        with store.transaction() as tx:
            trust.publish(tx, signed, A_TIME)
        before = everything(store)
        with pytest.raises(TooFewSignatures), store.transaction() as tx:
            trust.publish(tx, [a_targets(2, bundle=a_key(8)).data], A_TIME)
        assert everything(store) == before


def test_online_roles_are_signed_anew_at_half_of_their_life(store: Store) -> None:
    trust = a_trust(store)
    add(store, trust, a_version())
    with store.transaction() as tx:
        assert not trust.resign(tx, A_TIME + 3.4 * DAY_S)
        assert trust.resign(tx, A_TIME + 3.6 * DAY_S)
    held = published(store, trust)
    assert (held.timestamp.signed.version, held.snapshot.signed.version) == (4, 3)
    with store.transaction() as tx:
        assert trust.resign(tx, A_TIME + 15.1 * DAY_S)
    assert published(store, trust).snapshot.signed.version == 4
    with store.transaction() as tx:
        assert trust.resign(tx, A_TIME + 183 * DAY_S)
    renewed = published(store, trust, *a_version())
    assert {one.signed.version for one in renewed.bins.values()} == {2}


def test_a_minimum_is_published_with_new_targets(store: Store) -> None:
    trust = a_trust(store)
    add(store, trust, a_version())
    release(store, trust, a_version())
    with store.transaction() as tx:
        names = trust.publish(tx, [a_targets(2, min_release={ALIAS: 1}).data], A_TIME)
    assert names == ("targets/2",)
    assert published(store, trust).targets.signed.wherry.min_release == {ALIAS: 1}
    follow(published(store, trust))


def test_what_is_published_already_changes_nothing(store: Store) -> None:
    trust = a_trust(store)
    before = everything(store)
    with store.transaction() as tx:
        trust.publish(tx, [a_root().data, a_targets().data], A_TIME)
    assert everything(store) == before


def test_copies_of_a_root_with_one_signature_each_are_enough_together(store: Store) -> None:
    trust = a_trust(store)
    copies = [a_root(2, signed_by=[key]).data for key in ROOT_KEYS[1:]]
    with store.transaction() as tx:
        with pytest.raises(TooFewSignatures) as refused:
            trust.publish(tx, copies[:1], A_TIME)
        assert len(refused.value.missing) == 2
        assert trust.publish(tx, copies, A_TIME) == ("root/2",)
    follow(published(store, trust))


def test_a_new_timestamp_key_takes_over_with_the_root_that_names_it(store: Store) -> None:
    trust = a_trust(store, BUNDLE_KEY, a_key(77))
    root = a_root(2, holders=the_holders(timestamp=a_key(77)))
    with store.transaction() as tx:
        trust.publish(tx, [root.data], A_TIME)
    follow(published(store, trust))


def test_a_director_is_the_one_that_root_names(store: Store) -> None:
    trust = a_trust(store, BUNDLE_KEY, a_key(78))
    with store.transaction() as tx:
        assert trust.director(tx) is DIRECTOR_KEY
        trust.publish(tx, [a_root(2, holders=the_holders(director=a_key(78))).data], A_TIME)
        assert signing.key_id(trust.director(tx).public_key()) == signing.key_id(
            a_key(78).public_key()
        )


def other_bins() -> Metadata[Targets]:
    document = a_targets(2).signed
    bins = replace(document.delegations.succinct_roles, bit_length=4)
    delegations = replace(document.delegations, succinct_roles=bins)
    return documents.sign(replace(document, delegations=delegations), TARGETS_KEY)


NONSENSE: dict[str, tuple[Sequence[Metadata[Root] | Metadata[Targets]], type[Exception]]] = {
    "a root that skips a version": ([a_root(3)], WrongVersion),
    "a root of one key": ([a_root(2, signed_by=ROOT_KEYS[:1])], TooFewSignatures),
    "a root of strangers": ([a_root(2, signed_by=[EVIL_KEY, a_key(201)])], TooFewSignatures),
    "a root that its own keys have not signed": (
        [a_root(2, holders=the_holders(root=[a_key(130)], root_threshold=1))],
        TooFewSignatures,
    ),
    "targets that cut the bins otherwise": ([other_bins()], OtherBins),
    "a root that expired": ([a_root(2, now=A_TIME - 366 * DAY_S)], ExpiredAlready),
    "a root with a strange timestamp key": (
        [a_root(2, holders=the_holders(timestamp=EVIL_KEY))],
        NoOnlineKey,
    ),
    "a root with a strange director": (
        [a_root(2, holders=the_holders(director=EVIL_KEY))],
        NoOnlineKey,
    ),
    "a root that drops the key of targets": (
        [a_root(2, holders=the_holders(targets=EVIL_KEY))],
        TooFewSignatures,
    ),
    "targets of a stranger": ([a_targets(2, signed_by=[EVIL_KEY])], TooFewSignatures),
    "targets that skip a version": ([a_targets(3)], WrongVersion),
    "targets that expired": ([a_targets(2, now=A_TIME - 366 * DAY_S)], ExpiredAlready),
    "a minimum above every release": ([a_targets(2, min_release={ALIAS: 2})], NoSuchRelease),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_is_refused_and_nothing_changes(store: Store, case: str) -> None:
    trust = a_trust(store)
    add(store, trust, a_version())
    release(store, trust, a_version())
    before = everything(store)
    files, error = NONSENSE[case]
    with pytest.raises(error), store.transaction() as tx:
        trust.publish(tx, [file.data for file in files], A_TIME)
    assert everything(store) == before


def test_a_minimum_only_rises(store: Store) -> None:
    trust = a_trust(store)
    add(store, trust, a_version())
    release(store, trust, a_version())
    with store.transaction() as tx:
        trust.publish(tx, [a_targets(2, min_release={ALIAS: 1}).data], A_TIME)
    with pytest.raises(LowerMinimum), store.transaction() as tx:
        trust.publish(tx, [a_targets(3).data], A_TIME)


def test_an_online_role_has_a_threshold_of_one(store: Store) -> None:
    trust = a_trust(store)
    document = documents.read(documents.Root, a_root(2).data).signed
    timestamp = documents.Role(document.roles["timestamp"].keyids, 2)
    odd = replace(document, roles={**document.roles, "timestamp": timestamp})
    with pytest.raises(OnlineThreshold), store.transaction() as tx:
        trust.publish(tx, [documents.sign(odd, *ROOT_KEYS[:2]).data], A_TIME)


def test_what_signs_by_itself_is_not_published_from_outside(store: Store) -> None:
    trust = a_trust(store)
    held = published(store, trust)
    with pytest.raises(documents.NotOfPeople), store.transaction() as tx:
        trust.publish(tx, [held.snapshot.data], A_TIME)


def test_root_and_targets_may_change_keys_together(store: Store) -> None:
    trust = a_trust(store)
    root = a_root(2, holders=the_holders(targets=a_key(120)))
    targets = a_targets(2, signed_by=[a_key(120)])
    with store.transaction() as tx:
        trust.publish(tx, [targets.data, root.data], A_TIME)
    follow(published(store, trust))


def test_a_controller_without_a_root_says_so(store: Store) -> None:
    with pytest.raises(NotFounded), store.reading() as tx:
        Trust(dict).repository(tx)


def test_pieces_are_what_a_device_misses(store: Store) -> None:
    trust = a_trust(store)
    add(store, trust, a_version())
    with store.transaction() as tx:
        trust.publish(tx, [a_root(2).data], A_TIME)
    bundle, _ = a_version()
    pieces = pieces_for(published(store, trust, bundle), [bundle.digest], root_after=1)
    role = bin_of(bundle.digest)
    assert set(pieces) == {"root/2", "targets/1", "snapshot/4", f"{role}/1"}
