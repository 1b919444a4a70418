"""Builds: a version made for some profiles in a child process, what comes of it signed and kept.

    queued --> running --> succeeded | refused (the version or a variant is not good enough)
       |        |  ^  `--> failed (the build itself broke; the version may be built again)
       |        v  |
       |      measuring   (devices run its candidates, `services/trials.py`)
       `----------`------> canceled

One `Executor` runs them, one after another by default. What was queued or running when the
controller ended is queued again at its next start, and goes on from the steps that are cached; a
build under which the controller died `MOST_ATTEMPTS` times is failed, since it may be what killed
it.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import closing
from enum import Enum
from functools import partial
from pathlib import Path
from typing import assert_never

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from wherry.errors import REFUSALS, Unsuitable
from wherry.names import Digest, ModelName, ProfileName, VersionName
from wherry.profile import Profile
from wherry_controller.core import build as said
from wherry_controller.core.build import BuildMessage, Limits, Refused
from wherry_controller.core.choice import DeviceFigures
from wherry_controller.core.fault import BuildReason, BuildRefused
from wherry_controller.services.bench import OUTPUT, Bench
from wherry_controller.services.child import BuildCanceled, Builder, BuildStopped
from wherry_controller.services.harvest import Vouch, keep_reference, keep_report, keep_variant
from wherry_controller.services.measuring import Measuring
from wherry_controller.services.missing import UnknownBuild
from wherry_controller.services.models import (
    buildable_version_of,
    buildable_versions_of,
    version_of,
    wanted_profiles,
)
from wherry_controller.services.request import lay_out
from wherry_controller.services.told import advanced, sentence_of, where_log, why_failed
from wherry_controller.services.trials import BundleKeyApart, Trials, check_place, withdraw_all
from wherry_controller.store import models
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.database import Store, Transaction
from wherry_controller.store.records import Build, BuildStatus, Progress, Version, VersionStatus

log = logging.getLogger(__name__)

CRASHED = "build_crashed"
INTERRUPTED = "controller_died"
CANCELED = "canceled"
MOST_ATTEMPTS = 2
# Faults of the machine that builds: they say nothing of the version.
OF_THE_MACHINE = frozenset(
    {
        BuildReason.CONVERTER_CRASHED,
        BuildReason.OUT_OF_MEMORY,
        BuildReason.OUT_OF_TIME,
        BuildReason.RUNTIME_MISSING,
    }
)


class Scope(Enum):
    """Which versions of a model are built when all are."""

    NEWEST = "newest"
    EVERY = "every"


class NothingToBuild(Unsuitable):
    """No version is there that no build has refused."""

    def __str__(self) -> str:
        return "no version is there to build: register one with `wherry model add`."


class BuildOver(Unsuitable):
    """A build that has ended by itself, so it cannot be canceled."""

    def __init__(self, build: str, status: BuildStatus) -> None:
        super().__init__(build, status)
        self.build, self.status = build, status

    def __str__(self) -> str:
        return f"build {self.build} is {self.status} already: order another one instead."


class Builds:
    """Every build of this controller; any thread may call it."""

    def __init__(
        self,
        store: Store,
        blobs: BlobFolder,
        key: Ed25519PrivateKey,
        *,
        vouch: Vouch,
        vouches_at_once: Callable[[Transaction], bool],
        builder: Builder,
        executor: Executor,
        bench: Bench,
        trials: Trials,
        clock: Callable[[], float],
        limits: Limits,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._key = key
        self._vouch = vouch
        self._vouches_at_once = vouches_at_once
        self._builder = builder
        self._executor = executor
        self._bench = bench
        self._trials = trials
        self._clock = clock
        self._measuring = Measuring(
            store,
            blobs,
            key,
            vouch=vouch,
            builder=builder,
            trials=trials,
            advance=self._advance,
            clock=clock,
        )
        self._limits = limits

    def start(self) -> None:
        """Take up what an earlier process left: queue it again, or fail what keeps killing it."""
        self._bench.clear()
        with self._store.transaction() as tx:
            withdraw_all(tx, self._clock())
            left = models.open_builds(tx)
        for build in left:
            if build.attempts >= MOST_ATTEMPTS:
                self._end(build, BuildStatus.FAILED, INTERRUPTED, why_failed(build))
            else:
                self._queue_again(build, attempts=build.attempts)
                self._submit(build)

    def stop(self) -> None:
        """End what runs; it and those that wait are queued again at the next start."""
        self._builder.stop()
        self._trials.stop()
        self._executor.shutdown(cancel_futures=True)

    def order(
        self,
        model: ModelName,
        version: VersionName,
        profiles: Sequence[ProfileName],
        *,
        measure_on: str | None = None,
    ) -> Build:
        """Queue a build for profiles, all that are declared where none is named.

        The devices of the group or the device `measure_on` measure its candidates. Raises
        `UnknownVersion`, `UnknownProfile`, `NoProfile`, `UnknownPlace`, `BundleKeyApart` or
        `RefusedVersion` at once.
        """
        with self._store.transaction() as tx:
            found = buildable_version_of(tx, model, version)
            build = self._queue(tx, found, wanted_profiles(tx, profiles), measure_on)
        self._submit(build)
        return build

    def order_all(
        self,
        names: Sequence[ModelName],
        profiles: Sequence[ProfileName],
        scope: Scope,
        *,
        measure_on: str | None = None,
    ) -> Sequence[Build]:
        """Queue a build of each version that no build refused, of all models if none is named.

        Raises `UnknownModel`, `UnknownProfile`, `NoProfile`, `UnknownPlace`, `BundleKeyApart`
        or `NothingToBuild`.
        """
        with self._store.transaction() as tx:
            wanted = wanted_profiles(tx, profiles)
            chosen = names or [model.name for model in models.list_models(tx)]
            sound = [buildable_versions_of(tx, name) for name in dict.fromkeys(chosen)]
            newest = [versions[-1:] for versions in sound]
            versions = newest if scope is Scope.NEWEST else sound
            builds = [self._queue(tx, one, wanted, measure_on) for some in versions for one in some]
        if not builds:
            raise NothingToBuild
        for build in builds:
            self._submit(build)
        return builds

    def cancel(self, build: str) -> Build:
        """Let a build never begin, or kill it; its variants so far stand.

        Raises `UnknownBuild`, or `BuildOver` for one that has ended otherwise.
        """
        with self._store.transaction() as tx:
            found = build_of(tx, build)
            if found.status is BuildStatus.CANCELED:
                return found
            if not found.status.is_open:
                raise BuildOver(build, found.status)
            canceled = replace(
                found,
                status=BuildStatus.CANCELED,
                reason=CANCELED,
                detail=str(BuildCanceled()),
                ended_at=self._clock(),
            )
            models.save_build(tx, canceled)
        if found.status is BuildStatus.RUNNING:
            self._builder.cancel(build)
        return canceled

    def log(self, build: Build, profile: ProfileName | None) -> bytes | None:
        """Return the end of a build's log, what all profiles share where none is named."""
        return self._bench.log(build.id, profile)

    def _queue(
        self,
        tx: Transaction,
        version: Version,
        profiles: Sequence[Profile],
        measure_on: str | None,
    ) -> Build:
        if measure_on is not None:
            check_place(tx, measure_on)
            if not self._vouches_at_once(tx):
                raise BundleKeyApart
        build = Build(
            id=uuid.uuid4().hex[:12],
            model=version.model,
            version=version.name,
            profiles=tuple(profile.name for profile in profiles),
            measure_on=measure_on,
            created_at=self._clock(),
        )
        models.save_build(tx, build)
        return build

    def _submit(self, build: Build) -> None:
        self._executor.submit(self._run, build).add_done_callback(partial(_log_fault, build))

    def _run(self, build: Build) -> None:
        """Build from beginning to end: the outermost call of the executor's thread."""
        if not self._begin(build):
            return
        try:
            refused, measured = self._follow(build)
            self._finish(build, refused, self._measuring.note(build, measured))
        except BuildCanceled:
            pass  # Its end was written when it was asked for.
        except BuildStopped:
            # An orderly stop says nothing against it.
            self._queue_again(build, attempts=build.attempts)
        except BuildRefused as refusal:
            fault = refusal.fault
            detail = f"{fault.sentence} {where_log(build)}"
            self._end(build, BuildStatus.REFUSED, fault.reason.value, detail)
        except REFUSALS as error:
            self._end(build, BuildStatus.FAILED, CRASHED, f"{error} {where_log(build)}")
        except Exception as error:
            log.exception("build.broke", extra={"build": build.id})
            detail = f"the controller could not build it ({error}): see its log."
            self._end(build, BuildStatus.FAILED, CRASHED, detail)

    def _begin(self, build: Build) -> bool:
        """Note that a build runs; say False of one that was canceled meanwhile."""
        with self._store.transaction() as tx:
            found = build_of(tx, build.id)
            if found.status is not BuildStatus.QUEUED:
                return False
            running = replace(
                found,
                status=BuildStatus.RUNNING,
                started_at=self._clock(),
                attempts=found.attempts + 1,
            )
            models.save_build(tx, running)
        return True

    def _queue_again(self, build: Build, *, attempts: int) -> None:
        with self._store.transaction() as tx:
            found = build_of(tx, build.id)
            if found.status.is_open:
                waiting = replace(
                    found,
                    status=BuildStatus.QUEUED,
                    attempts=attempts,
                    started_at=None,
                    progress=Progress(),
                )
                models.save_build(tx, waiting)

    def _follow(self, build: Build) -> tuple[Sequence[Refused], Sequence[DeviceFigures]]:
        """Run the build, keep what it makes, and return what it refused and devices measured."""
        refused: list[Refused] = []
        with self._bench.place_for(build.id, build.profiles) as place:
            request = lay_out(
                self._store, self._blobs, self._bench, build=build, place=place, limits=self._limits
            )
            try:
                if build.measure_on is not None:
                    figures = self._measuring.figures(build, request, build.measure_on)
                    request = replace(request, measured=figures)
                # Closed before the folder goes, also where a message of it is not believed.
                with closing(self._builder.run(build.id, request)) as messages:
                    for message in messages:
                        if isinstance(message, Refused):
                            refused.append(message)
                        self._note(build, place / OUTPUT, message)
            finally:
                self._bench.bound_cache(self._lineages_in_use(build))
        return refused, request.measured

    def _note(self, build: Build, output: Path, message: BuildMessage) -> None:
        match message:
            case said.Progress():
                self._advance(build, message)
            case said.Kept():
                keep_reference(
                    self._store, self._blobs, build=build, output=output, weights=message.weights
                )
            case said.Built():
                keep_variant(
                    self._store,
                    self._blobs,
                    self._key,
                    vouch=self._vouch,
                    build=build,
                    output=output,
                    built=message,
                    now=self._clock(),
                )
            case said.Refused():
                if message.report is not None:
                    keep_report(self._store, build=build, report=message.report, now=self._clock())
            case said.Offered():
                pass  # Devices have measured it, or none is asked.
            case _:
                assert_never(message)

    def _advance(self, build: Build, message: said.Progress) -> None:
        with self._store.transaction() as tx:
            found = build_of(tx, build.id)
            progress = advanced(found.progress, message)
            models.save_build(tx, replace(found, progress=progress))

    def _lineages_in_use(self, build: Build) -> frozenset[Digest]:
        """Return the lineages of the other versions that are being built."""
        with self._store.reading() as tx:
            running = [
                one
                for one in models.open_builds(tx)
                if one.status is not BuildStatus.QUEUED and one.id != build.id
            ]
            return frozenset(version_of(tx, one.model, one.version).lineage for one in running)

    def _finish(self, build: Build, refused: Sequence[Refused], note: str) -> None:
        """Write how a build ended, and what a person is told of it beside."""
        for refusal in refused:
            if refusal.profile is None and refusal.reason not in OF_THE_MACHINE:
                self._refuse_version(build, refusal)
        if refused:
            sentences = [sentence_of(refusal) for refusal in refused]
            profiles = [one.profile for one in refused if one.profile is not None]
            detail = " ".join((*sentences, *([note] if note else []), where_log(build, profiles)))
            self._end(build, BuildStatus.REFUSED, refused[0].reason.value, detail)
        else:
            self._end(build, BuildStatus.SUCCEEDED, detail=note)

    def _refuse_version(self, build: Build, refusal: Refused) -> None:
        with self._store.transaction() as tx:
            version = version_of(tx, build.model, build.version)
            refused = replace(version, status=VersionStatus.REFUSED, reason=refusal.reason.value)
            models.save_version(tx, refused)

    def _end(self, build: Build, status: BuildStatus, reason: str = "", detail: str = "") -> None:
        """Write a build's end, unless it was canceled."""
        with self._store.transaction() as tx:
            found = build_of(tx, build.id)
            if found.status.is_open:
                ended = replace(
                    found, status=status, reason=reason, detail=detail, ended_at=self._clock()
                )
                models.save_build(tx, ended)


def build_of(tx: Transaction, build: str) -> Build:
    """Return a build; raise `UnknownBuild`."""
    found = models.get_build(tx, build)
    if found is None:
        raise UnknownBuild(build)
    return found


def _log_fault(build: Build, ended: Future[None]) -> None:
    """Log what kept a build from ending: it stays open, and the next start takes it up."""
    if not ended.cancelled() and (fault := ended.exception()) is not None:
        log.error("build.left_open", exc_info=fault, extra={"build": build.id})
