"""What brings a bundle's bytes to the disk: the broker, HTTP(S) sources, and deltas rebuilt.

It performs what the download machine orders, on the deciding thread. The sources' thread and the
one that watches a rebuilding child only put what they saw on the queue; `read` takes it from there.
What was fetched is counted at the sockets, and kept where a budget for the day bounds it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from typing_extensions import assert_never

from wherry.blobs import Blob
from wherry.errors import REFUSALS, Untrusted
from wherry.measures import Traffic
from wherry.messages import Desired, Pace, detail
from wherry.names import Digest
from wherry.reasons import Reason
from wherry_agent import sources
from wherry_agent.core import agent as machine
from wherry_agent.core import download
from wherry_agent.core.budget import least, left_bytes, spend
from wherry_agent.database import CannotSave
from wherry_agent.fetch import Ask, Fetch
from wherry_agent.inbox import News, Refused
from wherry_agent.rebuild import Fault, rebuild
from wherry_agent.settings import FetchSettings
from wherry_agent.shelf import Shelf
from wherry_agent.store import DiskFull, Store
from wherry_agent.ways import DeltaRefused, Rebuild, Ways

log = logging.getLogger("wherry_agent")

Order: TypeAlias = (
    Ask | download.AskSource | machine.Assemble | machine.OpenFetch | machine.CloseFetch
)


# (blob, its base, the delta, where to) -> None, or why it could not be made. In a child.
Rebuilder: TypeAlias = Callable[[Blob, Path, Path, Path], Fault | None]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A child has made the blob, or not."""

    order: Rebuild
    fault: DeltaRefused | None


Seen: TypeAlias = sources.Answer | Rebuilt


class Delivery:
    """The bytes' ways to one device; `put` takes what other threads saw to the deciding one."""

    def __init__(
        self,
        fetch: Fetch,
        store: Store,
        shelf: Shelf,
        ways: Ways,
        *,
        settings: FetchSettings,
        put: Callable[[Seen], None],
        rebuild: Rebuilder = rebuild,
        context: sources.Context = sources.public_context,
    ) -> None:
        self._fetch, self._store, self._shelf, self._ways = fetch, store, shelf, ways
        self._settings = settings
        self._put = put
        self._rebuild = rebuild
        self._sources = sources.Sources(put, context)
        self._is_rebuilding = False
        self._pace = Pace()
        self._urls: tuple[str, ...] = ()
        self._spent = store.spent()
        self._counted_bytes = self._flowed_bytes = 0
        self._advised: download.Advised | None = None

    def traffic(self) -> Traffic:
        """Return the bytes at the sockets to broker and sources so far."""
        fetched = Traffic(received_bytes=self._sources.received_bytes)
        return self._fetch.traffic() + fetched

    def close(self) -> None:
        self._fetch.close()
        self._sources.close()

    def advise(self, desired: Desired) -> Iterator[machine.Event]:
        """Take what lies beside an order that is followed: deltas, sources and a pace."""
        self._pace, self._urls = desired.pace, desired.sources
        if self._ways.offer(desired.deltas):
            yield download.LookAgain(time.monotonic())
        yield from self.tick()

    def tick(self) -> Iterator[machine.Event]:
        """Count what came; say that it comes, and how to go on where that is news."""
        came_bytes = self._fetch.traffic().received_bytes
        if came_bytes - self._flowed_bytes >= download.FLOW_BYTES:
            self._flowed_bytes = came_bytes
            yield download.Flowing(time.monotonic())
        limit = least(self._settings.max_bytes_per_day, self._pace.bytes_per_day)
        self._count(is_bounded=limit is not None)
        advised = download.Advised(
            least(self._settings.max_bytes_per_s, self._pace.bytes_per_s),
            left_bytes(self._spent, None if limit is None else int(limit), time.time()),
            (*self._settings.sources, *self._urls),
        )
        if advised != self._advised:
            self._advised = advised
            yield advised

    def perform(self, order: Order, current: download.Download | None) -> Iterator[News]:
        """Do what the machine ordered; yield what came of it at once."""
        match order:
            case machine.OpenFetch():
                self._fetch.open()
            case machine.CloseFetch():
                self._fetch.close()
            case machine.Assemble(bundle):
                yield from self._assemble(bundle)
            case download.AskManifest(bundle) if known := self._shelf.accept_again(bundle):
                yield known
                yield from self._refusals()
            case download.AskSource() if current is not None:
                yield from self._ask_source(order, current.bundle)
            case download.AskSource():
                pass
            case _:
                self._fetch.perform(order)

    def read(self, seen: Seen, current: download.Download | None) -> Iterator[News]:
        """Turn what another thread saw into events."""
        match seen:
            case sources.Answer():
                if current is not None and seen.request.chunk in (current.missing or {}):
                    yield from self._take(seen, current.bundle)
            case Rebuilt(order, fault):
                self._is_rebuilding = False
                if current is None:
                    return
                if fault is not None and current.bundle == order.bundle:
                    self._ways.refuse(order.blob.digest, fault)
                if current.missing == {}:
                    yield from self._assemble(current.bundle)
            case _:
                assert_never(seen)

    # Sources

    def _ask_source(self, ask: download.AskSource, bundle: Digest) -> Iterator[News]:
        place = self._shelf.locate(bundle, ask.chunk)
        if place is None:
            yield download.SourceLacked(ask.source, ask.chunk, time.monotonic())
            return
        request = sources.Request(
            source=ask.source,
            chunk=ask.chunk,
            blob=place.blob,
            start=place.start,
            size_bytes=place.size_bytes,
            within_s=ask.within_s,
        )
        self._sources.ask(request)

    def _take(self, answer: sources.Answer, bundle: Digest) -> Iterator[News]:
        """Keep what a source gave if it is the chunk; leave the source by what it is not."""
        source, chunk, now_s = answer.request.source, answer.request.chunk, time.monotonic()
        match answer.data:
            case sources.Trouble.FAILED:
                log.warning("source.failed", extra={"source": source, "why": answer.detail})
                yield download.SourceFailed(source, chunk, now_s)
            case sources.Trouble.LACKED:
                yield download.SourceLacked(source, chunk, now_s)
            case sources.Trouble.OVERSIZED:
                yield Refused(Reason.OVERSIZED_BLOB, answer.detail)
                yield download.SourceLied(source, chunk, now_s)
            case data:
                try:
                    self._store.put_chunk(chunk, data)
                except Untrusted as error:
                    yield Refused(Reason.MIRROR_LIED, f"{source} is left: {error}")
                    yield download.SourceLied(source, chunk, now_s)
                except DiskFull as error:
                    yield machine.BundleRefused(bundle, Reason.DISK_FULL, str(error))
                else:
                    fields = {"chunk": chunk, "bytes": len(data), "source": source}
                    log.info("chunk.stored", extra=fields)
                    yield download.ChunkCame(chunk, now_s)

    # Deltas

    def _assemble(self, bundle: Digest) -> Iterator[News]:
        match self._shelf.assemble(bundle):
            case Rebuild() as order:
                self._begin(order)
            case done:
                yield done
        yield from self._refusals()

    def _begin(self, order: Rebuild) -> None:
        """Rebuild beside the deciding thread; one at a time, whose end looks for the next."""
        if not self._is_rebuilding:
            self._is_rebuilding = True
            threading.Thread(
                target=lambda: self._put(Rebuilt(order, self._make(order))), name="rebuild"
            ).start()

    def _make(self, order: Rebuild) -> DeltaRefused | None:
        delta = self._store.rebuilding / order.delta.digest
        made = self._store.rebuilding / order.blob.digest
        try:
            self._store.join(order.delta, delta)
            fault = self._rebuild(order.blob, order.base, delta, made)
            if fault is not None:
                return DeltaRefused(fault.reason, fault.detail)
            self._store.adopt(made, order.blob.digest)
        except (*REFUSALS, OSError) as error:
            return DeltaRefused(Reason.DELTA_CORRUPT, detail(str(error)))
        finally:
            delta.unlink(missing_ok=True)
            made.unlink(missing_ok=True)
        log.info("blob.rebuilt", extra={"blob": order.blob.digest})
        return None

    def _refusals(self) -> Iterator[News]:
        refused, self._ways.refused = self._ways.refused, []
        for why in refused:
            yield Refused(why.reason, f"a delta is refused: {why.detail}")

    # The day's budget

    def _count(self, *, is_bounded: bool) -> None:
        received = self.traffic().received_bytes
        grown, self._counted_bytes = received - self._counted_bytes, received
        if grown > 0:
            self._spent = spend(self._spent, grown, time.time())
            if is_bounded:
                self._save_spent()

    def _save_spent(self) -> None:
        """Keep what was spent; where the disk refuses, it is known until the process ends."""
        try:
            self._store.save_spent(self._spent)
        except CannotSave as error:
            log.warning("spent.unwritten", extra={"problem": str(error)})
