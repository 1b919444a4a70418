"""Has receipts signed, each by a child (`wherry_agent.attesting`) that reads the key for it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from wherry import codec
from wherry.errors import Malformed
from wherry.messages import detail
from wherry_agent.core.receipts import Attested, Claim

COMMAND = (sys.executable, "-m", "wherry_agent.attesting")
DEADLINE_S = 60.0
LARGEST_CLAIM_BYTES = 16 << 10
LARGEST_WORD_BYTES = 32 << 10


class Attester:
    """Runs a child beside the deciding thread, which calls it."""

    def __init__(
        self, home: Path, put: Callable[[Attested], None], *, command: Sequence[str] = COMMAND
    ) -> None:
        self._home, self._put, self._command = home, put, tuple(command)

    def sign(self, claim: Claim, *, at: float) -> None:
        """Begin; it answers `Attested`. `at` is the UNIX time that the device goes by."""
        thread = threading.Thread(target=self._sign, args=(claim, at), name="attest", daemon=True)
        thread.start()

    def _sign(self, claim: Claim, at: float) -> None:
        try:
            ran = subprocess.run(
                (*self._command, str(self._home), "--at", repr(at)),
                input=codec.encode(claim) + b"\n",
                stdout=subprocess.PIPE,
                timeout=DEADLINE_S,
                check=True,
            )
            attested = codec.decode(Attested, ran.stdout, limit_bytes=LARGEST_WORD_BYTES)
        except (OSError, subprocess.SubprocessError, Malformed) as error:
            attested = Attested(claim.deployment, None, detail(f"its child failed: {error}"))
        self._put(attested)
