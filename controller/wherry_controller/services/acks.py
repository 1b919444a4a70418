"""Acknowledgements of events: said after the commit, at most one in a while to each device."""

from __future__ import annotations

from collections.abc import Mapping

from wherry import codec
from wherry.messages import Ack
from wherry.names import DeviceId
from wherry.topics import AcksTopic
from wherry_controller.services.publisher import Publisher


class Acks:
    """Holds back what would come too often; one thread calls it."""

    def __init__(self, publisher: Publisher, *, every_s: float) -> None:
        self._publisher = publisher
        self._every_s = every_s
        self._due: dict[DeviceId, Ack] = {}
        self._said_at: dict[DeviceId, float] = {}

    def note(self, acks: Mapping[DeviceId, Ack]) -> None:
        """Take how far devices are covered now; what was not said yet is replaced."""
        self._due.update(acks)

    def tick(self, now: float) -> None:
        """Say what is due to devices that were told nothing for long enough."""
        ready = [d for d in self._due if now - self._said_at.get(d, 0.0) >= self._every_s]
        for device in ready:
            self._publisher.say(AcksTopic(device), codec.encode(self._due.pop(device)))
            self._said_at[device] = now
