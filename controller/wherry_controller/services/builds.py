"""Builds: a version made for some profiles in a child process, each variant signed and kept.

    queued --> running --> succeeded | refused (the version or a variant is not good enough)
                       `-> failed (the build itself broke; the version may be built again)

One `Executor` runs them, one after another by default. A controller that stops or dies leaves a
build `running`; at the next start that is failed, since what it did may be what killed the
controller, and those that were only queued are queued again.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from wherry import bundle, codec
from wherry.blobs import check_digest
from wherry.errors import REFUSALS
from wherry.manifest import LARGEST_MANIFEST_BYTES, Manifest, blobs_of
from wherry.names import ModelName, ProfileName, VersionName
from wherry_controller.core import recipe
from wherry_controller.core.recipe import BuildMessage, BuildRequest, Built, Refused
from wherry_controller.services.child import Builder, BuildStopped
from wherry_controller.services.missing import UnknownBuild
from wherry_controller.services.models import (
    card_of,
    digests_of,
    known_profiles,
    sound_version_of,
    version_of,
)
from wherry_controller.store import models
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.database import Store, Transaction
from wherry_controller.store.records import (
    Build,
    BuildStatus,
    Progress,
    Variant,
    VersionStatus,
)

log = logging.getLogger(__name__)

CRASHED = "build_crashed"
INTERRUPTED = "controller_stopped"


class Builds:
    """Every build of this controller; any thread may call it."""

    def __init__(
        self,
        store: Store,
        blobs: BlobFolder,
        key: Ed25519PrivateKey,
        *,
        builder: Builder,
        executor: Executor,
        workspace: Path,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._key = key
        self._builder = builder
        self._executor = executor
        self._workspace = workspace
        self._clock = clock

    def start(self) -> None:
        """Take up what an earlier process left: fail what ran, queue again what waited."""
        shutil.rmtree(self._workspace, ignore_errors=True)
        self._workspace.mkdir(parents=True)
        with self._store.transaction() as tx:
            left = models.open_builds(tx)
        for build in left:
            if build.status is BuildStatus.RUNNING:
                self._fail(build, INTERRUPTED, str(BuildStopped()))
            else:
                self._executor.submit(self._run, build)

    def stop(self) -> None:
        """End the build that runs, as failed; those that wait are queued at the next start."""
        self._builder.stop()
        self._executor.shutdown(cancel_futures=True)

    def order(
        self, model: ModelName, version: VersionName, profiles: Sequence[ProfileName]
    ) -> Build:
        """Queue a build; raise `UnknownVersion`, `UnknownProfile` or `RefusedVersion` at once."""
        with self._store.transaction() as tx:
            sound_version_of(tx, model, version)
            build = Build(
                id=uuid.uuid4().hex[:12],
                model=model,
                version=version,
                profiles=tuple(profile.name for profile in known_profiles(tx, profiles)),
                created_at=self._clock(),
            )
            models.save_build(tx, build)
        self._executor.submit(self._run, build)
        return build

    def _run(self, build: Build) -> None:
        """Build from beginning to end: the outermost call of the executor's thread."""
        try:
            self._change(build, status=BuildStatus.RUNNING, started_at=self._clock())
            with tempfile.TemporaryDirectory(dir=self._workspace) as folder:
                self._finish(build, self._follow(build, Path(folder)))
        except BuildStopped as error:
            self._fail(build, INTERRUPTED, str(error))
        except REFUSALS as error:
            self._fail(build, CRASHED, str(error))
        except Exception as error:
            log.exception("build.broke", extra={"build": build.id})
            detail = f"the controller could not build it ({error}): see its log."
            self._fail(build, CRASHED, detail)

    def _follow(self, build: Build, folder: Path) -> Sequence[Refused]:
        """Run the build, keep what it makes, and return what it refused."""
        request = self._request(build, folder)
        refused: list[Refused] = []
        for message in self._builder.run(request):
            if isinstance(message, Refused):
                refused.append(message)
            else:
                self._note(build, request, message)
        return refused

    def _note(self, build: Build, request: BuildRequest, message: BuildMessage) -> None:
        match message:
            case recipe.Progress():
                step = f"{message.step.value} {message.profile or ''}".strip()
                self._change(build, progress=Progress(step, message.done, message.total))
            case Built():
                self._keep(build, Path(request.output), message)
            case Refused():
                pass

    def _request(self, build: Build, folder: Path) -> BuildRequest:
        """Lay the version's files out in `folder`, verified, and return what the build is told."""
        source, output = folder / "source", folder / "output"
        source.mkdir()
        output.mkdir()
        with self._store.transaction() as tx:
            version = version_of(tx, build.model, build.version)
            digests = digests_of(tx, build.model, build.version)
            profiles = known_profiles(tx, build.profiles)
        for name, digest in digests.items():
            (source / name).write_bytes(self._blobs.get(digest))
        return BuildRequest(
            card=card_of(version),
            folder=str(source),
            output=str(output),
            lineage=version.lineage,
            profiles=profiles,
        )

    def _keep(self, build: Build, output: Path, built: Built) -> None:
        """Sign a variant's manifest and keep its bundle; raise `WrongBytes` where files lie."""
        signed = (output / recipe.manifest_file(built.profile)).read_bytes()
        check_digest(signed, built.bundle)
        manifest = codec.decode(Manifest, signed, limit_bytes=LARGEST_MANIFEST_BYTES)
        blobs = {
            blob.digest: (output / recipe.BLOBS / blob.digest).read_bytes()
            for blob in blobs_of(manifest)
        }
        sealed = bundle.seal(manifest, blobs, self._key)
        for data in sealed.blobs.values():
            self._blobs.put(data)
        variant = Variant(
            model=build.model,
            version=build.version,
            profile=built.profile,
            bundle=sealed.digest,
            precision=manifest.precision,
            size_bytes=manifest.report.size_bytes,
            report=manifest.report,
            latency=built.latency,
            created_at=self._clock(),
        )
        with self._store.transaction() as tx:
            models.save_variant(tx, variant, sealed.envelope)

    def _finish(self, build: Build, refused: Sequence[Refused]) -> None:
        for refusal in refused:
            if refusal.profile is None:
                self._refuse_version(build, refusal)
        if refused:
            detail = " ".join(_sentence(refusal) for refusal in refused)
            self._end(build, BuildStatus.REFUSED, refused[0].reason.value, detail)
        else:
            self._end(build, BuildStatus.SUCCEEDED)

    def _refuse_version(self, build: Build, refusal: Refused) -> None:
        with self._store.transaction() as tx:
            version = version_of(tx, build.model, build.version)
            refused = replace(version, status=VersionStatus.REFUSED, reason=refusal.reason.value)
            models.save_version(tx, refused)

    def _fail(self, build: Build, reason: str, detail: str) -> None:
        self._end(build, BuildStatus.FAILED, reason, detail)

    def _end(self, build: Build, status: BuildStatus, reason: str = "", detail: str = "") -> None:
        self._change(build, status=status, reason=reason, detail=detail, ended_at=self._clock())

    def _change(self, build: Build, **changes: object) -> None:
        with self._store.transaction() as tx:
            models.save_build(tx, replace(build_of(tx, build.id), **changes))


def build_of(tx: Transaction, build: str) -> Build:
    """Return a build; raise `UnknownBuild`."""
    found = models.get_build(tx, build)
    if found is None:
        raise UnknownBuild(build)
    return found


def _sentence(refusal: Refused) -> str:
    return f"{refusal.profile}: {refusal.detail}" if refusal.profile else refusal.detail
