"""The bundles on this device: judged on the way in, verified again on the way out."""

from __future__ import annotations

from collections.abc import Iterable

from wherry.errors import REFUSALS, Untrusted
from wherry.manifest import Manifest, open_manifest
from wherry.messages import Reason, detail
from wherry.names import Digest
from wherry_agent.core.agent import Assembled, BundleRefused, ManifestAccepted
from wherry_agent.core.suitability import Machine, find_unfit
from wherry_agent.link import BundlePlace
from wherry_agent.store import DiskFull, Store


class Shelf:
    """Manifests by digest: the order and the targets agreed on it, so the name is the trust."""

    def __init__(self, store: Store, machine: Machine) -> None:
        self._store = store
        self._machine = machine
        self._manifests: dict[Digest, Manifest] = {}

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
        )
        if unfit is not None:
            return BundleRefused(bundle, unfit.reason, unfit.detail)
        try:
            self._store.put_manifest(bundle, envelope)
        except DiskFull as error:
            return BundleRefused(bundle, Reason.DISK_FULL, str(error))
        self._manifests[bundle] = manifest
        missing = self._store.missing_chunks(manifest)
        return ManifestAccepted(bundle, missing, manifest.measuring)

    def accept_again(self, bundle: Digest) -> ManifestAccepted | BundleRefused | None:
        """Accept the manifest that is on disk already; None where it must be fetched."""
        envelope = self._store.manifest_envelope(bundle)
        return self.accept(bundle, envelope) if envelope else None

    def assemble(self, bundle: Digest) -> Assembled | BundleRefused:
        """Make the bundle's blobs of the chunks on disk."""
        manifest = self.find(bundle)
        if manifest is None:
            gone = "its manifest is gone from the disk"
            return BundleRefused(bundle, Reason.MALFORMED_MANIFEST, gone)
        try:
            self._store.assemble(manifest)
        except Untrusted as error:
            return BundleRefused(bundle, Reason.MALFORMED_MANIFEST, detail(str(error)))
        except DiskFull as error:
            return BundleRefused(bundle, Reason.DISK_FULL, str(error))
        return Assembled(bundle)

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
        """Delete from the disk what none of these bundles needs."""
        names = frozenset(bundles)
        self._manifests = {d: m for d, m in self._manifests.items() if d in names}
        manifests = [manifest for bundle in names if (manifest := self.find(bundle))]
        self._store.keep(manifests, names)

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
