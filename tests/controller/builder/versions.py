"""Versions and builds for tests: cards with real files beside them, and the builder's process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from wherry import codec
from wherry.blobs import digest_of
from wherry.manifest import Manifest
from wherry.names import Digest, parse_model_name, parse_version_name
from wherry.profile import Profile
from wherry.signature import BATCH, Datatype, Signature, Tensor
from wherry_controller.core.build import (
    BuildMessage,
    BuildRequest,
    Built,
    Limits,
    Refused,
    parse_message,
)
from wherry_controller.core.card import (
    Card,
    Data,
    Goal,
    Source,
    SourceKind,
    Task,
    files_of,
    lineage_digest,
)
from wherry_controller.core.choice import Candidate
from wherry_controller.core.written import parse_profile

REPOSITORY = Path(__file__).parents[3]
PROFILES = REPOSITORY / "controller/wherry_sim/profiles"
RUNTIMES = REPOSITORY / "build" / "runtimes"  # Made once, kept between runs of the tests.
SIGNATURE = Signature(
    (Tensor("image", Datatype.FP32, (BATCH, 1, 28, 28), "NCHW"),),
    (Tensor("scores", Datatype.FP32, (BATCH, 10)),),
)
ACCURACY = 0.92  # What `digits` reaches, to within the goal's drop.
COMMAND = (sys.executable, "-m", "wherry_controller.builder")


@dataclass(frozen=True, slots=True)
class Build:
    """What a build said, and where it wrote."""

    output: Path
    cache: Path
    messages: tuple[BuildMessage, ...]

    @property
    def built(self) -> dict[str, Built]:
        return {item.profile: item for item in self.messages if isinstance(item, Built)}

    @property
    def refused(self) -> list[Refused]:
        return [item for item in self.messages if isinstance(item, Refused)]

    def chosen(self, profile: str) -> Candidate:
        """Return the candidate that was shipped."""
        report = self.built[profile].report
        return next(one for one in report.candidates if one.name == report.chosen)

    def document(self, profile: str) -> bytes:
        return (self.output / f"{profile}.manifest.json").read_bytes()

    def manifest(self, profile: str) -> Manifest:
        return codec.decode(Manifest, self.document(profile))

    def blob(self, digest: Digest) -> bytes:
        return (self.output / "blobs" / digest).read_bytes()


def a_profile_named(name: str) -> Profile:
    return parse_profile((PROFILES / f"{name}.toml").read_bytes())


def a_card(
    *,
    factory: str = "net.py:make_net",
    state_dict: str = "weights.pt",
    calibration: str | None = "calibration.npz",
    evaluation: str = "evaluation.npz",
    floor: float = 0.8,
    largest_drop: float = 0.03,
    claimed: float = ACCURACY,
    signature: Signature = SIGNATURE,
) -> Card:
    return Card(
        model=parse_model_name("digits"),
        version=parse_version_name("v1"),
        source=Source(kind=SourceKind.STATE_DICT, file=state_dict, factory=factory),
        signature=signature,
        task=Task(output=signature.outputs[0].name, claimed=claimed),
        data=Data(evaluation=evaluation, calibration=calibration),
        goal=Goal(floor=floor, largest_drop=largest_drop),
        labels=tuple("0123456789"),
    )


def run_build(
    card: Card,
    folder: Path,
    output: Path,
    profiles: Sequence[Profile],
    *,
    cache: Path | None = None,
    limits: Limits | None = None,
    command: Sequence[str] = COMMAND,
) -> Build:
    """Run the builder as a controller does; any exit status but 0 is an error."""
    output.mkdir()
    cache = cache or output.with_name(f"{output.name}-cache")
    digests = {name: digest_of((folder / name).read_bytes()) for name in files_of(card)}
    request = BuildRequest(
        card=card,
        folder=str(folder),
        output=str(output),
        cache=str(cache),
        runtimes=str(RUNTIMES),
        lineage=lineage_digest(card, digests),
        profiles=tuple(profiles),
        limits=limits or Limits(),
    )
    file = output / "request.json"
    file.write_bytes(codec.encode(request))
    words = [*command, str(file)]
    done = subprocess.run(words, check=False, capture_output=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return Build(output, cache, tuple(parse_message(line) for line in done.stdout.splitlines()))


def with_budgets(
    profile: Profile, *, size_bytes: int | None = None, latency_ms: float | None = None
) -> Profile:
    return replace(profile, size_bytes=size_bytes, latency_ms=latency_ms)
