"""Where a body arrives in a worker's arena, so that what it asks is not copied there.

The connection receives into `memory` whatever a client sends at its pace. Once the request was
read, its one tensor is asked from where it stands; any other request is copied as ever.
"""

from __future__ import annotations

from collections.abc import Callable

from wherry_agent.arena import Arena
from wherry_agent.frames import Tensor


class ArenaBerth:
    """A `Berth` in the arena of questions."""

    def __init__(
        self, arena: Arena, place: tuple[int, int, int], on_left: Callable[[], None]
    ) -> None:
        """`place`: where what was reserved begins, where the body does, and its length."""
        self._at, begin, size_bytes = place
        self._arena, self._on_left = arena, on_left
        self.memory = arena.place(begin, size_bytes)
        self._end = begin + size_bytes
        self._is_left = False

    def find(self, arena: Arena, tensors: tuple[Tensor, ...]) -> int | None:
        """Return where the one tensor stands in `arena`; None where it does not."""
        if self._is_left or arena is not self._arena or len(tensors) != 1:
            return None
        data = tensors[0].data
        is_here = isinstance(data, memoryview) and data.obj is self.memory.obj
        return self._end - len(data) if is_here else None

    def ask(self, number: int) -> None:
        """Have the place given back with the answer."""
        self._is_left = True
        self._arena.ask(self._at, number)

    def leave(self) -> None:
        if not self._is_left:
            self._is_left = True
            self._arena.forget(self._at)
            self._on_left()
