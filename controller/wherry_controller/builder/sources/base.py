"""What every source can do, and the checks that its answers pass."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from wherry.signature import BATCH, BadSignature, Signature, Tensor, batch_of
from wherry_controller.builder.data.rows import Array, Tensors, datatype_of
from wherry_controller.builder.faults import refuse
from wherry_controller.core.fault import BuildReason


class Source(Protocol):
    """A version's trained state, loaded; tensors have the signature's names and axes."""

    def run(self, inputs: Tensors) -> Tensors:
        """Answer one batch as the original does, one step of it where there are states."""
        ...

    def to_onnx(self, opset: int, sample: Tensors, file: Path) -> None:
        """Write ONNX of at most `opset`, with the signature's names and the batch first."""
        ...

    def to_lite(self, sample: Tensors, file: Path) -> None:
        """Write LiteRT of batch 1, with arguments and results in the signature's order."""
        ...

    def to_safetensors(self, file: Path) -> None:
        """Write the weights as plain tensors, which stay with the version."""
        ...


def checked(signature: Signature, arrays: Sequence[Array], rows: int) -> Tensors:
    """Return the outputs by name; refuse what is not as the signature says."""
    if len(arrays) != len(signature.outputs):
        problem = f"the net gives {len(arrays)} tensors, the signature {len(signature.outputs)}"
        refuse(BuildReason.SIGNATURE_MISFIT, problem)
    for tensor, array in zip(signature.outputs, arrays, strict=True):
        _check_output(tensor, array, rows)
    return {tensor.name: array for tensor, array in zip(signature.outputs, arrays, strict=True)}


def in_batches(
    run: Callable[[Tensors], Sequence[Array]], inputs: Tensors, size: int
) -> list[Array]:
    """Run in batches of exactly `size`; the last is filled up with copies of its last row."""
    rows = rows_in(inputs)
    starts = range(0, rows, size)
    batches = [run(_filled(inputs, np.arange(start, start + size))) for start in starts]
    return [np.concatenate(parts)[:rows] for parts in zip(*batches, strict=True)]


def rows_in(inputs: Tensors) -> int:
    return len(next(iter(inputs.values())))


def at_least_two(sample: Tensors) -> Tensors:
    """Return the sample with two rows: of a single one tracing takes the batch for a constant."""
    rows = np.arange(max(2, rows_in(sample))) % rows_in(sample)
    return {name: np.ascontiguousarray(array[rows]) for name, array in sample.items()}


def one_row(sample: Tensors) -> Tensors:
    return {name: np.ascontiguousarray(array[:1]) for name, array in sample.items()}


def refuse_named_axes(signature: Signature) -> None:
    """Refuse axes but the batch that vary: LiteRT's shapes are fixed when it is converted."""
    for tensor in (*signature.inputs, *signature.outputs):
        for axis in tensor.shape[1:]:
            if isinstance(axis, str) and axis != BATCH:
                problem = f"LiteRT takes fixed shapes and {tensor.name!r} has the axis {axis!r}"
                refuse(BuildReason.DYNAMIC_SHAPE, problem)


def varying_axes(tensor: Tensor) -> dict[int, str]:
    """Return the names of the axes that vary, by their index; the batch is one of them."""
    return {index: axis for index, axis in enumerate(tensor.shape) if isinstance(axis, str)}


@contextmanager
def quiet() -> Iterator[None]:
    """Send what converters print to stderr, also what does not go through Python."""
    _flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _flush()
        os.dup2(kept, 1)
        os.close(kept)


def _flush() -> None:
    """Write out what Python and the C library hold back: it belongs where stdout leads now."""
    sys.stdout.flush()
    ctypes.CDLL(None).fflush(None)


def _filled(inputs: Tensors, indices: npt.NDArray[np.int64]) -> Tensors:
    return {name: array[np.minimum(indices, len(array) - 1)] for name, array in inputs.items()}


def _check_output(tensor: Tensor, array: Array, rows: int) -> None:
    if datatype_of(array.dtype) is not tensor.datatype:
        problem = f"{tensor.name!r} is {array.dtype} and not {tensor.datatype.value}"
        refuse(BuildReason.SIGNATURE_MISFIT, problem)
    try:
        batch = batch_of(tensor, array.shape)
    except BadSignature as error:
        refuse(BuildReason.SIGNATURE_MISFIT, error.problem)
    if batch != rows:
        problem = f"{tensor.name!r} has {batch} rows for {rows} rows of input"
        refuse(BuildReason.SIGNATURE_MISFIT, problem)
