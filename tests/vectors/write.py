"""Writes the golden vectors again: `python -m tests.vectors.write`."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from tests import builders as a
from tests.deltas import a_delta, a_frame, a_header, a_stream, planes
from wherry import codec, topics
from wherry.blobs import CHUNK_BYTES, Blob, describe, digest_of
from wherry.delta import (
    Kind,
    Storing,
    Window,
    pack_window,
    reads_of,
    rebuild_window,
)
from wherry.delta import (
    Order as ItemOrder,
)
from wherry.histogram import LARGEST_NS, Histogram, bucket, from_durations, lower_bound_ns
from wherry.manifest import Manifest
from wherry.messages import (
    Ack,
    Event,
    EventKind,
    Order,
    Phase,
    Presence,
    Reason,
    Reported,
    Slots,
    Status,
    Telemetry,
    Wants,
)
from wherry.names import DeviceId, Digest
from wherry.profile import Precision, Profile, Runtime
from wherry.signature import BATCH, Datatype, Signature, StatePair
from wherry.signing import key_id, private_pem, public_pem, sign

FOLDER = Path(__file__).parent
# A zstd frame (libzstd 1.5.7, level 19) of 45 bytes that copies from its dictionary of 32.
PATCH_HEX = "28b52ffd202d650000184f2b4f02003a3fdc6fb201"

T = TypeVar("T")


class Case(msgspec.Struct, frozen=True):
    """A value's name and the bytes that it has on the wire."""

    name: str
    text: str


class EnvelopeCase(msgspec.Struct, frozen=True):
    name: str
    text: str
    keyid: str
    signed_sha256: str


class KeyCase(msgspec.Struct, frozen=True):
    name: str
    seed_hex: str
    keyid: str
    private_pem: str
    public_pem: str


class TopicCase(msgspec.Struct, frozen=True):
    kind: str
    name: str
    text: str
    filter: str


class BucketCase(msgspec.Struct, frozen=True):
    duration_ns: int
    bucket: int
    lower_bound_ns: int


class ChunkCase(msgspec.Struct, frozen=True):
    """The bytes are those of `pattern` over and over, `size_bytes` long."""

    name: str
    pattern_hex: str
    size_bytes: int
    chunk_bytes: int
    blob: Blob


class DeltaCase(msgspec.Struct, frozen=True):
    """One window that makes `blob` of `base`."""

    name: str
    base_hex: str
    blob_hex: str
    delta_hex: str


class Vectors(msgspec.Struct):
    """One file: what it holds, and its cases as JSON values of the file's own kind."""

    about: str
    cases: list[msgspec.Raw]


Documents = dict[str, msgspec.Struct]

DOCUMENT_KINDS: dict[str, type[msgspec.Struct]] = {
    "order": Order,
    "reported": Reported,
    "event": Event,
    "ack": Ack,
    "telemetry": Telemetry,
    "presence": Presence,
    "wants": Wants,
    "manifest": Manifest,
    "profile": Profile,
    "signature": Signature,
    "histogram": Histogram,
}


def documents() -> dict[str, Documents]:
    """Return the values whose bytes are kept, by the name of their format."""
    return {
        "order": {
            "default": a.an_order(),
            "nothing_wanted": a.an_order(generation=0, aliases={}),
            "two_aliases_and_revoked": a.an_order(
                generation=7,
                aliases={
                    a.an_alias("detector"): a.a_wanted("d:2", probation_s=1.5),
                    a.an_alias(): a.a_wanted(),
                },
                revoked=(a.a_digest("bad"),),
            ),
            "trials": a.an_order(
                generation=8,
                trials=(a.a_trial(), a.a_trial("3f0c9a12b7de:2", bundle=a.a_digest("fp32"))),
            ),
        },
        "reported": {
            "default": a.a_reported(),
            "fresh": a.a_reported(report_seq=0, generation=0, slots={}, deployments={}),
            "in_probation": a.a_reported(
                slots={
                    a.an_alias(): Slots(
                        active=a.a_digest("new"), previous=a.a_digest("old"), candidate=None
                    )
                },
                deployments={
                    a.an_alias(): a.a_deployment(Status.IN_PROGRESS, None, phase=Phase.PROBATION)
                },
            ),
        },
        "event": {
            "default": a.an_event(),
            "progress": a.an_event(
                2,
                EventKind.PROGRESS,
                deployment=a.a_deployment(Status.IN_PROGRESS, None, phase=Phase.FETCHING),
            ),
            **{
                f"reason_{reason.value}": a.an_event(deployment=a.a_deployment(reason=reason))
                for reason in Reason
            },
            **{
                f"status_{status.value}": a.an_event(deployment=a.a_deployment(status))
                for status in Status
            },
            "refusal_of_bytes": a.an_event(
                3, EventKind.REFUSAL, reason=Reason.WRONG_BYTES, detail='“altered” \\ "x"\n'
            ),
            "trial": a.a_trial_event(4),
            "trial_without_figures": a.a_trial_event(
                5, a.a_trial_result(faithful=None, reason=Reason.BUSY, detail="a deployment came")
            ),
        },
        "ack": {"default": a.an_ack(), "largest": a.an_ack((1 << 53) - 1)},
        "telemetry": {
            "default": a.a_telemetry(),
            "idle": a.a_telemetry(requests=0, latency=Histogram(), compute=Histogram()),
            "errors": a.a_telemetry(errors={"timeout": 2, "bad_request": 1}),
        },
        "presence": {"online": a.a_presence(), "offline": a.a_presence(online=False)},
        "wants": {
            "one": a.a_wants(),
            "eight": a.a_wants([a.a_digest(str(number)) for number in range(8)]),
        },
        "manifest": {"default": a.a_manifest(), "quantized": a_quantized_manifest()},
        "profile": {
            "default": a.a_profile(),
            "litert": a.a_profile(
                runtime=Runtime.LITERT,
                runtime_floor="2.1",
                runtime_below="3",
                precisions=(Precision.INT8, Precision.FP32),
                memory_bytes=1 << 29,
                latency_ms=2.5,
                detected=("arch", "memory_bytes"),
            ),
        },
        "signature": {
            "default": a.a_signature(),
            "recurrent": a.a_signature(
                inputs=(a.a_tensor("audio", (BATCH, "time")), a.a_tensor("h", (BATCH, 64))),
                outputs=(a.a_tensor("speech", (BATCH, 1)), a.a_tensor("h_out", (BATCH, 64))),
                max_batch=1,
                states=(StatePair("h_out", "h"),),
            ),
        },
        "histogram": {
            "empty": Histogram(),
            "three": a.a_histogram(),
            "whole_range": from_durations([0, 0, 1, 31, 32, 33, 1000, LARGEST_NS]),
        },
    }


def a_quantized_manifest() -> Manifest:
    return a.a_manifest(
        precision=Precision.INT8,
        recipe=("export", "quantize static"),
        static_batch=1,
        inputs=(a.a_binding(datatype=Datatype.INT8, scale=0.00390625, zero_point=-128),),
        class_output=None,
        labels=(),
    )


def envelopes() -> Iterator[EnvelopeCase]:
    signed: Documents = {"order": a.an_order(), "manifest": a.a_manifest()}
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


def files() -> dict[str, bytes]:
    """Return the bytes of every file of vectors by its name."""
    written = {
        f"{name}.json": a_file(
            f"The bytes of `{name}` documents, as `text`.",
            (Case(case, codec.encode(value).decode()) for case, value in values.items()),
        )
        for name, values in documents().items()
    }
    return {
        **written,
        "envelope.json": a_file("Signed documents, by the key in keys.json.", envelopes()),
        "keys.json": a_file("A key for tests, made from its seed: trust it nowhere.", keys()),
        "topics.json": a_file("MQTT topics and the filter of each kind.", topic_cases()),
        "buckets.json": a_file("Durations in nanoseconds and their buckets.", buckets()),
        "chunks.json": a_file("Bytes and the blobs that they are cut to.", chunks()),
        "delta.json": a_file("Deltas of one window, in hexadecimal.", deltas()),
    }


def a_file(about: str, cases: Iterator[msgspec.Struct]) -> bytes:
    document = codec.encode({"about": about, "cases": list(cases)})
    return msgspec.json.format(document, indent=1) + b"\n"


def read(name: str, kind: type[T]) -> list[T]:
    """Return the kept cases of one file."""
    vectors = codec.decode(Vectors, (FOLDER / name).read_bytes())
    return [codec.decode(kind, bytes(case)) for case in vectors.cases]


def main() -> None:
    for name, data in files().items():
        (FOLDER / name).write_bytes(data)


if __name__ == "__main__":
    main()
