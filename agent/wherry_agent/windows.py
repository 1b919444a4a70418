"""Telemetry on its way: each window goes into the outbox and stays until the broker has it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import msgspec

from wherry import codec
from wherry.measures import Feedback, HostFacts, Traffic
from wherry.messages import Telemetry
from wherry.names import AliasName, Digest
from wherry.reasons import Reason
from wherry_agent.core import windowing
from wherry_agent.core.budget import spend
from wherry_agent.database import CannotSave
from wherry_agent.outbox import Outbox
from wherry_agent.settings import TelemetrySettings
from wherry_agent.store import Store
from wherry_agent.telemetry import Recorder, WindowCounts
from wherry_agent.telling import Teller

LARGEST_IN_FLIGHT = 20
LARGEST_WINDOW_BYTES = 64 * 1024
MOST_WAITING = 64  # Bundles under aliases whose counts wait to be told.

log = logging.getLogger("wherry_agent")


class Windows:
    """Ends windows, sends what waits, forgets what the broker has acknowledged.

    Counts that cannot be told yet, for the day's bytes or for the disk, are added up until they
    can. `fault` is what the disk has against the newest ones, and `dropped` how many windows the
    store has lost.
    """

    def __init__(
        self,
        recorder: Recorder,
        teller: Teller,
        *,
        store: Store,
        outbox: Outbox,
        settings: TelemetrySettings,
    ) -> None:
        self._recorder, self._teller = recorder, teller
        self._store, self._outbox = store, outbox
        self._rule = windowing.Rule(
            settings.window_s, settings.longest_window_s, settings.max_bytes_per_day
        )
        self._earlier = store.traffic()
        self._began_s = self._since_s = self._told_s = time.monotonic()
        self._told_bytes = 0
        self._waiting: dict[tuple[AliasName, Digest], WindowCounts] = {}
        self._lost = 0
        self._sent = 0
        self._awaiting: dict[int, int] = {}
        self.fault: Reason | None = None
        self.dropped = outbox.dropped_windows()

    def is_over(self, now_s: float) -> bool:
        return now_s - self._began_s >= self._rule.window_s

    def end(
        self,
        now_s: float,
        host: HostFacts,
        traffic: Traffic,
        workers: Mapping[tuple[AliasName, Digest], int],
    ) -> tuple[WindowCounts, ...]:
        """Return what was counted since the last end, for the machine; tell what is due.

        `traffic` is this process's: with that of those before it, it is saved in the same write.
        `workers` is the memory of each bundle's worker.
        """
        ended = self._take(now_s, workers)
        if self._is_due(now_s):
            self._tell(now_s, host, traffic, workers)
        return ended

    def close(
        self,
        now_s: float,
        host: HostFacts,
        traffic: Traffic,
        workers: Mapping[tuple[AliasName, Digest], int],
    ) -> None:
        """Put all that was counted into the outbox, to be sent after the next start.

        What the day's bytes do not allow is lost, and counted.
        """
        self._take(now_s, workers)
        if self._waiting:
            self._tell(now_s, host, traffic, workers)
        if self._waiting:
            self._give_up()

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
        seq = self._awaiting.pop(mid, None)
        if seq is None:
            return
        try:
            with self._store.transaction():
                self._outbox.forget_telemetry(seq)
        except CannotSave as error:
            self._note(error)  # It is told twice, and the controller counts it once.

    def disconnect(self) -> None:
        """Send anew, at the next connect, what was not acknowledged."""
        self._awaiting.clear()
        self._sent = 0

    def _take(
        self, now_s: float, workers: Mapping[tuple[AliasName, Digest], int]
    ) -> tuple[WindowCounts, ...]:
        ended = tuple(
            replace(window, worker_bytes=workers.get((window.alias, window.bundle)))
            for window in self._recorder.take()
        )
        if not self._waiting:
            self._since_s = self._began_s
        self._began_s = now_s
        self._add_up(ended)
        return ended

    def _add_up(self, ended: Iterable[WindowCounts]) -> None:
        for window in ended:
            key = (window.alias, window.bundle)
            known = self._waiting.pop(key, None)
            self._waiting[key] = window if known is None else known + window
        while len(self._waiting) > MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]
            self._lost += 1

    def _is_due(self, now_s: float) -> bool:
        if self._waiting:
            since_s = self._since_s
            return windowing.is_due(self._rule, self._told_bytes, since_s=since_s, now_s=now_s)
        # A device that nobody asks spares its disk.
        return windowing.is_idle_long(self._rule, told_s=self._told_s, now_s=now_s)

    def _tell(
        self,
        now_s: float,
        host: HostFacts,
        traffic: Traffic,
        workers: Mapping[tuple[AliasName, Digest], int],
    ) -> None:
        whole = self._earlier + traffic
        told = [
            _fitting(
                self._teller.telemetry(
                    window,
                    host,
                    whole,
                    window_s=now_s - (self._since_s if self._waiting else self._told_s),
                    at=time.time(),
                )
            )
            for window in self._waiting.values() or _idle(workers)
        ]
        size_bytes = sum(len(codec.encode(window)) for window in told)
        if not told or not self._may_tell(size_bytes):
            return
        try:
            self._write(told, whole, size_bytes)
        except CannotSave as error:
            self._note(error)
            return
        self._waiting.clear()
        self._lost, self.dropped = 0, self._outbox.dropped_windows()
        self._told_s, self._told_bytes, self.fault = now_s, size_bytes, None

    def _may_tell(self, size_bytes: int) -> bool:
        spent = self._outbox.told()
        return windowing.may_tell(self._rule, spent, size_bytes, time.time())

    def _write(self, told: list[Telemetry], whole: Traffic, size_bytes: int) -> None:
        dropped = 0
        with self._store.transaction():
            self._store.save_traffic(whole)
            self._outbox.count_dropped(self._lost)
            for window in told:
                dropped += self._outbox.add_telemetry(window)
            if self._rule.bytes_per_day is not None:
                spent = spend(self._outbox.told(), size_bytes, time.time())
                self._outbox.save_told(spent)
        if dropped:
            log.warning("telemetry.dropped", extra={"windows": dropped})

    def _give_up(self) -> None:
        try:
            with self._store.transaction():
                self._outbox.count_dropped(self._lost + len(self._waiting))
        except CannotSave as error:
            self._note(error)

    def _note(self, error: CannotSave) -> None:
        if self.fault is not error.reason:
            log.warning("telemetry.unwritten", extra={"problem": str(error)})
        self.fault = error.reason


def _idle(workers: Mapping[tuple[AliasName, Digest], int]) -> Iterator[WindowCounts]:
    for (alias, bundle), size_bytes in workers.items():
        yield WindowCounts(alias, bundle, worker_bytes=size_bytes)


def _fitting(window: Telemetry) -> Telemetry:
    """Leave out of a window that is too long what the others can do without."""
    if len(codec.encode(window)) > LARGEST_WINDOW_BYTES:
        window = msgspec.structs.replace(window, inputs=(), outputs=())
    if len(codec.encode(window)) > LARGEST_WINDOW_BYTES:
        window = msgspec.structs.replace(window, feedback=_without_classes(window.feedback))
    return window


def _without_classes(feedback: Feedback) -> Feedback:
    return msgspec.structs.replace(feedback, classes={})
