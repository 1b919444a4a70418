"""The simulator's moved clock: what is to happen, in the order of time.

Two things of one instant happen in the order in which they were planned, so a run with the same
seed is the same run.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

Action = Callable[[], None]


@dataclass(slots=True)
class Timeline:
    now_s: float = 0.0
    _planned: list[tuple[float, int, Action]] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def after(self, seconds: float, action: Action) -> None:
        heapq.heappush(self._planned, (self.now_s + seconds, next(self._numbers), action))

    def advance(self) -> None:
        """Move the clock to the next thing that is planned, and let it happen."""
        self.now_s, _, action = heapq.heappop(self._planned)
        action()
