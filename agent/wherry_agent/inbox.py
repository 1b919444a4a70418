"""What comes from the broker: verified, parsed, kept where it must be, and handed on as events.

Each message gives events for the agent's machines, or a `Refused` to be told to the controller.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from wherry import codec, topics
from wherry.errors import Malformed, Untrusted
from wherry.messages import Ack
from wherry.names import Digest
from wherry.reasons import Reason
from wherry.trust.packet import piece_name
from wherry_agent.core import acceptance, download, session
from wherry_agent.core import agent as machine
from wherry_agent.shelf import Shelf
from wherry_agent.store import DiskFull, Store

log = logging.getLogger("wherry_agent")


@dataclass(frozen=True, slots=True)
class Refused:
    """Bytes that were refused at the door; no deployment ends by it."""

    reason: Reason
    detail: str


News: TypeAlias = machine.Event | acceptance.Event | Refused


class Inbox:
    """Reads the messages of one device."""

    def __init__(self, store: Store, shelf: Shelf) -> None:
        self._store = store
        self._shelf = shelf

    def read(self, topic: str, payload: bytes, current: download.Download | None) -> Iterator[News]:
        """Yield what a message says; `current` is the download that runs.

        An empty payload says that the broker no longer retains anything there: nothing follows.
        """
        try:
            parsed = topics.parse_topic(topic)
        except Malformed as error:
            log.warning("message.unexpected", extra={"topic": topic, "why": str(error)})
            return
        match parsed:
            case _ if not payload:
                return
            case topics.DesiredTopic():
                yield acceptance.DesiredCame(payload)
            case topics.TimestampTopic():
                yield acceptance.TimestampCame(payload)
            case topics.MetadataTopic(role, version):
                yield acceptance.PieceCame(piece_name(role, version), payload)
            case topics.AcksTopic():
                yield from self._read_ack(payload)
            case topics.BundleTopic(bundle) if current and current.bundle == bundle:
                yield self._shelf.accept(bundle, payload)
            case topics.BlobTopic(chunk) if current and chunk in (current.missing or {}):
                yield from self._read_chunk(current.bundle, chunk, payload)
            case _:
                log.info("message.unasked", extra={"topic": topic})

    def _read_ack(self, payload: bytes) -> Iterator[News]:
        try:
            ack = codec.decode(Ack, payload)
        except Malformed as error:
            log.warning("ack.malformed", extra={"why": str(error)})
            return
        if ack.store_id == self._store.store_id:
            yield session.Acked(ack.seq, time.monotonic())

    def _read_chunk(self, bundle: Digest, chunk: Digest, payload: bytes) -> Iterator[News]:
        try:
            self._store.put_chunk(chunk, payload)
        except Untrusted as error:
            yield Refused(Reason.WRONG_BYTES, f"a chunk is refused: {error}")
            yield download.ChunkSpoiled(chunk, time.monotonic())
        except DiskFull as error:
            yield machine.BundleRefused(bundle, Reason.DISK_FULL, str(error))
        else:
            log.info("chunk.stored", extra={"chunk": chunk, "bytes": len(payload)})
            yield download.ChunkCame(chunk, time.monotonic())
