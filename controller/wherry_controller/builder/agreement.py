"""When outputs count as the same: an export's and its net's, a device's and the golden ones.

Golden outputs are the variant's own: they prove that a device runs it faithfully, not that it is
good. So their tolerance has to let through every device that does, and to stop weights that were
damaged (`damage`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wherry.profile import Precision, Profile
from wherry_controller.builder.data import Array, Rows, Tensors
from wherry_controller.builder.faults import refuse
from wherry_controller.builder.variant import Run, Variant
from wherry_controller.core.recipe import BuildReason

GOLDEN_ROWS = 10
# Shares of the outputs' range. Between ARM and x86 fp32 was within 5e-6; four times that has room.
FLOAT_TOLERANCE = 2e-5
INT8_TOLERANCE = 1 / 255
PARITY = 1e-4  # Exports of five kinds of nets were within 4e-6.
SMALLEST_RANGE = 1e-6
ROOM = 1.01  # One step of an integer output is allowed, and a rounding error on top.


@dataclass(frozen=True, slots=True)
class Golden:
    """Rows with the outputs that they must give again, to within `tolerance`."""

    inputs: Tensors
    outputs: Tensors
    tolerance: float

    def agrees(self, run: Run) -> bool:
        again = run(self.inputs)
        return all(
            np.all(_distance(again[name], expected) <= self.tolerance)
            for name, expected in self.outputs.items()
        )


def refuse_astray(given: Tensors, reference: Tensors) -> None:
    """Refuse a float export whose outputs are not those of the net, to within rounding.

    `reference` may have more rows than `given`.
    """
    for name, array in given.items():
        expected = reference[name][: len(array)]
        distance = float(np.max(_distance(array, expected)))
        if not distance <= PARITY * max(_range(expected), SMALLEST_RANGE):
            problem = f"the export's {name!r} strays from the net's by {distance:.2g}"
            refuse(BuildReason.EXPORT_DIFFERS, problem)


def golden_of(
    run: Run, rows: Rows, variant: Variant, profile: Profile, precision: Precision
) -> Golden:
    """Return the golden set: the first row of each class, ten at most, and their outputs."""
    firsts = np.sort(np.unique(rows.labels, return_index=True)[1])
    count = min(GOLDEN_ROWS, variant.signature.max_batch, profile.max_batch)
    inputs = rows.part(firsts[:count].astype(np.int64))
    outputs = run(inputs)
    return Golden(inputs, outputs, _tolerance(variant, outputs, precision))


def _tolerance(variant: Variant, outputs: Tensors, precision: Precision) -> float:
    """Return what a faithful device may stray: rounding in fp32, one step of the output in int8."""
    scales = [binding.scale for binding in variant.outputs if binding.scale is not None]
    if scales:
        return ROOM * max(scales)
    share = FLOAT_TOLERANCE if precision is Precision.FP32 else INT8_TOLERANCE
    return max(share * _range(array) for array in outputs.values())


def _range(array: Array) -> float:
    return float(np.ptp(array.astype(np.float64)))


def _distance(
    left: npt.NDArray[np.generic], right: npt.NDArray[np.generic]
) -> npt.NDArray[np.float64]:
    return np.abs(left.astype(np.float64) - right.astype(np.float64))
