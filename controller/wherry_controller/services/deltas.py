"""Deltas made on demand: for the blobs of a bundle, from those that devices report.

    asked for --> a child makes it --> kept, by its index --> offered
                        '--> kept as of no use (hardly shorter); failed: tried at the next start

A delta is keyed by the digests of its base and of its blob, so it serves every device and rollout
that come to the same pair. `offers` is called for each of many devices, so what is known is kept
in memory: only a pair that is new costs anything.
"""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from wherry import codec, signing
from wherry.blobs import Blob, describe
from wherry.errors import REFUSALS
from wherry.manifest import LARGEST_MANIFEST_BYTES, Manifest
from wherry.messages import Delta, DeltaIndex
from wherry.names import Digest
from wherry_controller.services.delta_maker import Maker
from wherry_controller.services.publisher import Shelved, shelve_delta
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.database import Store
from wherry_controller.store.deltas import list_deltas, save_delta
from wherry_controller.store.models import get_envelope
from wherry_controller.store.records import KeptDelta

log = logging.getLogger(__name__)

SMALLEST_BLOB_BYTES = 64 * 1024  # A shorter blob costs less than the messages about a delta.
LARGEST_SHARE = 0.9  # Of the blob: what saves less is not worth a device's work.

Files: TypeAlias = Mapping[str, Blob]


@dataclass(frozen=True, slots=True)
class Pair:
    """A blob that a device lacks, and the one under the same name in a bundle that it has."""

    base: Digest
    blob: Digest


class Deltas:
    """The deltas that are known and those that are being made; threads may share it.

    `on_made` is called on the executor's thread when there is another delta to offer.
    """

    def __init__(
        self,
        store: Store,
        blobs: BlobFolder,
        executor: Executor,
        *,
        maker: Maker,
        clock: Callable[[], float],
        on_made: Callable[[], None],
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._executor = executor
        self._maker = maker
        self._clock = clock
        self._on_made = on_made
        self._lock = threading.Lock()
        self._files: dict[Digest, Files] = {}
        with store.reading() as tx:
            kept = list_deltas(tx)
        # None stands for a delta that is being made.
        self._known: dict[Pair, KeptDelta | None] = {
            Pair(delta.base, delta.blob): delta
            for delta in kept
            if delta.index is None or blobs.has(delta.index)
        }

    def offers(self, base_bundles: Collection[Digest], bundle: Digest) -> tuple[Delta, ...]:
        """Return a delta for each blob of a bundle that one of other bundles may shorten.

        One without an index is being made, for this call or an earlier one.
        """
        bases = [self._files_of(base) for base in base_bundles]
        with self._lock:
            every = [
                self._offer(list(_pairs(name, blob, bases)))
                for name, blob in self._files_of(bundle).items()
            ]
        return tuple(delta for delta in every if delta is not None)

    def chunks_of(self, delta: Delta) -> Shelved | None:
        """Return what a delta takes on the broker; None while it is being made.

        Raises `LostBlob` where its index is not in the blob folder.
        """
        return None if delta.index is None else shelve_delta(self._blobs.get(delta.index))

    def stop(self) -> None:
        """End what is being made; it is made again when it is asked for."""
        self._maker.stop()

    def _offer(self, pairs: Sequence[Pair]) -> Delta | None:
        """Return the shortest delta that is made, or else the first that is or can be tried."""
        known = [delta for pair in pairs if (delta := self._known.get(pair))]
        made = [delta for delta in known if delta.index is not None]
        if made:
            best = min(made, key=lambda delta: delta.size_bytes)
            return Delta(blob=best.blob, base=best.base, index=best.index)
        for pair in pairs:
            if pair not in self._known:
                self._known[pair] = None
                self._executor.submit(self._make, pair)
            if self._known[pair] is None:
                return Delta(blob=pair.blob, base=pair.base)
        return None

    def _make(self, pair: Pair) -> None:
        try:
            delta = self._made(pair)
            with self._store.transaction() as tx:
                save_delta(tx, delta)
        except (*REFUSALS, OSError) as error:
            log.warning("delta.failed", extra={"blob": pair.blob, "problem": str(error)})
            delta = self._useless(pair, 0, str(error))
        else:
            log.info("delta.made", extra={"blob": pair.blob, "bytes": delta.size_bytes})
        with self._lock:
            self._known[pair] = delta
        self._on_made()

    def _made(self, pair: Pair) -> KeptDelta:
        """Make a delta and keep it with its index; raise what the maker and the folder raise."""
        base, blob = self._blobs.path(pair.base), self._blobs.path(pair.blob)
        with tempfile.TemporaryDirectory(prefix="wherry-delta-") as folder:
            path = Path(folder) / "delta"
            self._maker.make(base, blob, path)
            size_bytes, whole_bytes = path.stat().st_size, blob.stat().st_size
            if size_bytes > LARGEST_SHARE * whole_bytes:
                return self._useless(
                    pair, size_bytes, f"it has {size_bytes} of {whole_bytes} bytes"
                )
            data = path.read_bytes()
        self._blobs.put(data)
        index = DeltaIndex(base=pair.base, blob=pair.blob, delta=describe(data))
        return KeptDelta(
            base=pair.base,
            blob=pair.blob,
            index=self._blobs.put(codec.encode(index)),
            size_bytes=size_bytes,
            made_at=self._clock(),
        )

    def _useless(self, pair: Pair, size_bytes: int, problem: str) -> KeptDelta:
        return KeptDelta(
            base=pair.base,
            blob=pair.blob,
            index=None,
            size_bytes=size_bytes,
            problem=problem,
            made_at=self._clock(),
        )

    def _files_of(self, bundle: Digest) -> Files:
        """Return the files of a bundle by name; none where there is no such bundle."""
        if bundle not in self._files:
            with self._store.reading() as tx:
                envelope = get_envelope(tx, bundle)
            if envelope is None:
                return {}
            self._files[bundle] = _manifest_of(envelope).files
        return self._files[bundle]


def _pairs(name: str, blob: Blob, bases: Sequence[Files]) -> Iterator[Pair]:
    """Yield the pairs that could make a blob; none where one of the bases holds it."""
    held = {file.digest for files in bases for file in files.values()}
    if blob.digest not in held and blob.size_bytes >= SMALLEST_BLOB_BYTES:
        named = (files[name].digest for files in bases if name in files)
        yield from (Pair(base, blob.digest) for base in dict.fromkeys(named))


def _manifest_of(envelope: bytes) -> Manifest:
    opened = codec.decode(signing.Envelope, envelope, limit_bytes=2 * LARGEST_MANIFEST_BYTES)
    return codec.decode(Manifest, bytes(opened.signed), limit_bytes=LARGEST_MANIFEST_BYTES)
