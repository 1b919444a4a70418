"""The way each missing blob of a bundle is fetched: whole, or as a delta from a blob that is here.

    hint without index --made, or 60 s--> index -> delta's chunks -> rebuilt blob
          any of it in vain, or shorter whole ----------------------> the blob's own chunks

A delta is advice that nobody signed. What it makes is the blob only if its digest says so, and a
delta that failed once is not tried again. Where numpy is missing, every blob is fetched whole.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wherry import codec
from wherry.blobs import CHUNK_BYTES, Blob, chunk_sizes
from wherry.errors import Malformed
from wherry.manifest import Manifest, blobs_of
from wherry.messages import Delta, DeltaIndex
from wherry.names import Digest
from wherry.reasons import Reason
from wherry_agent.store import Store

PATIENCE_S = 60.0
INDEX_BYTES = 16 * 1024  # A guess, for rates and budgets only.


@dataclass(frozen=True, slots=True)
class Rebuild:
    """A delta is on disk whole: `blob` can be made of it and `base`."""

    bundle: Digest
    blob: Blob
    base: Path
    delta: Blob


@dataclass(frozen=True, slots=True)
class Plan:
    """What to fetch next of a bundle, what to rebuild then, and until when to wait for a delta."""

    missing: dict[Digest, int]
    rebuild: Rebuild | None = None
    awaits_until_s: float | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chunk stands in what an HTTP(S) source holds; `size_bytes` None: the whole file."""

    blob: Digest
    start: int
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class DeltaRefused:
    """A delta that makes nothing; the blob is fetched whole."""

    reason: Reason
    detail: str


class Ways:
    """The deltas that are offered to this device, and those that were tried in vain."""

    def __init__(self, store: Store, *, can_rebuild: bool | None = None) -> None:
        self._store = store
        self._can_rebuild = has_numpy() if can_rebuild is None else can_rebuild
        self._hints: dict[Digest, Delta] = {}
        self._vain: set[tuple[Digest, Digest]] = set()
        self._waits_since_s: dict[Digest, float] = {}
        self.refused: list[DeltaRefused] = []

    def offer(self, deltas: Iterable[Delta]) -> bool:
        """Take the deltas that are offered now; say whether they are others than before."""
        before, self._hints = self._hints, {delta.blob: delta for delta in deltas}
        return before != self._hints

    def refuse(self, blob: Digest, why: DeltaRefused) -> None:
        """Try the delta of a blob no more, and have it told."""
        if hint := self._hints.get(blob):
            self._vain.add((hint.base, blob))
        self.refused.append(why)

    def plan(self, bundle: Digest, manifest: Manifest, now_s: float) -> Plan:
        """Return what is next to do for a bundle's blobs; nothing where every chunk is there."""
        missing: dict[Digest, int] = {}
        rebuild: Rebuild | None = None
        awaits_until_s: float | None = None
        for blob in blobs_of(manifest):
            if self._store.has_blob(blob.digest):
                continue
            match self._next(bundle, blob, now_s):
                case Rebuild() as ready:
                    rebuild = ready
                case float() as until_s:
                    awaits_until_s = until_s
                case chunks:
                    missing |= chunks
        return Plan(missing, rebuild, awaits_until_s)

    def parts(self, manifests: Iterable[Manifest]) -> frozenset[Digest]:
        """Return the chunks on disk or on their way that deltas of these bundles need."""
        parts: set[Digest] = set()
        for blob in (blob for manifest in manifests for blob in blobs_of(manifest)):
            hint = self._hints.get(blob.digest)
            if hint is not None and hint.index is not None:
                delta = self._delta(hint)
                parts |= {hint.index, *(delta.chunks if delta else ())}
        return frozenset(parts)

    def locate(self, manifest: Manifest, chunk: Digest) -> Place | None:
        """Return where a chunk of the bundle, or of its deltas, stands in a source's files."""
        deltas = (self._delta(hint) for hint in self._hints.values())
        for blob in (*blobs_of(manifest), *(delta for delta in deltas if delta)):
            if chunk in blob.chunks:
                start = blob.chunks.index(chunk) * blob.chunk_bytes
                return Place(blob.digest, start, chunk_sizes(blob)[chunk])
        if any(hint.index == chunk for hint in self._hints.values()):
            return Place(chunk, 0, None)
        return None

    def _next(
        self, bundle: Digest, blob: Blob, now_s: float
    ) -> dict[Digest, int] | Rebuild | float:
        """Return the chunks to fetch for a blob, what to rebuild, or until when to wait."""
        whole = self._store.missing_of(blob)
        hint = self._hints.get(blob.digest)
        if not whole or hint is None or not self._is_usable(hint):
            return whole
        if hint.index is None:
            until_s = self._waits_since_s.setdefault(blob.digest, now_s) + PATIENCE_S
            return until_s if now_s < until_s else whole
        if self._store.chunk(hint.index) is None:
            return {hint.index: INDEX_BYTES}
        delta = self._delta(hint)
        parts = self._store.missing_of(delta) if delta else whole
        if delta is None or sum(parts.values()) >= sum(whole.values()):
            return whole
        return parts or Rebuild(bundle, blob, self._store.blobs / hint.base, delta)

    def _is_usable(self, hint: Delta) -> bool:
        is_vain = (hint.base, hint.blob) in self._vain
        return self._can_rebuild and not is_vain and self._store.has_blob(hint.base)

    def _delta(self, hint: Delta) -> Blob | None:
        """Return the delta that a hint's index names; None where no right index is here."""
        data = self._store.chunk(hint.index) if hint.index else None
        if data is None:
            return None
        try:
            index = codec.decode(DeltaIndex, data, limit_bytes=CHUNK_BYTES)
        except Malformed as error:
            self.refuse(hint.blob, DeltaRefused(Reason.DELTA_CORRUPT, str(error)))
            return None
        if (index.base, index.blob) != (hint.base, hint.blob):
            why = f"the index {hint.index} is of another delta than its hint"
            self.refuse(hint.blob, DeltaRefused(Reason.DELTA_WRONG_BASE, why))
            return None
        return index.delta


def has_numpy() -> bool:
    """Say whether a child could rebuild here, without loading what it needs."""
    return importlib.util.find_spec("numpy") is not None
