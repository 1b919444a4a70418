"""A loaded variant in the terms of its version's signature.

    signature -> transpose, quantize, split into batches -> runtime -> join, dequantize, transpose

So applications see the same on every device, whatever the runtime wants inside. A batch that
does not fill the variant's fixed one is padded with its last row.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wherry.errors import Malformed
from wherry.manifest import Binding, Manifest
from wherry.signature import Tensor
from wherry_agent.runtimes.base import DTYPES, RANGES, Array, Model


class NotFinite(Malformed):
    """An output that holds NaN or an infinity."""

    def __init__(self, output: str) -> None:
        super().__init__(output)
        self.output = output

    def __str__(self) -> str:
        return (
            f"the output {self.output!r} is not finite, so it is no answer: "
            "send an input as the model was trained on, or have another version rolled out."
        )


@dataclass(frozen=True, slots=True)
class Computed:
    """Outputs in the signature's order, and the time that the runtime took for them."""

    outputs: list[Array]
    compute_ns: int


class Variant:
    def __init__(self, model: Model, manifest: Manifest) -> None:
        self._model, self._manifest = model, manifest
        self._rows = manifest.static_batch or manifest.profile.max_batch

    def run(self, inputs: Sequence[Array]) -> Computed:
        """Compute the outputs for `inputs`, which stand in the signature's order.

        Raises `RunFailed`, and `NotFinite` where a floating-point output is not finite.
        """
        borrowed = self.borrow(inputs)
        return Computed([array.copy() for array in borrowed.outputs], borrowed.compute_ns)

    def borrow(self, inputs: Sequence[Array]) -> Computed:
        """Compute as `run` does, into arrays that hold the outputs only until the next time."""
        bound = [
            to_runtime(array, binding)
            for array, binding in zip(inputs, self._manifest.inputs, strict=True)
        ]
        rows = len(bound[0])
        if rows == self._rows or (rows < self._rows and self._manifest.static_batch is None):
            whole, compute_ns = self._timed(bound)
            return Computed(self._joined([whole], rows), compute_ns)
        parts: list[list[Array]] = []
        compute_ns = 0
        for start in range(0, rows, self._rows):
            batch = [self._padded(array[start : start + self._rows]) for array in bound]
            part, taken_ns = self._timed(batch)
            compute_ns += taken_ns
            parts.append(part if rows <= self._rows else [one.copy() for one in part])
        return Computed(self._joined(parts, rows), compute_ns)

    def _timed(self, batch: list[Array]) -> tuple[list[Array], int]:
        started_ns = time.perf_counter_ns()
        part = self._model.run(batch)
        return part, time.perf_counter_ns() - started_ns

    def _padded(self, batch: Array) -> Array:
        missing = self._rows - len(batch)
        if self._manifest.static_batch is None or not missing:
            return batch
        return np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])

    def _joined(self, parts: list[list[Array]], rows: int) -> list[Array]:
        sides = zip(self._manifest.outputs, self._manifest.signature.outputs, strict=True)
        outputs: list[Array] = []
        for index, (binding, tensor) in enumerate(sides):
            pieces = [part[index] for part in parts]
            whole = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
            output = from_runtime(whole[:rows], binding, tensor)
            if output.dtype.kind == "f" and not np.isfinite(output).all():
                raise NotFinite(tensor.name)
            outputs.append(output)
        return outputs


def to_runtime(array: Array, binding: Binding) -> Array:
    """Return `array` as the runtime's tensor: its axis order, its type, its scale."""
    if binding.permutation:
        array = np.transpose(array, binding.permutation)
    dtype = DTYPES[binding.datatype]
    if binding.scale is None:
        return np.ascontiguousarray(array, dtype)
    steps = np.rint(array / np.float32(binding.scale)) + binding.zero_point
    least, most = RANGES[binding.datatype]
    return np.ascontiguousarray(np.clip(steps, least, most), dtype)


def from_runtime(array: Array, binding: Binding, tensor: Tensor) -> Array:
    """Return the runtime's `array` as the signature's tensor."""
    if binding.scale is not None:
        array = (array.astype(np.float32) - binding.zero_point) * np.float32(binding.scale)
    if binding.permutation:
        array = np.transpose(array, np.argsort(binding.permutation))
    return np.ascontiguousarray(array, DTYPES[tensor.datatype])
