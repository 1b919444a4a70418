"""The room for the bytes that requests keep in memory until they are answered, whoever sent them.

Bodies take of it, bodies that were decoded, and what was read from shared memory.
"""

from __future__ import annotations

from wherry.errors import Unavailable
from wherry_agent.asking import Berth


class NoRoom(Unavailable):
    """A request that came while too many bytes of others wait."""

    def __str__(self) -> str:
        return "too many bytes of requests wait already; ask again in a moment."


class Room:
    """The bytes that are kept at once."""

    def __init__(self, limit_bytes: int) -> None:
        self._free_bytes = limit_bytes

    def take(self, size_bytes: int) -> None:
        """Take so many bytes; raise `NoRoom` where there are fewer."""
        if size_bytes > self._free_bytes:
            raise NoRoom
        self._free_bytes -= size_bytes

    def give(self, size_bytes: int) -> None:
        self._free_bytes += size_bytes


class Taken:
    """What one request has of the room, and its berth; given back once, when it is answered."""

    def __init__(self, room: Room) -> None:
        self._room, self._size_bytes = room, 0
        self.berth: Berth | None = None

    def take(self, size_bytes: int) -> None:
        """Take so many bytes more; raise `NoRoom` where there are fewer."""
        self._room.take(size_bytes)
        self._size_bytes += size_bytes

    def give_back(self) -> None:
        self._room.give(self._size_bytes)
        self._size_bytes = 0
        if self.berth is not None:
            self.berth.leave()
