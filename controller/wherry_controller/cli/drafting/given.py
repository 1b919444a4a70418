"""What a card is drafted from: the model file, the flags, and somebody to ask."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from wherry_controller.cli.drafting.asking import Asker


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What the command line gives, as it was typed; None and () are left to ask."""

    model: str | None = None
    version: str | None = None
    kind: str | None = None
    factory: str | None = None
    code: tuple[str, ...] = ()
    name: tuple[str, ...] = ()
    constant: tuple[str, ...] = ()
    input: tuple[str, ...] = ()
    output: tuple[str, ...] = ()
    state: tuple[str, ...] = ()
    max_batch: int | None = None
    metric: str | None = None
    task_output: str | None = None
    k: str | None = None
    boxes: str | None = None
    classes: str | None = None
    function: str | None = None
    lower_is_better: bool = False
    claimed: str | None = None
    evaluation: str | None = None
    calibration: str | None = None
    search: str | None = None
    label: str | None = None
    columns: tuple[str, ...] = ()
    pixel_scale: str | None = None
    pixel_mean: str | None = None
    pixel_deviation: str | None = None
    floor: str | None = None
    largest_drop: str | None = None
    labels: str | None = None
    asset: tuple[str, ...] = ()
    licence: str | None = None

    def given(self) -> list[str]:
        """Return the names of what was given."""
        return [field.name for field in fields(self) if getattr(self, field.name) != field.default]


@dataclass(frozen=True, slots=True)
class Draft:
    file: Path
    flags: Flags
    asker: Asker

    @property
    def folder(self) -> Path:
        return self.file.parent
