"""The part of the engine's loop that its decisions need: the time, and what is done at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    def time(self) -> float: ...
    def call_at(self, when: float, callback: Callable[[], object]) -> object: ...
