"""A builder that follows a script, an executor without threads, and a version to register."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import IO, ParamSpec, TypeAlias, TypeVar

from msgspec.structs import replace

from tests.builders import a_bundle_of
from tests.controller import trusts
from tests.controller.reports import a_profile_report
from tests.controller.services.brokers import MemoryBroker
from wherry import codec
from wherry.blobs import describe, digest_of
from wherry.names import parse_profile_name
from wherry.profile import Profile
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
    offer_file,
)
from wherry_controller.core.fault import BuildReason, Fault
from wherry_controller.services.bench import Bench
from wherry_controller.services.child import BuildCanceled, BuildCrashed
from wherry_controller.services.fleet import Fleet
from wherry_controller.services.publisher import Pace, Publisher
from wherry_controller.services.trials import Trials
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.database import Store

P = ParamSpec("P")
T = TypeVar("T")
Script: TypeAlias = Callable[[BuildRequest], Iterator[BuildMessage]]

CARD = """\
model = "digits"
version = "{version}"

[source]
kind = "state_dict"
factory = "net.py:make_net"
file = "weights.pt"

[signature]
inputs = [{{ name = "image", datatype = "FP32", shape = ["batch", 2] }}]
outputs = [{{ name = "scores", datatype = "FP32", shape = ["batch", 3] }}]

[task]
output = "scores"
claimed = 0.96

[data]
evaluation = "evaluation.npz"
calibration = "calibration.npz"

[goal]
floor = 0.9
largest_drop = 0.02
"""
FILES = {
    "net.py": b"def make_net(): ...\n",
    "weights.pt": b"weights",
    "evaluation.npz": b"evaluation",
    "calibration.npz": b"calibration",
}
PROFILE = """\
name = "{name}"
arch = "x86_64"
runtime = "onnxruntime"
runtime_floor = "1.23"
runtime_below = "2"
"""


def a_card(version: str = "v1") -> bytes:
    return CARD.format(version=version).encode()


def the_files(**changes: bytes) -> list[tuple[str, IO[bytes]]]:
    """Return the files of `a_card`, some with other bytes: `weights=b"..."` for `weights.pt`."""
    named = {name: changes.get(name.partition(".")[0], data) for name, data in FILES.items()}
    return [(name, io.BytesIO(data)) for name, data in named.items()]


def write_version(folder: Path, version: str = "v1") -> Path:
    """Write a version's card and files as a person would keep them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.toml").write_bytes(a_card(version))
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return folder


def a_profile_file(name: str = "x86-onnx-fp32") -> bytes:
    return PROFILE.format(name=name).encode()


class ScriptedBuilder:
    """Builds as its script says."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[BuildRequest] = []
        self.canceled: set[str] = set()
        self.ended_in: list[bool] = []  # Whether the folder was there yet at its end.

    def run(self, build: str, request: BuildRequest) -> Generator[BuildMessage, None, None]:
        self.requests.append(request)
        try:
            for message in self.script(request):
                if build in self.canceled:
                    raise BuildCanceled
                yield message
        finally:
            self.ended_in.append(Path(request.output).is_dir())

    def cancel(self, build: str) -> None:
        self.canceled.add(build)

    def stop(self) -> None:
        self.script = crashes("stopped")


def builds_all(request: BuildRequest) -> Iterator[BuildMessage]:
    """Make a small bundle for each profile."""
    total = len(request.profiles)
    for done, profile in enumerate(request.profiles):
        yield Progress(BuildStep.PACKING, done, total, profile.name)
        made = a_bundle_of(
            f"{request.lineage} for {profile.name}".encode(),
            model=request.card.model,
            version=request.card.version,
            lineage=request.lineage,
            profile=profile,
        )
        output = Path(request.output)
        (output / BLOBS).mkdir(exist_ok=True)
        for digest, data in made.blobs.items():
            (output / BLOBS / digest).write_bytes(data)
        (output / f"{profile.name}.manifest.json").write_bytes(codec.encode(made.manifest))
        digest = digest_of(codec.encode(made.manifest))
        yield Built(profile.name, digest, a_profile_report(profile))


def offers(*recipes: str, then: Script = builds_all, measuring: bool = True) -> Script:
    """Return the script that offers candidates to devices where it shall, float first."""

    def script(request: BuildRequest) -> Iterator[BuildMessage]:
        if not request.offers:
            yield from then(request)
            return
        for profile in request.profiles:
            for recipe in ("fp32", *recipes):
                yield _offer(request, profile, recipe, measuring=measuring)

    return script


def _offer(request: BuildRequest, profile: Profile, recipe: str, *, measuring: bool) -> Offered:
    made = a_bundle_of(
        f"{recipe} for {profile.name}".encode(), lineage=request.lineage, profile=profile
    )
    signed = codec.encode(replace(made.manifest, measuring=measuring))
    output = Path(request.output)
    (output / BLOBS).mkdir(exist_ok=True)
    for digest, data in made.blobs.items():
        (output / BLOBS / digest).write_bytes(data)
    (output / offer_file(profile.name, recipe)).write_bytes(signed)
    return Offered(profile.name, recipe, digest_of(signed))


def refuses(reason: BuildReason, problem: str = "the scripted net is sick") -> Script:
    """Return the script that refuses the version."""

    def script(_: BuildRequest) -> Iterator[BuildMessage]:
        yield Refused(reason, Fault(reason, problem).sentence)

    return script


def refuses_profile(reason: BuildReason, profile: str) -> Script:
    """Return the script that builds all profiles but one."""

    def script(request: BuildRequest) -> Iterator[BuildMessage]:
        for message in builds_all(request):
            if not (isinstance(message, Built) and message.profile == profile):
                yield message
        (refused,) = (one for one in request.profiles if one.name == profile)
        report = replace(a_profile_report(refused), chosen=None, why="none is good")
        yield Refused(reason, Fault(reason, "it is not good").sentence, refused.name, report)

    return script


def keeps(announced: bytes, written: bytes) -> Script:
    """Return the script that hands the version's weights over before it builds all."""

    def script(request: BuildRequest) -> Iterator[BuildMessage]:
        weights = describe(announced)
        folder = Path(request.output) / BLOBS
        folder.mkdir()
        (folder / weights.digest).write_bytes(written)
        yield Kept(weights)
        yield from builds_all(request)

    return script


def logs(said: Mapping[str | None, str], then: Script = builds_all) -> Script:
    """Return the script that writes logs, of profiles and of what they share, before `then`."""

    def script(request: BuildRequest) -> Iterator[BuildMessage]:
        folder = Path(request.output) / LOGS
        folder.mkdir()
        for profile, text in said.items():
            name = None if profile is None else parse_profile_name(profile)
            (folder / log_file(name)).write_text(text)
        yield from then(request)

    return script


def crashes(last_line: str) -> Script:
    def script(_: BuildRequest) -> Iterator[BuildMessage]:
        yield Progress(BuildStep.LOADING, 0, 4)
        raise BuildCrashed(last_line)

    return script


def a_bench(folder: Path, *, cache_bytes: int = 1 << 30) -> Bench:
    return Bench(
        builds=folder / "builds",
        cache=folder / "cache",
        runtimes=folder / "runtimes",
        previous=folder / "previous",
        logs=folder / "logs",
        cache_bytes=cache_bytes,
    )


def a_fleet(store: Store, blobs: BlobFolder) -> Fleet:
    """Return a fleet behind a broker that keeps everything in memory."""
    return trusts.a_fleet(store, Publisher(MemoryBroker(), blobs, Pace()))


def a_trials(store: Store, fleet: Fleet) -> Trials:
    """Return trials that wait for nobody."""

    def at_desk(work: Callable[[Fleet], None]) -> None:
        work(fleet)

    return Trials(
        store,
        at_desk,
        budget_bytes=1 << 30,
        silence_s=-1.0,
        clock=lambda: 1000.0,
        pause=lambda _: False,
    )


class AtOnce(Executor):
    """Does the work where it is submitted, before it returns."""

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        future.set_result(work(*args, **kwargs))
        return future
