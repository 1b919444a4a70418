"""What the repository signs is TUF as python-tuf reads it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tuf.api.metadata import Metadata as TheirMetadata
from tuf.api.metadata import Root as TheirRoot
from tuf.api.metadata import Targets as TheirTargets

from tests.builders import A_TIME, a_bundle_of, an_alias
from tests.trusted import EVIL_KEY, ONLINE, ROOT_KEYS, a_repository, a_root
from wherry import codec
from wherry.codec import BadDocument
from wherry.names import parse_version_name
from wherry.signing import Signature
from wherry.trust import documents
from wherry.trust.documents import Metadata, Root, add_signature, canonical, merge_signatures, sign
from wherry.trust.making import DAY_S
from wherry.trust.repository import bin_of, latest_release, listing_of, release, resign

BUNDLES = [
    a_bundle_of(b"weights" * number, version=parse_version_name(f"v{number}"))
    for number in range(1, 6)
]
REPOSITORY = a_repository(BUNDLES)


def test_python_tuf_verifies_every_role() -> None:
    root = TheirMetadata[TheirRoot].from_bytes(REPOSITORY.root.data)
    targets = TheirMetadata[TheirTargets].from_bytes(REPOSITORY.targets.data)
    root.verify_delegate("root", root)
    root.verify_delegate("targets", targets)
    for role, held in (("snapshot", REPOSITORY.snapshot), ("timestamp", REPOSITORY.timestamp)):
        root.verify_delegate(role, TheirMetadata.from_bytes(held.data))
    for role, one in REPOSITORY.bins.items():
        targets.verify_delegate(role, TheirMetadata.from_bytes(one.data))


def test_what_is_signed_is_canonical_json() -> None:
    for held in (REPOSITORY.root, REPOSITORY.targets, REPOSITORY.snapshot, REPOSITORY.timestamp):
        assert TheirMetadata.from_bytes(held.data).signed_bytes == canonical(held.signed)


def test_a_bundle_is_in_the_bin_where_python_tuf_looks_for_it() -> None:
    targets = TheirMetadata[TheirTargets].from_bytes(REPOSITORY.targets.data).signed
    assert targets.delegations is not None and targets.delegations.succinct_roles is not None
    for bundle in BUNDLES:
        there = targets.delegations.succinct_roles.get_role_for_target(bundle.digest)
        assert there == bin_of(bundle.digest)


def test_a_version_keeps_its_counter() -> None:
    again = release(REPOSITORY, an_alias(), [BUNDLES[1].digest], ONLINE, A_TIME)
    listing = listing_of(again, BUNDLES[1].digest)
    assert listing is not None and listing.target.releases == {an_alias(): 2}
    assert latest_release(again, an_alias()) == 5


def test_what_is_fresh_is_not_signed_anew() -> None:
    assert resign(REPOSITORY, ONLINE, A_TIME + 3.4 * DAY_S) is REPOSITORY
    assert resign(REPOSITORY, ONLINE, A_TIME + 3.6 * DAY_S) != REPOSITORY


def test_copies_lend_each_other_their_signatures_once() -> None:
    bare = sign(a_root().signed).data
    copies = [add_signature(bare, key) for key in ROOT_KEYS]
    merged = merge_signatures(merge_signatures(copies[0], copies[1]), copies[0])
    root = documents.read(Root, merged).signed
    assert len(documents.signers(merged, root.keys, root.roles["root"])) == 2
    with pytest.raises(BadDocument):
        merge_signatures(copies[0], a_root(2).data)


def test_only_valid_signatures_of_the_roles_keys_count() -> None:
    held: Metadata[Root] = sign(a_root().signed, ROOT_KEYS[0], EVIL_KEY)
    root = held.signed
    known = documents.signers(held.data, root.keys, root.roles["root"])
    assert len(known) == 1
    altered = held.data.replace(b'"sig":"', b'"sig":"00', 1)
    assert not documents.signers(altered, root.keys, root.roles["root"])


def test_one_key_under_two_ids_counts_once() -> None:
    known = a_root().signed
    first, second, _ = known.roles["root"].keyids
    doubled = replace(known, keys={**known.keys, second: known.keys[first]})
    signature = ROOT_KEYS[0].sign(canonical(doubled)).hex()
    listed = codec.encode([Signature(keyid, signature) for keyid in (first, second)])
    data = b'{"signatures":' + listed + b',"signed":' + canonical(doubled) + b"}"
    assert documents.signers(data, doubled.keys, doubled.roles["root"]) == {first}
