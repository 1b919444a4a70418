"""Metadata is bounded, unambiguous and of the right type, or refused by name."""

from __future__ import annotations

import json

import pytest

from tests.builders import A_TIME, a_bundle_of, a_digest, a_key
from tests.trusted import EVIL_KEY, TIMESTAMP_KEY, a_repository, a_root, a_targets
from wherry import codec, signing
from wherry.reasons import Reason
from wherry.trust import metadata
from wherry.trust.documents import sign
from wherry.trust.metadata import (
    Root,
    Snapshot,
    Targets,
    Timestamp,
    parse,
    verify,
)
from wherry.trust.refusals import MetadataRefused

BUNDLE = a_bundle_of()
REPOSITORY = a_repository([BUNDLE])
DATA: dict[str, bytes] = {
    "root": REPOSITORY.root.data,
    "timestamp": REPOSITORY.timestamp.data,
    "snapshot": REPOSITORY.snapshot.data,
    "targets": REPOSITORY.targets.data,
}


def parsed(role: str, data: bytes) -> object:
    """Return what `role` says in `data`."""
    match role:
        case "root":
            return parse(Root, role, data).signed
        case "timestamp":
            return parse(Timestamp, role, data).signed
        case "snapshot":
            return parse(Snapshot, role, data).signed
        case _:
            return parse(Targets, role, data).signed


def reason_of(kind: type[Timestamp], data: bytes, role: str = "timestamp") -> Reason:
    with pytest.raises(MetadataRefused) as refused:
        parse(kind, role, data)
    assert refused.value.role == role
    return refused.value.reason


def a_timestamp(**changes: object) -> bytes:
    """Return a timestamp with other fields, signed as they are."""
    document = json.loads(REPOSITORY.timestamp.data)
    document["signed"] |= changes
    signed = codec.encode(document["signed"])
    signature = {
        "keyid": signing.key_id(TIMESTAMP_KEY.public_key()),
        "sig": TIMESTAMP_KEY.sign(json.dumps(document["signed"], sort_keys=True).encode()).hex(),
    }
    return b'{"signatures":' + codec.encode([signature]) + b',"signed":' + signed + b"}"


def test_what_we_write_is_what_a_device_reads() -> None:
    kinds = [type(parsed(role, data)) for role, data in DATA.items()]
    assert kinds == [Root, Timestamp, Snapshot, Targets]


@pytest.mark.parametrize("role", DATA)
def test_a_role_is_not_taken_for_another(role: str) -> None:
    for other, data in DATA.items():
        if other != role:
            with pytest.raises(MetadataRefused) as refused:
                parsed(role, data)
            assert refused.value.reason is Reason.MALFORMED_METADATA


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"signed": {"_type": "timestamp"}, "signatures": []}',
        b"[" * 100_000,
        b'{"signed": ' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_no_metadata_is_malformed(data: bytes) -> None:
    assert reason_of(Timestamp, data[: 1 << 14]) is Reason.MALFORMED_METADATA


def test_metadata_that_is_too_long_is_malformed_however_good() -> None:
    data = REPOSITORY.timestamp.data
    allowed = metadata.largest_bytes("timestamp")
    parse(Timestamp, "timestamp", data + b" " * (allowed - len(data)))
    long = data + b" " * (allowed - len(data) + 1)
    assert reason_of(Timestamp, long) is Reason.MALFORMED_METADATA


def test_a_key_that_stands_twice_anywhere_is_malformed() -> None:
    for found, twice in (
        (b'"signed":', b'"signed":{},"signed":'),
        (b'"length":', b'"length":1,"length":'),
        (b'"keyid":', b'"keyid":"","keyid":'),
    ):
        data = REPOSITORY.timestamp.data.replace(found, twice, 1)
        assert data != REPOSITORY.timestamp.data
        assert reason_of(Timestamp, data) is Reason.MALFORMED_METADATA


LARGEST = metadata.LARGEST_VERSION


@pytest.mark.parametrize("version", [LARGEST + 1, 2**53, 2**63, 10**30])
def test_a_version_that_no_topic_can_name_is_malformed(version: int) -> None:
    meta = json.loads(REPOSITORY.timestamp.data)["signed"]["meta"]
    meta["snapshot.json"]["version"] = version
    assert reason_of(Timestamp, a_timestamp(version=version)) is Reason.MALFORMED_METADATA
    assert reason_of(Timestamp, a_timestamp(meta=meta)) is Reason.MALFORMED_METADATA
    assert parse(Timestamp, "timestamp", a_timestamp(version=LARGEST)).signed.version == LARGEST


def test_a_snapshot_that_names_such_a_version_is_malformed() -> None:
    document = json.loads(DATA["snapshot"])
    document["signed"]["meta"]["targets.json"]["version"] = LARGEST + 1
    with pytest.raises(MetadataRefused) as refused:
        parse(Snapshot, "snapshot", codec.encode(document))
    assert refused.value.reason is Reason.MALFORMED_METADATA


@pytest.mark.parametrize("role", DATA)
def test_of_metadata_as_we_write_it_everything_is_kept(role: str) -> None:
    assert metadata.kept(role, DATA[role]) == DATA[role].decode()


def test_what_nobody_signed_is_not_kept() -> None:
    document = json.loads(DATA["timestamp"])
    document["signatures"][0]["note"] = document["note"] = "of a stranger"
    kept = metadata.kept("timestamp", codec.encode(document))
    assert json.loads(kept) == json.loads(DATA["timestamp"])


def test_metadata_by_too_few_keys_is_untrusted() -> None:
    root = parse(Root, "root", REPOSITORY.root.data).signed
    for data in (a_root(signed_by=()).data, a_root(signed_by=[EVIL_KEY]).data):
        with pytest.raises(MetadataRefused) as refused:
            verify(root, "root", parse(Root, "root", data))
        assert refused.value.reason is Reason.UNTRUSTED_METADATA


def test_a_number_that_canonical_json_lacks_is_malformed() -> None:
    root = parse(Root, "root", REPOSITORY.root.data).signed
    with pytest.raises(MetadataRefused) as refused:
        verify(root, "timestamp", parse(Timestamp, "timestamp", a_timestamp(more=1.5)))
    assert refused.value.reason is Reason.MALFORMED_METADATA


def test_what_a_timestamp_says_of_its_time_is_read_and_nothing_else_is_taken_for_it() -> None:
    stamp = parse(Timestamp, "timestamp", REPOSITORY.timestamp.data).signed
    assert metadata.issued_of(stamp) == A_TIME
    assert metadata.issued_of(parse(Root, "root", REPOSITORY.root.data).signed) == 0
    fields: tuple[object, ...] = (
        [],
        {"issued": "now"},
        {"issued": -1},
        {"issued": 1 << 60},
        None,
        3,
    )
    for field in fields:
        odd = parse(Timestamp, "timestamp", a_timestamp(wherry=field)).signed
        with pytest.raises(MetadataRefused) as refused:
            metadata.issued_of(odd)
        assert refused.value.reason is Reason.MALFORMED_METADATA


def test_targets_without_bins_list_their_bundles_themselves() -> None:
    targets = parse(Targets, "targets", REPOSITORY.targets.data).signed
    assert metadata.bin_of(targets, a_digest()).startswith("bins-")
    flat = next(iter(REPOSITORY.bins.values()))
    assert metadata.bin_of(parse(Targets, "bin", flat.data).signed, a_digest()) == "targets"
    document = json.loads(DATA["targets"])
    document["signed"]["delegations"] = {"keys": {}, "roles": []}  # As others delegate: by name.
    named = parse(Targets, "targets", codec.encode(document)).signed
    assert metadata.bin_of(named, a_digest()) == "targets"


def test_a_refusal_says_what_and_why_and_what_to_do() -> None:
    with pytest.raises(MetadataRefused, match=r"timestamp metadata is refused \(malformed"):
        parse(Timestamp, "timestamp", b"")


def test_every_role_is_signed_by_its_own_key_only() -> None:
    root = parse(Root, "root", REPOSITORY.root.data).signed
    foreign = sign(a_targets().signed, a_key(112))
    with pytest.raises(MetadataRefused) as refused:
        verify(root, "targets", parse(Targets, "targets", foreign.data))
    assert refused.value.reason is Reason.UNTRUSTED_METADATA
