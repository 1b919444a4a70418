"""The renewer: asks the controller for the next certificate, in a child that may know x509.

The deciding thread says when (`core.renewal`); a thread waits for the child and puts what came of
it on the queue. A child that is killed in the middle leaves the old papers or the new ones.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from wherry import codec
from wherry.errors import Malformed
from wherry_agent.core.renewal import Outcome, Renewed

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
