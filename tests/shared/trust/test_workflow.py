"""The client workflow takes what the step before it vouched for, and nothing else."""

from __future__ import annotations

from dataclasses import replace as replaced

import pytest
from msgspec.structs import replace

from tests.builders import A_TIME, a_bundle_of
from tests.trusted import (
    SNAPSHOT_KEY,
    TIMESTAMP_KEY,
    a_repository,
    a_root,
    a_targets,
    the_holders,
)
from wherry.blobs import digest_of
from wherry.reasons import Reason
from wherry.trust import workflow
from wherry.trust.documents import Hashes, MetaFile, sign
from wherry.trust.making import DAY_S, Signers
from wherry.trust.refusals import MetadataRefused
from wherry.trust.repository import Repository, bin_of
from wherry.trust.workflow import (
    TrustedSet,
    begin,
    check_timestamp,
    promised_version,
    rotated,
    update_root,
    update_snapshot,
    update_targets,
    update_timestamp,
)

NOW = A_TIME + 60.0
BUNDLE = a_bundle_of()
REPOSITORY = a_repository([BUNDLE])
BIN = bin_of(BUNDLE.digest)


def reason_of(refused: pytest.ExceptionInfo[MetadataRefused]) -> Reason:
    return refused.value.reason


def with_timestamp(repository: Repository = REPOSITORY) -> TrustedSet:
    return update_timestamp(begin(repository.root.data), repository.timestamp.data, NOW)


def with_snapshot(repository: Repository = REPOSITORY) -> TrustedSet:
    return update_snapshot(with_timestamp(repository), repository.snapshot.data, NOW)


def promising(**files: MetaFile) -> Repository:
    """Return the repository with a snapshot that says this of other roles, and no hash of it."""
    known = REPOSITORY.snapshot.signed
    meta = {
        **known.meta,
        **{f"{role.replace('_', '-')}.json": file for role, file in files.items()},
    }
    snapshot = sign(replace(known, meta=meta), SNAPSHOT_KEY)
    bare = {"snapshot.json": MetaFile(known.version)}
    timestamp = sign(replace(REPOSITORY.timestamp.signed, meta=bare), TIMESTAMP_KEY)
    return replaced(REPOSITORY, snapshot=snapshot, timestamp=timestamp)


def test_each_role_is_taken_in_its_turn() -> None:
    trusted = update_targets(with_snapshot(), "targets", REPOSITORY.targets.data, NOW)
    trusted = update_targets(trusted, BIN, REPOSITORY.bins[BIN].data, NOW)
    assert BUNDLE.digest in trusted.targets[BIN].targets
    assert promised_version(trusted, BIN) == REPOSITORY.bins[BIN].signed.version
    assert promised_version(trusted, "bins-none") == 0
    assert promised_version(with_timestamp(), BIN) == 0


def test_metadata_expires_at_its_last_second() -> None:
    ends = A_TIME + 7 * DAY_S
    trusted = begin(REPOSITORY.root.data)
    assert update_timestamp(trusted, REPOSITORY.timestamp.data, ends - 1.0).timestamp
    with pytest.raises(MetadataRefused) as refused:
        update_timestamp(trusted, REPOSITORY.timestamp.data, ends)
    assert reason_of(refused) is Reason.EXPIRED_TIMESTAMP


def test_a_snapshot_that_goes_back_says_whether_a_role_is_older_or_gone() -> None:
    known, older = REPOSITORY.snapshot.signed, promising(targets=MetaFile(2))
    trusted = workflow.restore_snapshot(with_timestamp(older), older.snapshot.data)
    for meta, what in (
        ({**known.meta, "targets.json": MetaFile(1)}, "stood at 2 and it names 1"),
        ({f"{BIN}.json": known.meta[f"{BIN}.json"]}, "stood at 2 and it leaves it out"),
    ):
        data = sign(replace(known, meta=meta), SNAPSHOT_KEY).data
        with pytest.raises(MetadataRefused, match=what) as refused:
            update_snapshot(trusted, data, NOW)
        assert reason_of(refused) is Reason.TARGETS_ROLLBACK


def test_nothing_is_taken_before_its_turn() -> None:
    trusted = begin(REPOSITORY.root.data)
    with pytest.raises(MetadataRefused) as refused:
        update_snapshot(trusted, REPOSITORY.snapshot.data, NOW)
    assert reason_of(refused) is Reason.MIXED_METADATA
    with pytest.raises(MetadataRefused) as refused:
        update_targets(with_timestamp(), "targets", REPOSITORY.targets.data, NOW)
    assert reason_of(refused) is Reason.MIXED_METADATA


def test_a_step_leaves_the_set_before_it_as_it_was() -> None:
    before = begin(REPOSITORY.root.data)
    update_timestamp(before, REPOSITORY.timestamp.data, NOW)
    assert before == TrustedSet(before.root)


def test_a_new_root_begins_anew() -> None:
    after = update_root(with_snapshot(), a_root(2).data)
    assert (after.root.version, after.timestamp, after.snapshot) == (2, None, None)


def test_a_snapshot_must_have_the_version_that_the_timestamp_names() -> None:
    bare = promising()
    trusted = with_timestamp(bare)
    other = sign(replace(bare.snapshot.signed, version=9), SNAPSHOT_KEY)
    with pytest.raises(MetadataRefused) as refused:
        update_snapshot(trusted, other.data, NOW)
    assert reason_of(refused) is Reason.MIXED_METADATA
    assert update_snapshot(trusted, bare.snapshot.data, NOW).snapshot is not None


def test_targets_must_have_the_hash_and_length_that_the_snapshot_names() -> None:
    data = REPOSITORY.targets.data
    for promise, is_kept in (
        (MetaFile(1, len(data), Hashes(digest_of(data))), True),
        (MetaFile(1, len(data) + 1), False),
        (MetaFile(1, None, Hashes(digest_of(b"other"))), False),
    ):
        trusted = with_snapshot(promising(targets=promise))
        if is_kept:
            assert update_targets(trusted, "targets", data, NOW).targets
            continue
        with pytest.raises(MetadataRefused) as refused:
            update_targets(trusted, "targets", data, NOW)
        assert reason_of(refused) is Reason.MIXED_METADATA


def test_targets_must_have_the_version_that_the_snapshot_names() -> None:
    trusted = with_snapshot(promising(targets=MetaFile(2)))
    with pytest.raises(MetadataRefused) as refused:
        update_targets(trusted, "targets", REPOSITORY.targets.data, NOW)
    assert reason_of(refused) is Reason.MIXED_METADATA
    assert update_targets(trusted, "targets", a_targets(2).data, NOW).targets


def test_a_role_that_the_snapshot_does_not_name_is_refused() -> None:
    with pytest.raises(MetadataRefused) as refused:
        update_targets(with_snapshot(), "bins-none", REPOSITORY.bins[BIN].data, NOW)
    assert reason_of(refused) is Reason.MIXED_METADATA


@pytest.mark.parametrize(
    ("days", "reason"),
    [(8, Reason.EXPIRED_TIMESTAMP), (400, Reason.EXPIRED_ROOT)],
)
def test_what_expired_lets_nothing_after_it_in(days: int, reason: Reason) -> None:
    late = A_TIME + days * DAY_S
    with pytest.raises(MetadataRefused) as refused:
        check_timestamp(with_timestamp(), late)
    assert reason_of(refused) is reason
    with pytest.raises(MetadataRefused) as refused:
        update_snapshot(with_timestamp(), REPOSITORY.snapshot.data, late)
    assert reason_of(refused) is reason


def test_an_expired_snapshot_is_refused_and_lets_no_targets_in() -> None:
    short = replace(REPOSITORY.snapshot.signed, expires="2027-01-16T00:00:00Z")
    snapshot = sign(short, SNAPSHOT_KEY)
    repository = replaced(promising(), snapshot=snapshot)
    late = A_TIME + 5 * DAY_S
    with pytest.raises(MetadataRefused) as refused:
        update_snapshot(with_timestamp(repository), snapshot.data, late)
    assert reason_of(refused) is Reason.EXPIRED_SNAPSHOT
    trusted = with_snapshot(repository)
    with pytest.raises(MetadataRefused) as refused:
        update_targets(trusted, "targets", REPOSITORY.targets.data, late)
    assert reason_of(refused) is Reason.EXPIRED_SNAPSHOT


def test_a_stored_snapshot_that_the_timestamp_has_left_behind_lets_no_targets_in() -> None:
    stored = sign(replace(REPOSITORY.snapshot.signed, version=1), SNAPSHOT_KEY)
    trusted = workflow.restore_snapshot(with_timestamp(), stored.data)
    with pytest.raises(MetadataRefused) as refused:
        update_targets(trusted, "targets", REPOSITORY.targets.data, NOW)
    assert reason_of(refused) is Reason.MIXED_METADATA


def test_stored_metadata_is_taken_back_expired_but_never_unsigned() -> None:
    trusted = begin(REPOSITORY.root.data)
    expired = replace(REPOSITORY.timestamp.signed, expires="2001-01-01T00:00:00Z")
    assert workflow.restore_timestamp(trusted, sign(expired, TIMESTAMP_KEY).data).timestamp
    with pytest.raises(MetadataRefused):
        workflow.restore_timestamp(trusted, sign(expired, SNAPSHOT_KEY).data)
    with pytest.raises(MetadataRefused):
        workflow.restore_snapshot(trusted, sign(REPOSITORY.snapshot.signed, TIMESTAMP_KEY).data)


def test_a_role_is_rotated_when_a_key_of_it_left() -> None:
    both = Signers((TIMESTAMP_KEY.public_key(), SNAPSHOT_KEY.public_key()), 1)
    one = begin(a_root().data).root
    more = begin(a_root(holders=replaced(the_holders(), timestamp=both)).data).root
    assert not rotated(one, more, "timestamp", "snapshot")
    assert rotated(more, one, "snapshot", "timestamp")
    assert not rotated(more, one, "snapshot")
