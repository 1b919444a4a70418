"""Telemetry on its way: each window goes into the outbox and stays until the broker has it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from wherry.measures import HostFacts, Traffic
from wherry_agent.outbox import Outbox
from wherry_agent.store import Store
from wherry_agent.telemetry import Recorder, WindowCounts
from wherry_agent.telling import Teller

LARGEST_IN_FLIGHT = 20

log = logging.getLogger("wherry_agent")


class Windows:
    """Ends windows, sends what waits, forgets what the broker has acknowledged."""

    def __init__(
        self, recorder: Recorder, teller: Teller, *, store: Store, outbox: Outbox, window_s: float
    ) -> None:
        self._recorder, self._teller = recorder, teller
        self._store, self._outbox = store, outbox
        self._earlier = store.traffic()
        self._window_s = window_s
        self._began_s = time.monotonic()
        self._sent = 0
        self._awaiting: dict[int, int] = {}

    def is_over(self, now_s: float) -> bool:
        return now_s - self._began_s >= self._window_s

    def end(self, now_s: float, host: HostFacts, traffic: Traffic) -> tuple[WindowCounts, ...]:
        """Put what was counted since the last end into the outbox; return it for the machine.

        `traffic` is this process's: with that of those before it, it is saved in the same write.
        """
        window_s, self._began_s = now_s - self._began_s, now_s
        ended = self._recorder.take()
        if not ended:
            return ()  # A device that nobody asks spares its disk.
        whole = self._earlier + traffic
        dropped = 0
        with self._store.transaction():
            self._store.save_traffic(whole)
            for window in ended:
                dropped += self._outbox.add_telemetry(
                    self._teller.telemetry(window, host, whole, window_s=window_s, at=time.time())
                )
        if dropped:
            log.warning("telemetry.dropped", extra={"windows": dropped})
        return ended

    def send(self, publish: Callable[[bytes], int | None]) -> None:
        """Publish what waits, as far as the broker keeps up; `publish` returns a message id."""
        room = LARGEST_IN_FLIGHT - len(self._awaiting)
        for seq, body in self._outbox.telemetry(self._sent, max(room, 0)):
            mid = publish(body)
            if mid is None:
                return
            self._awaiting[mid] = self._sent = seq

    def acknowledge(self, mid: int) -> None:
        """Forget the window that the broker has; ids of other messages are nothing here."""
        if mid in self._awaiting:
            self._outbox.forget_telemetry(self._awaiting.pop(mid))

    def disconnect(self) -> None:
        """Send anew, at the next connect, what was not acknowledged."""
        self._awaiting.clear()
        self._sent = 0
