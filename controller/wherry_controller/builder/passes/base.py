"""What the passes of every runtime say of a float export's operators."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator that a recipe would quantize.

    `name` is what `Recipe.kept_float` takes, `kind` an operator of ONNX (`Conv`), `layer` the net's
    own name for the place, for people; it is the operator's name where that is not known.
    """

    name: str
    kind: str
    layer: str
    weight_bytes: int
