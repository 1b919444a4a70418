"""A variant's model file, and how its tensors stand for those of its version's signature."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wherry.manifest import Binding
from wherry.signature import Signature


@dataclass(frozen=True, slots=True)
class Variant:
    """The bindings stand in the signature's order, as in a manifest."""

    file: Path
    signature: Signature
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    static_batch: int | None
