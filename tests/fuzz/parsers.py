"""Every parser that reads bytes from outside, with bytes that it takes.

A parser returns, or raises one of the four kinds of refusal; anything else is a bug that a peer
could stop a device or a controller with. What is signed is read here without its signature, as a
thief of a key could make it.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO

import msgspec

from tests import builders as a
from tests.agent.benches import a_get, a_post
from tests.agent.serving.pipes import Peer
from tests.trusted import a_repository, a_root, bundles_of, desired_of, sign_order
from wherry import codec, delta, enrolment, messages, names, reference, signing, topics
from wherry.blobs import digest_of
from wherry.bundle import open_signed_manifest
from wherry.manifest import Manifest, open_manifest
from wherry.signature import BATCH, Datatype, Signature, Tensor
from wherry.trust import device, director, keeping, metadata, packet, verdict, workflow
from wherry.trust.metadata import Root, Snapshot, Targets, Timestamp
from wherry.trust.repository import pieces_for
from wherry_agent.serving import coding, feedback, v2
from wherry_agent.serving.coding import Coding
from wherry_controller.deltas.encode import encode


@dataclass(frozen=True, slots=True)
class Parser:
    """`seeds` are bytes that `read` takes; mutations of them go deeper than noise does."""

    read: Callable[[bytes], object]
    seeds: tuple[bytes, ...]


BUNDLE = a.a_bundle_of(b"model" * 100)
REPOSITORY = a_repository([BUNDLE])
ORDER = a.an_order(aliases={a.an_alias(): a.a_wanted(bundle=BUNDLE.digest)})
PIECES = pieces_for(REPOSITORY, bundles_of(ORDER))
TRUST = device.take_timestamp(
    device.begin(REPOSITORY.root.data, epoch=1), REPOSITORY.timestamp.data, a.A_TIME
)
ROOT = workflow.begin(REPOSITORY.root.data).root
BIN = next(iter(REPOSITORY.bins.values())).data
KEYS = signing.keyring(a.a_key().public_key())
DESIRED = desired_of(REPOSITORY, ORDER, root_after=0)
TOKEN = enrolment.Token("a" * 43, a.a_digest("ca"))
TOPICS: tuple[topics.Topic, ...] = (
    topics.DesiredTopic(a.a_device_id()),
    topics.BlobTopic(a.a_digest()),
    topics.MetadataTopic(names.parse_role_name("bins-0f"), 12),
)
A_DISTRIBUTION = reference.Distribution(
    name="image", rows=4, edges=(0.0, 0.5), counts=(1, 2, 1), zeros=0.0, not_finite=0.0
)
A_REFERENCE = reference.Reference(inputs=(A_DISTRIBUTION,), outputs=(A_DISTRIBUTION,))
BASE = bytes(range(256)) * 4
SIGNATURE = Signature(
    inputs=(Tensor("image", Datatype.FP32, (BATCH, 2)),),
    outputs=(Tensor("logits", Datatype.FP32, (BATCH, 2)),),
)
IMAGE: dict[str, object] = {"name": "image", "datatype": "FP32", "shape": [1, 2]}
SIZED: dict[str, object] = {"parameters": {"binary_data_size": 8}}
CHUNKED = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
CODED = coding.compress([b"coded"], Coding.GZIP)
VALUES = b'{"id":"r","values":[0.5]}'
BLOB = BASE[:512] + bytes(byte ^ 1 for byte in BASE[512:]) + b"the end"


def _document(kind: type[msgspec.Struct], *values: msgspec.Struct) -> Parser:
    return Parser(lambda data: codec.decode(kind, data), tuple(map(codec.encode, values)))


def _text(read: Callable[[str], object], *seeds: str) -> Parser:
    """Return a parser of text, as it comes from a topic or a command line."""
    return Parser(lambda data: read(data.decode(errors="replace")), tuple(map(str.encode, seeds)))


def _read_root(data: bytes) -> None:
    root = metadata.parse(Root, "root", data).signed
    director.keys_of(root, director.director_of(root))
    metadata.issued_of(root)
    workflow.update_root(workflow.begin(REPOSITORY.root.data), data)


def _read_timestamp(data: bytes) -> None:
    document = metadata.parse(Timestamp, "timestamp", data)
    metadata.issued_of(document.signed)
    metadata.expiry_of(document.signed)
    metadata.verify(ROOT, "timestamp", document)


def _read_snapshot(data: bytes) -> None:
    metadata.verify(ROOT, "snapshot", metadata.parse(Snapshot, "snapshot", data))


def _read_targets(data: bytes) -> None:
    metadata.verify(ROOT, "targets", metadata.parse(Targets, "targets", data))
    _read_bin(data)


def _read_bin(data: bytes) -> None:
    targets = metadata.parse(Targets, "bin", data).signed
    verdict.min_release_of(targets)
    for path in targets.targets:
        metadata.bin_of(targets, path)
        verdict.listed_in(targets, names.Digest(path))


def _follow(data: bytes) -> None:
    desired = codec.decode(messages.Desired, data)
    offer = keeping.Offer(
        bytes(desired.order),
        packet.unpack(desired.packet),
        ORDER.device,
        BUNDLE.manifest.profile.name,
    )
    device.follow(TRUST, offer, a.A_TIME)


def _unpack_bytes(data: bytes) -> object:
    return packet.unpack(base64.b64encode(data).decode())


def _rebuild(data: bytes) -> None:
    expected = delta.Expected(
        base=digest_of(BASE), base_bytes=len(BASE), blob=digest_of(BLOB), blob_bytes=len(BLOB)
    )
    base = BytesIO(BASE)

    def read_base(offset: int, length: int) -> bytes:
        base.seek(offset)
        return base.read(length)

    for _ in delta.rebuild(BytesIO(data).read, read_base, expected):
        pass


def _delta() -> bytes:
    """Return a delta of all kinds of windows that its encoder chose."""
    header = delta.Header(
        base=digest_of(BASE), blob=digest_of(BLOB), base_bytes=len(BASE), blob_bytes=len(BLOB)
    )
    return b"".join(encode(memoryview(BASE), memoryview(BLOB), header))


def _talk(data: bytes) -> None:
    """Send bytes as an application would; what is wrong with them is answered, never raised."""

    async def talk() -> None:
        peer = Peer()
        peer.send(data)
        assert len(peer.statuses) >= len(peer.asked)

    asyncio.run(talk())


def _inference(image: dict[str, object], raw: bytes = b"") -> bytes:
    head = json.dumps({"id": "r", "inputs": [image]}).encode()
    return len(head).to_bytes(2, "big") + head + raw


def _read_inference(data: bytes) -> None:
    """Read a request whose first two bytes are the length of its JSON, as the header says it."""
    v2.decode_infer(
        data[2:],
        SIGNATURE,
        json_bytes=str(int.from_bytes(data[:2], "big")),
        read=lambda part: bytes(part.size_bytes),
    )


PARSERS: Mapping[str, Parser] = {
    # What the broker brings.
    "desired": _document(messages.Desired, codec.decode(messages.Desired, DESIRED)),
    "order": _document(messages.Order, ORDER, a.an_order(trials=(a.a_trial(),))),
    "reported": _document(messages.Reported, a.a_reported()),
    "event": _document(messages.Event, a.an_event(), a.a_trial_event()),
    "ack": _document(messages.Ack, a.an_ack()),
    "telemetry": _document(messages.Telemetry, a.a_telemetry()),
    "presence": _document(messages.Presence, a.a_presence()),
    "wants": _document(messages.Wants, a.a_wants()),
    "delta_index": _document(
        messages.DeltaIndex,
        messages.DeltaIndex(base=a.a_digest("1"), blob=a.a_digest("2"), delta=a.a_blob()),
    ),
    "topic": _text(topics.parse_topic, *(topics.text(topic) for topic in TOPICS)),
    # Signed documents, and keys.
    "envelope": Parser(lambda data: signing.open_envelope(data, KEYS), (BUNDLE.envelope,)),
    "manifest": _document(Manifest, BUNDLE.manifest),
    "bundle": Parser(lambda data: open_manifest(data, BUNDLE.digest), (BUNDLE.envelope,)),
    "signed_bundle": Parser(
        lambda data: open_signed_manifest(data, KEYS, BUNDLE.digest), (BUNDLE.envelope,)
    ),
    "signed_order": Parser(lambda data: director.open_order(data, ROOT), (sign_order(ORDER),)),
    "private_key": Parser(signing.parse_private_pem, (signing.private_pem(a.a_key()),)),
    "public_key": Parser(signing.parse_public_pem, (signing.public_pem(a.a_key().public_key()),)),
    # Trust metadata.
    "root": Parser(_read_root, (a_root(2).data,)),
    "timestamp": Parser(_read_timestamp, (REPOSITORY.timestamp.data,)),
    "snapshot": Parser(_read_snapshot, (REPOSITORY.snapshot.data,)),
    "targets": Parser(_read_targets, (REPOSITORY.targets.data,)),
    "bin": Parser(_read_bin, (BIN, REPOSITORY.targets.data)),
    "packet": _text(packet.unpack, packet.pack(PIECES)),
    "packed": Parser(_unpack_bytes, (base64.b64decode(packet.pack(PIECES)),)),
    "followed": Parser(_follow, (DESIRED,)),
    "trust": _document(keeping.Trust, TRUST),
    # Contents of blobs.
    "delta": Parser(_rebuild, (_delta(),)),
    "reference": Parser(reference.parse_reference, (codec.encode(A_REFERENCE),)),
    # What applications send to the local API.
    "http": Parser(_talk, (a_post("/", b"body") + a_get("/"), CHUNKED)),
    "inference": Parser(_read_inference, (_inference({**IMAGE, "data": [0.5, 1.5]}),)),
    "binary_inference": Parser(_read_inference, (_inference({**IMAGE, **SIZED}, bytes(8)),)),
    "gzip": Parser(lambda data: coding.inflate(data, Coding.GZIP, 1000), (CODED,)),
    "feedback": Parser(feedback.decode_feedback, (b'{"id":"r","labels":[1]}', VALUES)),
    "content_coding": _text(coding.coding_of, "gzip", "deflate", "identity"),
    # Enrolment.
    "token": _text(enrolment.parse_token, enrolment.token_text(TOKEN)),
    "fingerprint": _text(enrolment.parse_fingerprint, a.a_digest()),
    # Names, as an operator types them or a path brings them.
    "device_id": _text(names.parse_device_id, "pi-1"),
    "deployment_id": _text(names.parse_deployment_id, "digits-v1:canary:pi-1"),
    "role_name": _text(names.parse_role_name, "bins-0f"),
    "digest": _text(names.parse_digest, a.a_digest()),
}
