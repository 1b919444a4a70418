"""A simulated disk and engine: what a device has, what serves on it, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from wherry import bundle as bundles
from wherry.blobs import check_digest, chunk_sizes, join
from wherry.histogram import Histogram, bucket, from_counts
from wherry.manifest import Manifest, blobs_of
from wherry.measures import ShadowCounts
from wherry.messages import Wanted
from wherry.names import AliasName, DeviceId, Digest, StoreId
from wherry.reasons import Reason
from wherry_agent.core import install
from wherry_sim.bundles import Behaviour
from wherry_sim.network import Broker
from wherry_sim.timeline import Timeline

REQUESTS_A_WINDOW = 120
MS = 1_000_000
MEMORY_BYTES = 60_000_000


class BrokenLaw(Exception):
    """Something happened that must never happen."""

    def __init__(self, device: DeviceId, law: str, at_s: float) -> None:
        super().__init__(device, law, at_s)
        self.device, self.law, self.at_s = device, law, at_s

    def __str__(self) -> str:
        return f"{self.device} at {self.at_s:.2f} s: {self.law}; run the same seed again to see it."


def shown_by(bundle: Digest) -> install.Shown:
    """Return what a simulated bundle shows: it computes nothing, and says so by its runtime."""
    return install.Shown(
        runtime="simulated", runtime_version="0", outputs=bundle, memory_bytes=MEMORY_BYTES
    )


@dataclass(slots=True)
class Disk:
    """What outlives the process. `saved`, `trust` and `outbox` change in one write."""

    store_id: StoreId
    saved: bytes
    trust: bytes
    outbox: dict[int, bytes] = field(default_factory=dict)
    events: int = 0
    reports: int = 0
    windows: int = 0
    manifests: dict[Digest, bytes] = field(default_factory=dict)
    chunks: dict[Digest, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class World:
    """What all devices share."""

    timeline: Timeline
    broker: Broker
    chance: Random
    behaviours: Mapping[Digest, Behaviour]
    alias: AliasName
    labels_after_s: float


@dataclass(slots=True)
class Engine:
    """What serves is gone at a kill, what lies on the disk is not."""

    device: DeviceId
    world: World
    disk: Disk
    serving: Digest | None = None
    sharing: Digest | None = None
    shadowing: Digest | None = None
    served: set[Digest] = field(default_factory=set)
    shared: set[Digest] = field(default_factory=set)

    def broken(self, law: str) -> BrokenLaw:
        return BrokenLaw(self.device, law, self.world.timeline.now_s)

    def check(self, state: install.State) -> None:
        """Hold what serves against what the machine says."""
        if self.serving != install.slots_of(state).active:
            raise self.broken("what serves is not what the slots say")
        tried = {state.wanted.bundle} if isinstance(state, install.Probation) else set()
        if self.serving is None and state.confirmed:
            raise self.broken("nothing serves though a bundle is confirmed")
        answering = {self.serving, self.sharing} - {None}
        if not answering <= tried | set(state.confirmed):
            raise self.broken("a bundle answers that is neither confirmed nor on probation")
        if (self.shadowing is not None) != isinstance(state, install.Shadowing):
            raise self.broken("copies go where nothing is shadowing, or do not where it is")

    def load(self, wanted: Wanted, now_s: float) -> install.Loaded | install.Sickened:
        if self.world.behaviours[wanted.bundle].passes_golden:
            return install.Loaded(wanted.deployment, now_s, shown_by(wanted.bundle))
        return install.Sickened(wanted.deployment, Reason.GOLDEN_MISMATCH, "it strays by 1.0")

    def serve(self, bundle: Digest | None) -> None:
        """Answer with a bundle alone; splits and shadowing end."""
        self.serving, self.sharing, self.shadowing = bundle, None, None
        self._note(bundle)

    def share(self, bundle: Digest) -> None:
        """Answer a part of the requests with a bundle, the others with what serves."""
        if self.serving is None:
            raise self.broken("a bundle is to share where nothing else serves")
        self.sharing, self.shadowing = bundle, None
        self.shared.add(bundle)
        self._note(bundle)

    def shadow(self, bundle: Digest) -> None:
        self.shadowing = bundle
        if self.serving is None or bundle == self.serving:
            raise self.broken("there is nothing to compare a bundle with")

    def compare(self, bundle: Digest) -> ShadowCounts:
        """Return what a window of copies gave: equal answers as often as labels say."""
        agreed = round(REQUESTS_A_WINDOW * self.world.behaviours[bundle].accuracy)
        return ShadowCounts(requests=REQUESTS_A_WINDOW, rows=REQUESTS_A_WINDOW, agreed=agreed)

    def _note(self, bundle: Digest | None) -> None:
        if bundle is None:
            return
        if bundle not in self.disk.manifests:
            raise self.broken("a bundle is to serve that is not on the disk")
        self.served.add(bundle)

    def keep(self, kept: tuple[Digest, ...]) -> None:
        """Delete every bundle but these, and every chunk that none of these names."""
        if self.serving is not None and self.serving not in kept:
            raise self.broken("the bundle that serves is to be deleted")
        for bundle in [bundle for bundle in self.disk.manifests if bundle not in kept]:
            del self.disk.manifests[bundle]
        named = {
            chunk
            for bundle in self.disk.manifests
            for blob in blobs_of(self.manifest(bundle))
            for chunk in blob.chunks
        }
        self.disk.chunks = {c: data for c, data in self.disk.chunks.items() if c in named}

    def accept(self, bundle: Digest, envelope: bytes) -> dict[Digest, int]:
        """Keep a verified manifest; return its chunks that are not on disk, in bytes."""
        manifest = bundles.open_manifest(envelope, bundle)
        self.disk.manifests[bundle] = envelope
        sizes: dict[Digest, int] = {}
        for blob in blobs_of(manifest):
            sizes |= chunk_sizes(blob)
        return {chunk: size for chunk, size in sizes.items() if chunk not in self.disk.chunks}

    def store(self, chunk: Digest, data: bytes) -> None:
        self.disk.chunks[chunk] = check_digest(data, chunk)

    def assemble(self, bundle: Digest) -> None:
        for blob in blobs_of(self.manifest(bundle)):
            join((self.disk.chunks[chunk] for chunk in blob.chunks), blob)

    def manifest(self, bundle: Digest) -> Manifest:
        return bundles.open_manifest(self.disk.manifests[bundle], bundle)

    def compute(self, median_ms: float) -> Histogram:
        """Return durations that stray as those of an unchanged model do on a busy machine."""
        strayed = round(median_ms * self.world.chance.uniform(0.8, 1.3) * MS)
        half = REQUESTS_A_WINDOW // 2
        counts = {bucket(strayed): half, bucket(strayed // 2): half // 2}
        return from_counts({**counts, bucket(strayed * 3): REQUESTS_A_WINDOW - half - half // 2})
