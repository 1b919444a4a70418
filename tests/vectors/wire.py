"""What is no JSON document: envelopes, keys, topics, buckets, chunks, deltas."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import msgspec

from tests import builders as a
from tests.deltas import a_delta, a_frame, a_header, a_stream, planes
from tests.vectors.cases import (
    BucketCase,
    ChunkCase,
    DeltaCase,
    EnvelopeCase,
    KeyCase,
    TopicCase,
)
from wherry import codec, topics
from wherry.blobs import CHUNK_BYTES, describe, digest_of
from wherry.delta import Kind, Storing, Window, pack_window, reads_of, rebuild_window
from wherry.delta import Order as ItemOrder
from wherry.histogram import LARGEST_NS, bucket, lower_bound_ns
from wherry.names import DeviceId, Digest, parse_role_name
from wherry.signing import key_id, private_pem, public_pem, sign

# A zstd frame (libzstd 1.5.7, level 19) of 45 bytes that copies from its dictionary of 32.
PATCH_HEX = "28b52ffd202d650000184f2b4f02003a3fdc6fb201"


def envelopes() -> Iterator[EnvelopeCase]:
    signed: dict[str, msgspec.Struct] = {"order": a.an_order(), "manifest": a.a_manifest()}
    key = a.a_key()
    for name, document in signed.items():
        yield EnvelopeCase(
            name=name,
            text=sign(document, key).decode(),
            keyid=key_id(key.public_key()),
            signed_sha256=digest_of(codec.encode(document)),
        )


def keys() -> Iterator[KeyCase]:
    key = a.a_key()
    yield KeyCase(
        name="test key",
        seed_hex=key.private_bytes_raw().hex(),
        keyid=key_id(key.public_key()),
        private_pem=private_pem(key).decode(),
        public_pem=public_pem(key.public_key()).decode(),
    )


def topic_cases() -> Iterator[TopicCase]:
    device, digest = a.a_device_id(), a.a_digest()
    of_a_device: tuple[Callable[[DeviceId], topics.Topic], ...] = (
        topics.DesiredTopic,
        topics.ReportedTopic,
        topics.EventsTopic,
        topics.AcksTopic,
        topics.TelemetryTopic,
        topics.PresenceTopic,
        topics.WantsTopic,
    )
    of_a_digest: tuple[Callable[[Digest], topics.Topic], ...] = (
        topics.BundleTopic,
        topics.BlobTopic,
    )
    for make in of_a_device:
        yield topic_case(make(device), device)
    for name in of_a_digest:
        yield topic_case(name(digest), digest)
    yield topic_case(topics.TimestampTopic(), "timestamp")
    for role in ("root", "snapshot", "targets", "bins-0f"):
        yield topic_case(topics.MetadataTopic(parse_role_name(role), 12), f"{role}/12")


def topic_case(topic: topics.Topic, name: str) -> TopicCase:
    kind = type(topic)
    return TopicCase(kind.__name__, name, topics.text(topic), topics.filter_of(kind))


def buckets() -> Iterator[BucketCase]:
    octaves = [(1 << shift) + extra for shift in range(45) for extra in (-1, 0, 1)]
    odd = [1_000_000, 1_500_000, 123_456_789, 10**12]
    for duration in sorted({0, *(ns for ns in octaves if ns <= LARGEST_NS), *odd}):
        yield BucketCase(duration, bucket(duration), lower_bound_ns(bucket(duration)))


def chunks() -> Iterator[ChunkCase]:
    yield chunk_case("empty", b"x", size_bytes=0, chunk_bytes=1024)
    yield chunk_case("one byte", b"x", size_bytes=1, chunk_bytes=1024)
    yield chunk_case("one whole chunk", b"ab", size_bytes=1024, chunk_bytes=1024)
    yield chunk_case("a chunk and a byte", b"ab", size_bytes=1025, chunk_bytes=1024)
    yield chunk_case("the default length", bytes(range(256)) + b"x", size_bytes=3 * CHUNK_BYTES)


def chunk_case(
    name: str, pattern: bytes, *, size_bytes: int, chunk_bytes: int = CHUNK_BYTES
) -> ChunkCase:
    blob = describe(repeated(pattern, size_bytes), chunk_bytes)
    return ChunkCase(name, pattern.hex(), size_bytes, chunk_bytes, blob)


def deltas() -> Iterator[DeltaCase]:
    """Yield a window of each kind, in each order, with each width of fields and each storing."""
    base = bytes(reversed(range(0x28, 0x58)))
    steps = [2, 5, 0, 1, 300, 7, 12, 3]
    frame = b"\x08" + a_stream(a_frame(4, 16), Storing.ZSTD)
    zeros = b"\x08" + a_stream(b"", Storing.ZEROS)
    packed = bytes.fromhex(PATCH_HEX)
    by_exponent = ItemOrder.BY_EXPONENT
    windows = {
        "copy": (Window(Kind.COPY, 16, 8), b""),
        "full": (Window(Kind.FULL, 16, item=2), planes(steps, 2, bits=1)),
        "difference": (Window(Kind.DIFFERENCE, 16, 4, item=2), planes(steps, 2, bits=4)),
        "difference_of_packed_bytes": (Window(Kind.DIFFERENCE, 16), frame),
        "ordered": (Window(Kind.DIFFERENCE, 16, item=2, order=by_exponent), planes(steps, 2)),
        "ordered_singles": (
            Window(Kind.DIFFERENCE, 32, item=4, order=by_exponent),
            planes(steps, 4, bits=2),
        ),
        "xor": (Window(Kind.XOR, 32, item=4), planes(steps, 3) + zeros),
        "xor_of_eight": (Window(Kind.XOR, 16, 3, item=8), planes([1 << 60, 9], 8)),
        "scaled": (
            Window(Kind.SCALED, 16, item=2, extra=4),
            struct.pack("<2f", 2.0, 0.75) + planes(steps, 2),
        ),
        "patch": (Window(Kind.PATCH, 45, extra=32), packed),
    }
    for name, (window, payload) in windows.items():
        part = base[window.offset : window.offset + reads_of(window)]
        blob = rebuild_window(window, payload, part)
        delta = a_delta(a_header(base, blob), pack_window(window, payload))
        yield DeltaCase(name, base.hex(), blob.hex(), delta.hex())


def repeated(pattern: bytes, size_bytes: int) -> bytes:
    return (pattern * (size_bytes // len(pattern) + 1))[:size_bytes]
