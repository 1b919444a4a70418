"""The renewer: asks the controller for the next certificate, in a child that may know x509.

The deciding thread says when (`core.renewal`); a thread waits for the child and puts what came of
it on the queue. A child that is killed in the middle leaves the old papers or the new ones.
"""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from wherry import codec
from wherry.errors import Malformed
from wherry.reasons import Reason
from wherry_agent.core.renewal import (
    Outcome,
    Renewal,
    Renewed,
    begin,
    end,
    find_fault,
    is_due,
    renewed_to,
)
from wherry_agent.settings import Identity, read_identity

log = logging.getLogger("wherry_agent")

DEADLINE_S = 300.0
LARGEST_WORD_BYTES = 64 << 10


class Renewer:
    """Runs one child at a time; the deciding thread calls it."""

    def __init__(self, home: Path, on_event: Callable[[Renewed], None]) -> None:
        self._home = home
        self._on_event = on_event

    def ask(self, floor: float) -> None:
        """Begin; it answers `Renewed`. `floor` is the latest time that is proved."""
        thread = threading.Thread(target=self._ask, args=(floor,), name="renew", daemon=True)
        thread.start()

    def _ask(self, floor: float) -> None:
        command = [
            *(sys.executable, "-m", "wherry_agent.identity"),
            *(str(self._home), "--floor", repr(floor)),
        ]
        try:
            ran = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                timeout=DEADLINE_S,
                check=True,
            )
            renewed = codec.decode(Renewed, ran.stdout, limit_bytes=LARGEST_WORD_BYTES)
        except (OSError, subprocess.SubprocessError, Malformed) as error:
            renewed = Renewed(outcome=Outcome.UNAVAILABLE, why=f"its child failed: {error}")
        self._on_event(renewed)


class Upkeep:
    """The certificate of this device, on the deciding thread: renewed in time, or told of."""

    def __init__(self, home: Path, identity: Identity, on_event: Callable[[Renewed], None]) -> None:
        self._home = home
        self._renewer = Renewer(home, on_event)
        self._state = Renewal(
            not_before=identity.not_before, not_after=identity.not_after, chance=random.random()
        )

    def tick(self, now_s: float, *, now: float, floor: float) -> None:
        """Ask where it is time; `now` is the time that the device goes by, `floor` is proved."""
        if is_due(self._state, now_s, now):
            log.info("certificate.renews", extra={"ends": self._state.not_after})
            self._state = begin(self._state)
            self._renewer.ask(floor)

    def read(self, renewed: Renewed, now_s: float) -> None:
        """Take what came of asking; new papers are shown from the next connection on."""
        fields = {"outcome": renewed.outcome.value, "why": renewed.why}
        log.info("certificate.answered", extra=fields)
        self._state = end(self._state, renewed, now_s, random.random())
        if renewed.outcome is Outcome.RENEWED:
            identity = read_identity(self._home)
            self._state = renewed_to(self._state, identity.not_before, identity.not_after)

    def find_fault(self, *, floor: float, now: float) -> Reason | None:
        """Return what is to be reported of the certificate, if anything."""
        return find_fault(self._state, floor=floor, now=now)
