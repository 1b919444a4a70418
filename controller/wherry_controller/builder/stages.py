"""What the stages of a build hand to one another, from process to process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from wherry.names import Digest
from wherry.profile import Profile
from wherry_controller.core.build import BuildRequest
from wherry_controller.core.choice import Candidate, ProfileReport, Sensitivity
from wherry_controller.core.fault import Fault

WEIGHTS = "weights.safetensors"  # In the folder of the version's stage.


@dataclass(frozen=True, slots=True)
class Task:
    """One profile's part of a build; `version` is the folder of the version's stage."""

    request: BuildRequest
    profile: Profile
    version: Path


class Explored(msgspec.Struct, frozen=True, kw_only=True):
    """All candidates, the float baseline first, and the model file of each that was made."""

    candidates: tuple[Candidate, ...]
    files: dict[str, str]
    sensitivities: tuple[Sensitivity, ...] = ()


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a profile's build came to: a bundle, or the fault that left none."""

    report: ProfileReport
    bundle: Digest | None = None
    fault: Fault | None = None


class Offer(msgspec.Struct, frozen=True):
    """A candidate packed as a bundle for measuring."""

    recipe: str
    bundle: Digest
