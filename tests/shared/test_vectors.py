"""Golden vectors: the bytes that were kept are those that are read and written today."""

from __future__ import annotations

import io

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.builders import a_key
from tests.deltas import expected, rebuilt
from tests.vectors.write import (
    DOCUMENT_KINDS,
    FOLDER,
    BucketCase,
    Case,
    ChunkCase,
    DeltaCase,
    EnvelopeCase,
    KeyCase,
    TopicCase,
    documents,
    files,
    read,
    repeated,
)
from wherry import topics
from wherry.blobs import cut, describe, digest_of, join
from wherry.codec import decode, encode
from wherry.delta import HEAD, Kind, read_header
from wherry.histogram import bucket, lower_bound_ns
from wherry.manifest import Manifest
from wherry.messages import Order
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
    assert len({case.kind for case in cases}) == 9


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


def _windows_of(delta: bytes) -> bytes:
    source = io.BytesIO(delta)
    read_header(source.read)
    return source.read()
