"""What the device says of itself at once: its presence, and `reported`.

While a flip is on its way `reported` waits, for a while, so that it never names a bundle that the
local API does not answer with yet.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Protocol

from wherry import codec, topics
from wherry.names import DeviceId
from wherry.reasons import Reason
from wherry.trust.keeping import now_of, proved_by_certificates, report_of
from wherry_agent.core import clock, download
from wherry_agent.core.dates import Verdict
from wherry_agent.database import CannotSave
from wherry_agent.parts import Parts

# What a broker's dates say of this device, or of the broker; nothing installs by them.
_DEGRADED: dict[Verdict, tuple[Reason, ...]] = {
    Verdict.SOUND: (),
    Verdict.CLOCK_AHEAD: (Reason.CLOCK_AHEAD,),
    Verdict.EXPIRED: (Reason.CERTIFICATE_EXPIRED,),
}

PRESENCE_S = 45.0  # A controller takes a device that says nothing for 120 s to be gone.

log = logging.getLogger("wherry_agent")


class Publish(Protocol):
    """Hands a message over: the control line's part."""

    def __call__(self, topic: topics.Topic, payload: bytes, *, retain: bool) -> int | None: ...


class Announcer:
    """Used by the deciding thread; says nothing while there is no connection."""

    def __init__(self, device: DeviceId, parts: Parts, publish: Publish) -> None:
        self._device, self._parts, self._publish = device, parts, publish
        self._clock = clock.Clock(time.time(), time.monotonic())
        self._broker_dates = Verdict.SOUND
        self._told: tuple[Reason, ...] = ()
        self._is_owed = False
        self._present_s = 0.0

    def note_broker(self, verdict: Verdict) -> None:
        """Keep what the dates of the broker's certificate say."""
        self._broker_dates = verdict

    def tick(self, now_s: float) -> None:
        """Say what became of the device, and what had to wait."""
        self._clock, jump_s = clock.read(self._clock, unix_s=time.time(), at_s=now_s)
        if jump_s:
            log.warning("clock.jumped", extra={"seconds": round(jump_s, 3)})
        if self._is_owed or tuple(self._degraded()) != self._told:
            self.announce()
        elif now_s - self._present_s >= PRESENCE_S and self._is_connected:
            self._say_presence(now_s)

    def catch_up(self) -> None:
        """Say what had to wait for a flip."""
        if self._is_owed:
            self.announce()

    def announce(self) -> None:
        """Say that the device is there, and what it has."""
        if not self._is_connected:
            return
        now_s = time.monotonic()
        self._say_presence(now_s)
        self._is_owed = self._parts.installer.is_flipping(now_s)
        if not self._is_owed:
            self._report()

    @property
    def _is_connected(self) -> bool:
        return self._parts.memory.agent.session.connected

    def _say_presence(self, now_s: float) -> None:
        self._present_s = now_s
        presence = codec.encode(self._parts.teller.presence(online=True))
        self._publish(topics.PresenceTopic(self._device), presence, retain=True)

    def _report(self) -> None:
        parts, trust = self._parts, self._parts.memory.acceptance.trust
        try:
            seq = parts.store.next_report_seq()
        except CannotSave as error:
            log.warning("report.unwritten", extra={"problem": str(error)})
            self._is_owed = True
            return
        self._told = tuple(self._degraded())
        reported = parts.teller.reported(
            parts.memory.agent.aliases,
            generation=trust.generation,
            seq=seq,
            oldest_event=parts.outbox.span()[0],
            trust=report_of(trust, time.time()),
            degraded=self._told,
            receipts=parts.memory.agent.receipts.signed,
        )
        topic = topics.ReportedTopic(self._device)
        self._publish(topic, codec.encode(reported), retain=True)

    def _degraded(self) -> Iterator[Reason]:
        """Yield what keeps this device from following orders as it should, beside its states."""
        parts = self._parts
        yield from _DEGRADED[self._broker_dates]
        trust = parts.memory.acceptance.trust
        floor, now = proved_by_certificates(trust), now_of(trust, time.time())
        if fault := parts.certificate.find_fault(floor=floor, now=now):
            yield fault
        if parts.installer.bad_runtimes:
            yield Reason.BAD_RUNTIME
        yield from sorted(set(parts.installer.missed.values()), key=lambda reason: reason.value)
        if clock.has_jumped(self._clock):
            yield Reason.CLOCK_JUMPED
        if fault := parts.store.fault or parts.memory.fault or parts.windows.fault:
            yield fault
        current = parts.memory.agent.download
        if current is not None and download.is_held_up(current):
            yield Reason.OVER_BYTE_BUDGET
