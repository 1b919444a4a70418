"""Damage to a model file that golden outputs must show.

    side (first layers, last layers, ranges) -> layer -> damage, the smallest first

A tolerance that lets every faithful device through may let anything through. So the strongest
output channels of a layer are zeroed: one, then more, up to a quarter. A dead channel changes
nothing when it is zeroed, and so does a layer in a branch that these rows do not take: each side
has a few layers to turn to. The ranges of a calibrated variant are made too narrow, all of them
alike, as by calibration rows of another scale. Too wide ones are not tried: they cost a fraction
of a bit, and were seen to move no output by more than a step, which no device need see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wherry.profile import Runtime
from wherry_controller.builder.judging.layer import Layer

LARGEST_SHARE = 0.25
LAYERS = 8  # Of a side: a whole branch that is not taken may stand before the first live one.
FACTORS = (1 / 2, 1 / 4, 1 / 16)


@dataclass(frozen=True, slots=True)
class Damage:
    """One way to hurt the file; `write` makes the hurt copy."""

    what: str
    write: Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Side:
    """Layers in turn until one is live, with its damages, the smallest first: one must be seen."""

    name: str
    layers: tuple[tuple[Damage, ...], ...]


def damages_of(file: Path, runtime: Runtime) -> tuple[Side, ...]:
    """Return what to try on the model; nothing where it has no weights and no ranges."""
    if runtime is Runtime.ONNXRUNTIME:
        from wherry_controller.builder.judging import damage_onnx

        return sides_of(damage_onnx.layers_of(file), damage_onnx.ranges_of(file))
    # LiteRT is an extra of its own, so only a LiteRT profile imports it.
    from wherry_controller.builder.judging import damage_lite

    return sides_of(damage_lite.layers_of(file), damage_lite.ranges_of(file))


def sides_of(
    layers: Sequence[Layer], scaled: Callable[[float, Path], None] | None
) -> tuple[Side, ...]:
    """Return the sides; `scaled` writes a copy with all ranges times a factor."""
    sides = []
    if layers:
        sides.append(Side("the first layers", _ladders(layers[:LAYERS])))
    if len(layers) > 1:
        sides.append(Side("the last layers", _ladders(layers[::-1][:LAYERS])))
    if scaled is not None:
        narrow = tuple(_scaling(scaled, factor) for factor in FACTORS)
        sides.append(Side("ranges that are too narrow", (narrow,)))
    return tuple(sides)


def _ladders(layers: Iterable[Layer]) -> tuple[tuple[Damage, ...], ...]:
    return tuple(_ladder(layer) for layer in layers)


def _ladder(layer: Layer) -> tuple[Damage, ...]:
    strengths = layer.strengths()
    channels = len(strengths)
    order = np.argsort(-strengths, kind="stable")
    most = max(1, int(channels * LARGEST_SHARE))
    counts = sorted({*(4**power for power in range(16) if 4**power < most), most})
    return tuple(_zeroing(layer, order[:count], channels) for count in counts)


def _zeroing(layer: Layer, chosen: npt.NDArray[np.int64], channels: int) -> Damage:
    what = f"{len(chosen)} of the {channels} channels of {layer.name!r} zeroed"
    return Damage(what, lambda to: layer.zeroed(chosen, to))


def _scaling(scaled: Callable[[float, Path], None], factor: float) -> Damage:
    return Damage(f"ranges times {factor:g}", lambda to: scaled(factor, to))
