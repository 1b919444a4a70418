"""A variant spoken to in the terms of its version's signature, as an agent speaks to it.

On the way in a tensor is transposed, quantized by the model's own scale and split into the
model's fixed batch; on the way out the same backwards. So every figure and every golden output
is what an application would see, whatever the runtime wants inside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from wherry.manifest import Binding
from wherry.profile import Profile, Runtime
from wherry.signature import Signature
from wherry_controller.builder.data import NUMPY, Array, Tensors
from wherry_controller.builder.runtimes import Invoke, open_lite, open_onnx

Run: TypeAlias = Callable[[Tensors], Tensors]


@dataclass(frozen=True, slots=True)
class Variant:
    """A model file, and how its tensors stand for the signature's (as in a manifest)."""

    file: Path
    signature: Signature
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    static_batch: int | None


def load(variant: Variant, profile: Profile) -> Run:
    """Load the variant on the profile's runtime; what is returned takes any number of rows."""
    opener = open_onnx if profile.runtime is Runtime.ONNXRUNTIME else open_lite
    invoke = opener(variant.file, profile)
    return lambda inputs: run(variant, invoke, inputs)


def inward(binding: Binding, array: Array) -> Array:
    """Return a tensor of the signature as the runtime's model wants it."""
    turned = np.transpose(array, binding.permutation) if binding.permutation else array
    wanted = NUMPY[binding.datatype]
    if binding.scale is None:
        return np.ascontiguousarray(turned, wanted)
    steps = np.rint(turned.astype(np.float32) / np.float32(binding.scale)) + binding.zero_point
    limits = np.iinfo(wanted.name)
    return np.ascontiguousarray(np.clip(steps, limits.min, limits.max), wanted)


def outward(binding: Binding, array: Array, wanted: np.dtype[np.generic]) -> Array:
    """Return a tensor of the runtime's model as the signature says."""
    if binding.scale is not None:
        steps = array.astype(np.float32) - np.float32(binding.zero_point)
        array = steps * np.float32(binding.scale)
    turned = np.transpose(array, np.argsort(binding.permutation)) if binding.permutation else array
    return np.ascontiguousarray(turned, wanted)


def run(variant: Variant, invoke: Invoke, inputs: Tensors) -> Tensors:
    """Ask the loaded model in signature terms."""
    ready = {
        binding.runtime_name: inward(binding, inputs[binding.name]) for binding in variant.inputs
    }
    given = _in_batches(invoke, ready, variant.static_batch)
    return {
        tensor.name: outward(binding, given[binding.runtime_name], NUMPY[tensor.datatype])
        for tensor, binding in zip(variant.signature.outputs, variant.outputs, strict=True)
    }


def _in_batches(invoke: Invoke, inputs: Tensors, size: int | None) -> Tensors:
    """Run in batches of exactly `size`; the last is filled up with copies of its last row."""
    rows = len(next(iter(inputs.values())))
    if size is None or size == rows:
        return invoke(inputs)
    batches = [
        invoke(
            {
                name: array[np.minimum(np.arange(start, start + size), rows - 1)]
                for name, array in inputs.items()
            }
        )
        for start in range(0, rows, size)
    ]
    return {name: np.concatenate([batch[name] for batch in batches])[:rows] for name in batches[0]}
