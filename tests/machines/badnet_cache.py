"""A broker that has gone bad as a cache: one chunk of a bundle has rotted, another one is gone.

Only the controller may publish chunks, so its certificate is shown, under which the broker throws
out the controller itself: one more fault, which it mends by connecting again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tests.controller.visitors import Visitor
from tests.system.sites import Site
from wherry.bundle import Bundle
from wherry.manifest import MODEL_FILE
from wherry.topics import BlobTopic, text
from wherry_controller.core.mosquitto import CA
from wherry_controller.mqtt import context_of
from wherry_controller.services.mosquitto import OWN_CERTIFICATE, OWN_KEY

CONNECTED = "connect: Success"
# A chunk is retained also where nobody asks for it at the moment.
TAKEN = ("publish: Success", "publish: No matching subscribers")
TRIES = 20


def spoil(site: Site, bundle: Bundle) -> None:
    """Take the first chunk of a bundle's model from the broker, and flip a bit of the last."""
    blob = bundle.manifest.files[MODEL_FILE]
    first, *_, last = blob.chunks
    if first == last:
        raise ValueError("a model of one chunk is too small: give more --model-bytes")
    rotten = bytearray(bundle.blobs[blob.digest][(len(blob.chunks) - 1) * blob.chunk_bytes :])
    rotten[0] ^= 1
    own = site.controller.settings.authority_folder
    context = context_of(own / CA, own / OWN_CERTIFICATE, own / OWN_KEY)
    _, port = site.controller.settings.broker_address
    for chunk, payload in ((first, b""), (last, bytes(rotten))):
        _retain(text(BlobTopic(chunk)), payload, partial(Visitor, port, context))


def _retain(topic: str, payload: bytes, dial: Callable[[], Visitor]) -> None:
    """Publish it; the controller takes its place back at once, at times too early for that."""
    for _ in range(TRIES):
        visitor = dial()
        try:
            if visitor.connect() != CONNECTED:
                continue
            if visitor.publish(topic, payload, retain=True) in TAKEN:
                return
        finally:
            visitor.leave()
    raise RuntimeError("the broker did not take a spoilt chunk")
