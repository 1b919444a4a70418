"""What somebody with access to the broker tries in the demo, in the end with a stolen key."""

from __future__ import annotations

import threading
import time

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wherry import codec, signing, topics
from wherry.blobs import digest_of
from wherry.errors import Unavailable
from wherry.manifest import Manifest
from wherry.messages import Desired, Order, Wanted
from wherry.names import (
    AliasName,
    DeviceId,
    Digest,
    parse_deployment_id,
    parse_version_name,
)
from wherry_agent.mqtt import Callbacks, Connection
from wherry_agent.settings import Broker
from wherry_controller.store.blobs import BlobFolder
from wherry_sim.demo.plan import ALIAS

PATIENCE_S = 10.0


class NoBroker(Unavailable):
    """The broker did not take a message of the demo."""

    def __str__(self) -> str:
        return "the demo's broker takes no message: look into the controller's log."


class Intruder:
    """A client of the broker that publishes what it likes."""

    def __init__(self, broker: Broker) -> None:
        self._up = threading.Event()
        self._acked: set[int] = set()
        callbacks = Callbacks(
            on_up=self._up.set,
            on_down=lambda: None,
            on_message=lambda _topic, _payload: None,
            on_puback=self._acked.add,
        )
        self._connection = Connection(broker, "intruder", callbacks, window=8, will=None)
        self._connection.connect()
        if not self._up.wait(PATIENCE_S):
            raise NoBroker

    def alter_chunk(self, manifest: Manifest, blobs: BlobFolder) -> Digest:
        """Put altered bytes in the place of the golden outputs, which come by no delta."""
        blob = manifest.golden.outputs[0].blob
        data = bytearray(blobs.get(blob.digest)[: blob.chunk_bytes])
        data[len(data) // 2] ^= 0xFF
        self._publish(topics.BlobTopic(blob.chunks[0]), bytes(data))
        return blob.chunks[0]

    def publish_foreign_bundle(self, manifest: Manifest) -> Digest:
        """Publish a version of its own, signed by a key of its own; return its digest."""
        foreign = msgspec.structs.replace(manifest, version=parse_version_name("v2-foreign"))
        bundle = digest_of(codec.encode(foreign))
        envelope = signing.sign(foreign, Ed25519PrivateKey.generate())
        self._publish(topics.BundleTopic(bundle), envelope)
        return bundle

    def order(self, device: DeviceId, bundle: Digest, director: Ed25519PrivateKey) -> None:
        """Order a device as its director would: the worst case, a stolen director key."""
        now = int(time.time())
        order = Order(
            device=device,
            epoch=1,
            generation=1,
            issued=now,
            expires=now + 3600,
            aliases={
                AliasName(ALIAS): Wanted(
                    deployment=parse_deployment_id(f"foreign:{device}"), bundle=bundle
                )
            },
        )
        desired = Desired(order=msgspec.Raw(signing.sign(order, director)))
        self._publish(topics.DesiredTopic(device), codec.encode(desired))

    def close(self) -> None:
        self._connection.close()

    def _publish(self, topic: topics.Topic, payload: bytes) -> None:
        mid = self._connection.publish(topics.text(topic), payload, retain=True)
        deadline_s = time.monotonic() + PATIENCE_S
        while mid not in self._acked:
            if mid is None or time.monotonic() > deadline_s:
                raise NoBroker
            time.sleep(0.01)
