"""The bundles on this device: judged on the way in, verified again on the way out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable

from wherry.blobs import WrongBytes
from wherry.errors import REFUSALS, Untrusted
from wherry.manifest import Manifest, open_manifest
from wherry.messages import detail
from wherry.names import Digest
from wherry.reasons import Reason
from wherry_agent.asking import BundlePlace
from wherry_agent.core import download
from wherry_agent.core.agent import Assembled, BundleRefused, ManifestAccepted
from wherry_agent.core.suitability import DISK_SPARE_BYTES, Machine, find_unfit
from wherry_agent.store import DiskFull, Store
from wherry_agent.ways import Place, Rebuild, Ways

Step = Assembled | BundleRefused | Rebuild | download.StillMissing | download.Awaits


class Shelf:
    """Manifests by digest, which is all that trust in them rests on: targets and order named it.

    `reserve_bytes` of the disk are never taken.
    """

    def __init__(
        self,
        store: Store,
        machine: Machine,
        *,
        ways: Ways | None = None,
        reserve_bytes: int = DISK_SPARE_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._machine = machine
        self._ways = Ways(store) if ways is None else ways
        self._reserve_bytes = reserve_bytes
        self._clock = clock
        self._manifests: dict[Digest, Manifest] = {}
        self._rotten: Counter[Digest] = Counter()  # How often a bundle's chunks were found so.

    def judge_by(self, machine: Machine) -> None:
        """Judge what comes from now on by what this device was found to be."""
        self._machine = machine

    def accept(self, bundle: Digest, envelope: bytes) -> ManifestAccepted | BundleRefused:
        """Verify, then parse, then judge; only then is anything of the bundle fetched."""
        try:
            manifest = open_manifest(envelope, bundle)
        except REFUSALS as error:
            return BundleRefused(bundle, reason_of(error), detail(str(error)))
        unfit = find_unfit(
            manifest,
            self._machine,
            needed_bytes=self._store.needed_bytes(manifest),
            free_bytes=self._store.free_bytes(),
            reserve_bytes=self._reserve_bytes,
        )
        if unfit is not None:
            return BundleRefused(bundle, unfit.reason, unfit.detail)
        try:
            self._store.put_manifest(bundle, envelope)
        except DiskFull as error:
            return BundleRefused(bundle, Reason.DISK_FULL, str(error))
        self._manifests[bundle] = manifest
        plan = self._ways.plan(bundle, manifest, self._clock())
        return ManifestAccepted(bundle, plan.missing, manifest.measuring)

    def accept_again(self, bundle: Digest) -> ManifestAccepted | BundleRefused | None:
        """Accept the manifest that is on disk already; None where it must be fetched."""
        envelope = self._store.manifest_envelope(bundle)
        return self.accept(bundle, envelope) if envelope else None

    def assemble(self, bundle: Digest) -> Step:
        """Make the bundle's blobs of the chunks on disk, or say what has to come first."""
        manifest = self.find(bundle)
        if manifest is None:
            gone = "its manifest is gone from the disk"
            return BundleRefused(bundle, Reason.MALFORMED_MANIFEST, gone)
        now_s = self._clock()
        plan = self._ways.plan(bundle, manifest, now_s)
        if plan.missing:
            return download.StillMissing(plan.missing, now_s)
        if plan.rebuild is not None:
            return plan.rebuild
        if plan.awaits_until_s is not None:
            return download.Awaits(plan.awaits_until_s, now_s)
        try:
            self._store.assemble(manifest)
        except WrongBytes as error:
            self._store.drop_rotten_chunks(manifest)
            self._rotten[bundle] += 1
            missing = self._ways.plan(bundle, manifest, now_s).missing
            if missing and self._rotten[bundle] <= download.SPOILS_ALLOWED:
                return download.StillMissing(missing, now_s)
            del self._rotten[bundle]
            return BundleRefused(bundle, Reason.WRONG_BYTES, detail(str(error)))
        except DiskFull as error:
            return BundleRefused(bundle, Reason.DISK_FULL, str(error))
        return Assembled(bundle)

    def locate(self, bundle: Digest, chunk: Digest) -> Place | None:
        """Return where a chunk that the bundle needs stands in what an HTTP(S) source holds."""
        manifest = self.find(bundle)
        return self._ways.locate(manifest, chunk) if manifest else None

    def place(self, bundle: Digest) -> BundlePlace | None:
        """Return where the engine finds the bundle; None where its manifest is gone or damaged.

        The blobs are hashed by the worker that loads them.
        """
        manifest = self.find(bundle)
        if manifest is None:
            return None
        return BundlePlace(
            digest=bundle,
            manifest_path=self._store.manifest_path(bundle),
            blobs_folder=self._store.blobs,
            manifest=manifest,
        )

    def keep(self, bundles: Iterable[Digest]) -> None:
        """Delete from the disk what none of these bundles needs.

        Where the manifest of one cannot be read, nothing tells what it needs: nothing goes.
        """
        names = frozenset(bundles)
        self._manifests = {d: m for d, m in self._manifests.items() if d in names}
        manifests = {bundle: self.find(bundle) for bundle in names}
        known = [manifest for manifest in manifests.values() if manifest is not None]
        if any(self._store.has_manifest(d) for d, found in manifests.items() if found is None):
            return
        self._store.keep(known, names, chunks=self._ways.parts(known))

    def find(self, bundle: Digest) -> Manifest | None:
        """Return the manifest, verified again when it is read; None where there is none."""
        if bundle not in self._manifests:
            envelope = self._store.manifest_envelope(bundle)
            if envelope is None:
                return None
            try:
                self._manifests[bundle] = open_manifest(envelope, bundle)
            except REFUSALS:
                return None
        return self._manifests[bundle]


def reason_of(error: Exception) -> Reason:
    """Return the reason code for a manifest that was refused at the door."""
    if isinstance(error, Untrusted):
        return Reason.WRONG_MANIFEST
    return Reason.MALFORMED_MANIFEST
