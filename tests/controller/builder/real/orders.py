"""Builds by the service's own builder, with limits, and what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.controller.builder.versions import RUNTIMES
from wherry.blobs import digest_of
from wherry.profile import Profile
from wherry_controller.core.build import (
    BLOBS,
    LOGS,
    BuildMessage,
    BuildRequest,
    Limits,
    Refused,
    log_file,
)
from wherry_controller.core.card import Card, files_of, lineage_digest
from wherry_controller.services.child import ChildBuilder


@dataclass(frozen=True, slots=True)
class Ended:
    """What a build that came to its end said, and where it wrote."""

    output: Path
    messages: tuple[BuildMessage, ...]

    @property
    def refused(self) -> Refused:
        """Return the one refusal."""
        (refused,) = (one for one in self.messages if isinstance(one, Refused))
        return refused

    @property
    def log(self) -> str:
        """Return what the version's part printed."""
        return (self.output / LOGS / log_file(None)).read_text()

    @property
    def left(self) -> list[str]:
        """Return what stands in the output beside logs: nothing, where a version was refused."""
        blobs = [file.name for file in (self.output / BLOBS).glob("*")]
        return [*blobs, *(file.name for file in self.output.glob("*.json"))]


def order(
    card: Card, folder: Path, place: Path, profiles: Sequence[Profile], limits: Limits | None = None
) -> Ended:
    """Build as the controller does; raises what its builder raises."""
    output = place / "build" / "output"
    output.mkdir(parents=True)
    present = {name: folder / name for name in files_of(card)}
    files = {name: file.read_bytes() if file.exists() else b"" for name, file in present.items()}
    request = BuildRequest(
        card=card,
        folder=str(folder),
        output=str(output),
        cache=str(place / "cache"),
        runtimes=str(RUNTIMES),
        lineage=lineage_digest(card, {name: digest_of(data) for name, data in files.items()}),
        profiles=tuple(profiles),
        limits=limits or Limits(deadline_s=120),
    )
    return Ended(output, tuple(ChildBuilder().run("b1", request)))
