"""A layer whose output channels can be zeroed, whatever kind of file it is in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's output channels by their strength; `zeroed` writes a copy without some of them."""

    name: str
    strengths: Callable[[], Floats]
    zeroed: Callable[[npt.NDArray[np.int64], Path], None]
