"""Golden outputs put to the proof: they must miss weights that were damaged.

A tolerance that lets every faithful device through may let anything through. So the strongest
quarter of the output channels is zeroed, in the first and in the last layer, and each damaged
model has to fail. (A channel that is dead changes nothing when it is zeroed; the strongest
quarter is not dead, and if it is for these rows, then the rows are the fault.)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wherry.profile import Profile, Runtime
from wherry_controller.builder import lite_file, onnx_file
from wherry_controller.builder.agreement import Golden
from wherry_controller.builder.faults import refuse
from wherry_controller.builder.onnx_file import Weights
from wherry_controller.builder.variant import Variant, load
from wherry_controller.core.recipe import BuildReason

SHARE = 0.25


def refuse_blind(golden: Golden, variant: Variant, profile: Profile) -> None:
    """Refuse golden outputs that the good variant fails or that a damaged one meets."""
    if not golden.agrees(load(variant, profile)):
        refuse(BuildReason.GOLDEN_BLIND, "the variant does not give its own golden outputs again")
    for layer in _edges(_weights(variant.file, profile)):
        file = _damaged(variant.file, layer, profile)
        if golden.agrees(load(replace(variant, file=file), profile)):
            problem = f"the golden outputs do not show damage to the layer {layer.name!r}"
            refuse(BuildReason.GOLDEN_BLIND, problem)


def damage(layer: Weights) -> npt.NDArray[np.generic]:
    """Return the weights with the strongest quarter of their output channels zeroed."""
    channels = np.moveaxis(layer.values.copy(), layer.axis, 0)
    strength = np.abs(channels.astype(np.float64)).reshape(len(channels), -1).sum(axis=1)
    strongest = np.argsort(strength)[::-1][: max(1, int(len(channels) * SHARE))]
    channels[strongest] = 0
    return np.ascontiguousarray(np.moveaxis(channels, 0, layer.axis))


def _edges(layers: list[Weights]) -> list[Weights]:
    return [layers[0], layers[-1]] if len(layers) > 1 else layers


def _weights(file: Path, profile: Profile) -> list[Weights]:
    if profile.runtime is Runtime.ONNXRUNTIME:
        return onnx_file.weights(file)
    return lite_file.weights(file)


def _damaged(file: Path, layer: Weights, profile: Profile) -> Path:
    to = file.with_name(f"damaged-{file.name}")
    if profile.runtime is Runtime.ONNXRUNTIME:
        return onnx_file.with_weights(file, layer.name, damage(layer), to)
    return lite_file.with_weights(file, layer.name, damage(layer), to)
