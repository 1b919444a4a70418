"""A build from request to messages: one version made into the best variant for each profile.

    version stage --> explore each profile --> time, in quiet --> finish each profile
    (one process)     (a process each)         (one after another)  (a process each)

Every step is kept by content (`cache`), so an unchanged version is built again by looking it up,
and a build that was killed goes on where it was. A fault of the version ends the build; a fault
of a variant ends that profile only, also where the process that made it died.
"""

from __future__ import annotations

import functools
import itertools
import queue
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from wherry import codec
from wherry.blobs import describe
from wherry.files import make_folder, write_whole
from wherry.manifest import Manifest, blobs_of
from wherry.names import ProfileName
from wherry.profile import Profile, Runtime
from wherry_controller.builder.cache import Cache, copy_file, copy_into, struct_facts
from wherry_controller.builder.jobs import Job, Jobs, Say
from wherry_controller.builder.running.environments import state_of
from wherry_controller.builder.running.place import places_of
from wherry_controller.builder.stages import WEIGHTS, Explored, Offer, Outcome, Task
from wherry_controller.core.build import (
    BLOBS,
    LOGS,
    BuildMessage,
    BuildRequest,
    BuildStep,
    Built,
    Kept,
    Offered,
    Progress,
    Refused,
    log_file,
    manifest_file,
)
from wherry_controller.core.choice import judge_weights
from wherry_controller.core.fault import BuildReason, BuildRefused

T = TypeVar("T")

OUTCOME = "outcome.json"
UNSTEADY = (BuildReason.RUN_FAILED, BuildReason.CONVERTER_CRASHED)
PASSES = "wherry_controller.builder.passes"
PARALLEL_STAGES = 2


def build(request: BuildRequest) -> Iterator[BuildMessage]:
    """Do what the request asks; yield each message as it becomes true."""
    output = Path(request.output)
    for folder in (BLOBS, LOGS):
        make_folder(output / folder)
    known, fresh = _known(request)
    for outcome in known:
        yield _told(outcome)
    if fresh:
        yield from _make(request, fresh)


def _make(request: BuildRequest, profiles: Sequence[Profile]) -> Iterator[BuildMessage]:
    try:
        fitting, refused = _fitting(request, profiles)
    except BuildRefused as refusal:
        yield Refused(refusal.fault.reason, refusal.fault.sentence)
        return
    yield from refused
    if fitting:
        yield from _Build(request, fitting).run()


def _fitting(
    request: BuildRequest, profiles: Sequence[Profile]
) -> tuple[list[Profile], list[Refused]]:
    """Return the profiles that the weights may fit, and the refusals of the others."""
    from wherry_controller.builder.sources import weight_bytes  # Loads numpy.

    size = weight_bytes(request.card, Path(request.folder))
    faults = {profile.name: judge_weights(profile, size) for profile in profiles}
    refused = [
        Refused(fault.reason, fault.sentence, name)
        for name, fault in faults.items()
        if fault is not None
    ]
    return [profile for profile in profiles if faults[profile.name] is None], refused


def _known(request: BuildRequest) -> tuple[list[Outcome], list[Profile]]:
    """Return the outcomes that stand in the cache, laid out, and the profiles that have none."""
    cache, found, fresh = Cache(Path(request.cache)), [], []
    for profile in request.profiles:
        folder = None if request.offers else cache.known("outcome", _facts(request, profile))
        if folder is None:
            fresh.append(profile)
        else:
            copy_into(folder, Path(request.output))
            found.append(codec.decode(Outcome, (folder / OUTCOME).read_bytes()))
    return found, fresh


def _facts(request: BuildRequest, profile: Profile) -> object:
    """Return what an outcome depends on beside the version, whose cache it stands in."""
    measured = [struct_facts(one) for one in request.measured if one.profile == profile.name]
    # What could not be emulated was not proved there, and is once it can be.
    runtimes = Path(request.runtimes)
    emulated = [state_of(place, runtimes) for place in places_of(profile).emulated]
    previous = request.previous.get(profile.name)
    return (request.lineage, struct_facts(profile), measured, previous, emulated)


@dataclass(slots=True)
class _Build:
    """The profiles of one build that have to be made, and how far they are."""

    request: BuildRequest
    profiles: Sequence[Profile]
    done: int = 0
    said: queue.SimpleQueue[Progress | None] = field(default_factory=queue.SimpleQueue)

    def run(self) -> Iterator[BuildMessage]:
        with Jobs(self.request.limits.processes, _passes(self.profiles)) as jobs:
            version = self._start(jobs, functools.partial(_load, self.request, self.profiles))
            yield from self._follow([version])
            try:
                folder = version.result()
            except BuildRefused as refusal:
                yield Refused(refusal.fault.reason, refusal.fault.sentence)
                return
            yield self._keep(folder / WEIGHTS)
            tasks = [Task(self.request, one, folder) for one in _in_turn(self.profiles)]
            yield from self._make(jobs, tasks)

    def _make(self, jobs: Jobs, tasks: Sequence[Task]) -> Iterator[BuildMessage]:
        exploring = {
            task.profile.name: self._start(jobs, functools.partial(_explore, task), task.profile)
            for task in tasks
        }
        yield from self._follow(exploring.values())
        explored, refused = _sorted(exploring)
        yield from refused
        sound = [task for task in tasks if task.profile.name in explored]
        if not sound:
            return
        found = [explored[task.profile.name] for task in sound]
        timing = self._start(jobs, functools.partial(_time, sound, found))
        yield from self._follow([timing])
        names = [task.profile.name for task in sound]
        try:
            timed = dict(zip(names, timing.result(), strict=True))
        except BuildRefused as refusal:
            fault = refusal.fault
            yield from (Refused(fault.reason, fault.sentence, name) for name in names)
            return
        if self.request.offers:
            yield from self._offer(jobs, sound, timed)
        else:
            yield from self._finish(jobs, sound, timed)

    def _finish(
        self, jobs: Jobs, tasks: Sequence[Task], explored: Mapping[ProfileName, Explored]
    ) -> Iterator[BuildMessage]:
        finishing = {
            task.profile.name: self._start(
                jobs, functools.partial(_finish, task, explored[task.profile.name]), task.profile
            )
            for task in tasks
        }
        yield from self._follow(finishing.values())
        outcomes, refused = _sorted(finishing)
        yield from refused
        for task in tasks:
            if task.profile.name in outcomes:
                self._remember(task.profile, outcomes[task.profile.name])
                yield _told(outcomes[task.profile.name])

    def _offer(
        self, jobs: Jobs, tasks: Sequence[Task], explored: Mapping[ProfileName, Explored]
    ) -> Iterator[BuildMessage]:
        offering = {
            task.profile.name: self._start(
                jobs, functools.partial(_offer, task, explored[task.profile.name]), task.profile
            )
            for task in tasks
        }
        yield from self._follow(offering.values())
        offers, refused = _sorted(offering)
        yield from refused
        for name, offered in offers.items():
            yield from (Offered(name, one.recipe, one.bundle) for one in offered)

    def _start(self, jobs: Jobs, job: Job[T], profile: Profile | None = None) -> Future[T]:
        name = profile.name if profile else None

        def say(step: str) -> None:
            self.said.put(Progress(BuildStep(step), self.done, self._total, name))

        log = Path(self.request.output) / LOGS / log_file(name)
        future = jobs.submit(job, log=log, say=say)
        future.add_done_callback(lambda _: self.said.put(None))
        return future

    @property
    def _total(self) -> int:
        return 2 + PARALLEL_STAGES * len(self.profiles)  # The version and the timing are one each.

    def _follow(self, futures: Collection[Future[T]]) -> Iterator[Progress]:
        """Yield what the jobs say until all of them have ended."""
        left = len(futures)
        while left:
            said = self.said.get()
            if said is None:
                left -= 1
                self.done += 1
            else:
                yield said

    def _keep(self, weights: Path) -> Kept:
        data = weights.read_bytes()
        blob = describe(data)
        write_whole(Path(self.request.output) / BLOBS / blob.digest, data)
        return Kept(blob)

    def _remember(self, profile: Profile, outcome: Outcome) -> None:
        """Keep an outcome with its bundle, so that it need not be made again."""
        if any(one.fault in UNSTEADY for one in outcome.report.candidates):
            return  # More memory or time may give another answer.
        output = Path(self.request.output)

        def lay_out(folder: Path) -> None:
            write_whole(folder / OUTCOME, codec.encode(outcome))
            if outcome.bundle is None:
                return
            document = (output / manifest_file(profile.name)).read_bytes()
            write_whole(folder / manifest_file(profile.name), document)
            make_folder(folder / BLOBS)
            for blob in blobs_of(codec.decode(Manifest, document)):
                copy_file(output / BLOBS / blob.digest, folder / BLOBS / blob.digest)

        Cache(Path(self.request.cache)).made("outcome", _facts(self.request, profile), lay_out)


def _in_turn(profiles: Sequence[Profile]) -> list[Profile]:
    """Return the profiles, their runtimes in turn: those of one wait for one another's steps."""
    kinds: dict[Runtime, list[Profile]] = {}
    for profile in profiles:
        kinds.setdefault(profile.runtime, []).append(profile)
    rounds = itertools.zip_longest(*kinds.values())
    return [one for turn in rounds for one in turn if one is not None]


def _passes(profiles: Sequence[Profile]) -> Sequence[str]:
    """Return the modules that make candidates for those profiles; an extra may be missing."""
    names = {"onnx" if one.runtime is Runtime.ONNXRUNTIME else "litert" for one in profiles}
    return [f"{PASSES}.{name}" for name in sorted(names)]


# The stages are imported where they run: a build that finds all in the cache loads no runtime.


def _load(request: BuildRequest, profiles: Sequence[Profile], say: Say) -> Path:
    from wherry_controller.builder.version import load_version

    runtimes = sorted({profile.runtime.value for profile in profiles})
    opset = min(profile.max_opset for profile in profiles)
    needed = replace(request, profiles=tuple(profiles))

    def make(folder: Path) -> None:
        load_version(needed, folder, say)

    return Cache(Path(request.cache)).made("version", (request.lineage, runtimes, opset), make)


def _explore(task: Task, say: Say) -> Explored:
    from wherry_controller.builder.explore import explore

    return explore(task, say)


def _time(tasks: Sequence[Task], explored: Sequence[Explored], say: Say) -> list[Explored]:
    from wherry_controller.builder.timing import time_all

    return time_all(tasks, explored, say)


def _finish(task: Task, explored: Explored, say: Say) -> Outcome:
    from wherry_controller.builder.finish import finish

    return finish(task, explored, say)


def _offer(task: Task, explored: Explored, say: Say) -> tuple[Offer, ...]:
    from wherry_controller.builder.finish import offer

    return offer(task, explored, say)


def _sorted(
    futures: Mapping[ProfileName, Future[T]],
) -> tuple[dict[ProfileName, T], list[Refused]]:
    """Return the results of jobs that ended well, and the refusals of the others."""
    results: dict[ProfileName, T] = {}
    refused: list[Refused] = []
    for name, future in futures.items():
        try:
            results[name] = future.result()
        except BuildRefused as refusal:
            refused.append(Refused(refusal.fault.reason, refusal.fault.sentence, name))
    return results, refused


def _told(outcome: Outcome) -> Built | Refused:
    """Return an outcome as the message that says it."""
    name = outcome.report.profile
    if outcome.bundle is not None:
        return Built(name, outcome.bundle, outcome.report)
    assert outcome.fault is not None
    return Refused(outcome.fault.reason, outcome.fault.sentence, name, outcome.report)
