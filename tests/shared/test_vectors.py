"""Golden vectors: the bytes that were kept are those that are read and written today."""

from __future__ import annotations

import io

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.builders import a_key
from tests.deltas import expected, rebuilt
from tests.trusted import BUNDLE_KEY, ROOT_KEYS, SNAPSHOT_KEY, TARGETS_KEY, TIMESTAMP_KEY
from tests.vectors import repository
from tests.vectors.cases import (
    FOLDER,
    BucketCase,
    Case,
    ChunkCase,
    CondensedCase,
    DeltaCase,
    EnvelopeCase,
    KeyCase,
    PacketCase,
    TokenCase,
    TopicCase,
    read,
)
from tests.vectors.documents import DOCUMENT_KINDS, documents
from tests.vectors.wire import repeated
from tests.vectors.write import files
from wherry import topics
from wherry.blobs import cut, describe, digest_of, join
from wherry.codec import decode, encode
from wherry.delta import HEAD, Kind, read_header
from wherry.enrolment import Token, parse_token, secret_digest, token_text
from wherry.histogram import bucket, lower_bound_ns
from wherry.manifest import Manifest
from wherry.messages import Desired, Order
from wherry.names import KeyId
from wherry.signing import (
    key_id,
    keyring,
    open_envelope,
    parse_private_pem,
    parse_public_pem,
    private_pem,
    public_pem,
    sign,
)
from wherry.trust import documents as trust_documents
from wherry.trust.condense import Condensed, condense, restore
from wherry.trust.device import begin
from wherry.trust.keeping import Trust
from wherry.trust.packet import pack, unpack
from wherry.trust.skeleton import SKELETON

SIGNERS = {
    "root": ROOT_KEYS,
    "targets": (TARGETS_KEY,),
    "bins": (BUNDLE_KEY,),
    "snapshot": (SNAPSHOT_KEY,),
    "timestamp": (TIMESTAMP_KEY,),
}
KINDS: dict[str, type[trust_documents.Document]] = {
    "root": trust_documents.Root,
    "targets": trust_documents.Targets,
    "bins": trust_documents.Bin,
    "snapshot": trust_documents.Snapshot,
    "timestamp": trust_documents.Timestamp,
}


def kept_metadata() -> dict[str, bytes]:
    return {case.name: case.text.encode() for case in read("metadata.json", Case)}


def test_every_file_is_what_would_be_written_today() -> None:
    kept = {path.name: path.read_bytes() for path in FOLDER.glob("*.json")}
    written = files()
    assert sorted(kept) == sorted(written)
    assert [name for name in kept if kept[name] != written[name]] == []


@pytest.mark.parametrize("name", DOCUMENT_KINDS)
def test_kept_documents_are_read_and_written_as_the_same_bytes(name: str) -> None:
    cases = read(f"{name}.json", Case)
    for case in cases:
        value = decode(DOCUMENT_KINDS[name], case.text.encode())
        assert value == documents()[name][case.name]
        assert encode(value) == case.text.encode()
    assert [case.name for case in cases] == list(documents()[name])


@pytest.mark.parametrize("name", ["event", "order", "reported", "telemetry"])
def test_documents_of_0_4_0_are_read_as_what_they_were_with_nothing_added(name: str) -> None:
    for case in read(f"0.4.0/{name}.json", Case):
        value = decode(DOCUMENT_KINDS[name], case.text.encode())
        assert value == documents()[name][case.name]


def test_orders_that_0_4_0_signed_are_opened_and_what_it_kept_of_them_is_read() -> None:
    kinds: dict[str, type[msgspec.Struct]] = {"order": Order, "manifest": Manifest}
    for sealed in read("0.4.0/envelope.json", EnvelopeCase):
        signed = open_envelope(sealed.text.encode(), keyring(a_key().public_key()))
        assert digest_of(signed) == sealed.signed_sha256
        decode(kinds[sealed.name], signed)
    for case in read("0.4.0/desired.json", Case):
        ours = documents()["desired"][case.name]
        theirs = decode(DOCUMENT_KINDS["desired"], case.text.encode())
        assert isinstance(theirs, Desired) and isinstance(ours, Desired)
        assert (theirs.deltas, theirs.sources, theirs.pace) == (
            ours.deltas,
            ours.sources,
            ours.pace,
        )
    for case in read("0.4.0/trust.json", Case):
        assert decode(Trust, case.text.encode()).root


def test_kept_envelopes_are_opened_and_sealed_as_the_same_bytes() -> None:
    kinds: dict[str, type[msgspec.Struct]] = {"order": Order, "manifest": Manifest}
    for case in read("envelope.json", EnvelopeCase):
        signed = open_envelope(case.text.encode(), keyring(a_key().public_key()))
        assert digest_of(signed) == case.signed_sha256
        assert sign(decode(kinds[case.name], signed), a_key()) == case.text.encode()
        assert case.keyid == key_id(a_key().public_key())


def test_the_kept_key_is_read_from_its_seed_and_from_its_files() -> None:
    (case,) = read("keys.json", KeyCase)
    from_seed = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(case.seed_hex))
    private = parse_private_pem(case.private_pem.encode())
    public = parse_public_pem(case.public_pem.encode())
    assert private_pem(from_seed) == private_pem(private) == case.private_pem.encode()
    assert public_pem(from_seed.public_key()) == public_pem(public) == case.public_pem.encode()
    assert key_id(public) == case.keyid


def test_kept_topics_are_parsed_and_spelled_the_same() -> None:
    cases = read("topics.json", TopicCase)
    for case in cases:
        topic = topics.parse_topic(case.text)
        assert type(topic).__name__ == case.kind
        assert case.name in case.text
        assert topics.text(topic) == case.text
        assert topics.filter_of(type(topic)) == case.filter
    assert len({case.kind for case in cases}) == 11


def test_kept_metadata_is_read_and_signed_as_the_same_bytes() -> None:
    for name, data in kept_metadata().items():
        role = name.partition("/")[0].partition("-")[0]
        held = trust_documents.read(KINDS[role], data)
        signatures = len(trust_documents.signers(data, *_judges(name)))
        again = trust_documents.sign(held.signed, *SIGNERS[role][:signatures])
        assert again.data == data
        assert held.signed.version == int(name.partition("/")[2])


def test_a_device_follows_kept_metadata_as_the_kept_trust_says() -> None:
    kept = {case.name: decode(Trust, case.text.encode()) for case in read("trust.json", Case)}
    enrolled = begin(kept_metadata()["root/1"], epoch=1)
    assert kept["enrolled"] == enrolled
    assert kept["following"] == repository.followed(enrolled)


def test_kept_packets_hold_the_kept_metadata() -> None:
    metadata = kept_metadata()
    for case in read("packet.json", PacketCase):
        pieces = {name: metadata[name] for name in case.pieces}
        assert unpack(case.text) == pieces
        assert pack(pieces) == case.text


def test_kept_texts_are_condensed_and_restored_the_same() -> None:
    for case in read("condensed.json", CondensedCase):
        told = Condensed(case.condensed, case.numbers, bytes.fromhex(case.digests_hex))
        assert restore(told) == case.text
        assert condense(case.text) == told


def test_packets_have_the_kept_dictionary() -> None:
    (case,) = read("skeleton.json", Case)
    assert case.text == SKELETON


def test_the_kept_token_is_read_and_spelled_the_same() -> None:
    (case,) = read("token.json", TokenCase)
    assert parse_token(case.text) == Token(case.secret, case.ca)
    assert token_text(Token(case.secret, case.ca)) == case.text
    assert secret_digest(case.secret) == case.kept_as


def test_kept_durations_fall_into_the_kept_buckets() -> None:
    for case in read("buckets.json", BucketCase):
        assert bucket(case.duration_ns) == case.bucket
        assert lower_bound_ns(case.bucket) == case.lower_bound_ns


def test_kept_bytes_are_cut_and_joined_as_the_kept_blobs() -> None:
    for case in read("chunks.json", ChunkCase):
        data = repeated(bytes.fromhex(case.pattern_hex), case.size_bytes)
        assert describe(data, case.chunk_bytes) == case.blob
        assert join(cut(data, case.chunk_bytes), case.blob) == data


def test_kept_deltas_rebuild_the_kept_blobs() -> None:
    cases = read("delta.json", DeltaCase)
    for case in cases:
        base, blob = bytes.fromhex(case.base_hex), bytes.fromhex(case.blob_hex)
        delta = bytes.fromhex(case.delta_hex)
        assert rebuilt(delta, base, expected(base, blob)) == blob
    told = {HEAD.unpack_from(_windows_of(bytes.fromhex(case.delta_hex)))[0] for case in cases}
    assert told == set(Kind)


def _judges(name: str) -> tuple[dict[KeyId, trust_documents.Key], trust_documents.Role]:
    """Return the keys and the role that judge a piece of the kept metadata."""
    role = name.partition("/")[0].partition("-")[0]
    if role == "bins":
        targets = trust_documents.read(trust_documents.Targets, kept_metadata()["targets/1"]).signed
        bins = targets.delegations.succinct_roles
        return targets.delegations.keys, trust_documents.Role(bins.keyids, bins.threshold)
    root = trust_documents.read(trust_documents.Root, kept_metadata()["root/1"]).signed
    return root.keys, root.roles[role]


def _windows_of(delta: bytes) -> bytes:
    source = io.BytesIO(delta)
    read_header(source.read)
    return source.read()
