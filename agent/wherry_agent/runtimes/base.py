"""What every runtime offers: its version, and a model loaded from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wherry.errors import Malformed, Unsuitable
from wherry.manifest import Manifest
from wherry.signature import Datatype

Array: TypeAlias = NDArray[np.generic]

DTYPES: dict[Datatype, np.dtype[np.generic]] = {
    Datatype.BOOL: np.dtype(np.bool_),
    Datatype.UINT8: np.dtype(np.uint8),
    Datatype.INT8: np.dtype(np.int8),
    Datatype.INT32: np.dtype("<i4"),
    Datatype.INT64: np.dtype("<i8"),
    Datatype.FP16: np.dtype("<f2"),
    Datatype.FP32: np.dtype("<f4"),
    Datatype.FP64: np.dtype("<f8"),
}

# Of the integers that a scale may stand on.
RANGES: dict[Datatype, tuple[int, int]] = {
    Datatype.UINT8: (0, 255),
    Datatype.INT8: (-128, 127),
    Datatype.INT32: (-(1 << 31), (1 << 31) - 1),
}


class MissingRuntime(Unsuitable):
    """The device has not the runtime that the bundle's profile names."""

    def __init__(self, wanted: str, found: str) -> None:
        super().__init__(wanted, found)
        self.wanted, self.found = wanted, found

    def __str__(self) -> str:
        return (
            f"the bundle needs {self.wanted} and this device has {self.found}: "
            "install that version on the device, or build the bundle for the profile it has."
        )


class BadModel(Malformed):
    """A model file that its runtime cannot load, or that lacks what its manifest names."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"the runtime refuses the model: {self.problem}; build the bundle again."


class RunFailed(Malformed):
    """A run that the runtime broke off."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"the model failed: {self.problem}; send an input that its metadata allows."


class Model(Protocol):
    """A model in memory: the runtime's tensors in and out, in the order of the bindings.

    Each tensor is contiguous, in row-major order.
    """

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Compute once; raise `RunFailed` where the runtime breaks off.

        What it returns may be written over by the next run.
        """
        ...


class Loads(Protocol):
    def __call__(self, path: Path, manifest: Manifest, kept_in: Path | None = None, /) -> Model:
        """Load the model at `path`; raise `BadModel`, or `MissingRuntime` for its provider.

        A runtime that makes something of a model first may keep it in the folder `kept_in`.
        """
        ...


@dataclass(frozen=True, slots=True)
class InstalledRuntime:
    """A runtime of this device."""

    version: str
    load: Loads
