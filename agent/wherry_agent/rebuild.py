"""A blob rebuilt of a delta and a blob that is here, by a child (`wherry_agent.rebuilder`)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from wherry import codec
from wherry.blobs import Blob
from wherry.errors import Malformed
from wherry.messages import detail
from wherry.reasons import Reason

COMMAND = (sys.executable, "-m", "wherry_agent.rebuilder")
DEADLINE_S = 900.0  # Measured: 45 MB take 0.5 s, on the smallest devices twenty times that.
LARGEST_FAULT_BYTES = 4096


class Fault(msgspec.Struct, frozen=True):
    """Why a delta made no blob."""

    reason: Reason
    detail: str


def rebuild(
    blob: Blob,
    base: Path,
    delta: Path,
    out: Path,
    *,
    command: Sequence[str] = COMMAND,
    deadline_s: float = DEADLINE_S,
) -> Fault | None:
    """Make `blob` at `out` of the blob at `base`, whose name is its digest, and of a delta.

    Returns why it could not be; then nothing stands at `out`. It waits for the child.
    """
    names = ("--base", base.name, "--blob", blob.digest, "--size", str(blob.size_bytes))
    try:
        ended = subprocess.run(
            (*command, str(base), str(delta), str(out), *names),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=deadline_s,
            env=_one_threaded(os.environ),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Fault(Reason.DELTA_OVERSIZED, f"it was not rebuilt within {deadline_s:g} s")
    return None if ended.returncode == 0 else _fault_of(ended)


def _fault_of(ended: subprocess.CompletedProcess[bytes]) -> Fault:
    try:
        return codec.decode(Fault, ended.stdout, limit_bytes=LARGEST_FAULT_BYTES)
    except Malformed:  # It died before it could tell.
        lines = ended.stderr.decode(errors="replace").strip().splitlines()
        last = lines[-1] if lines else f"exit status {ended.returncode}"
        return Fault(Reason.DELTA_CORRUPT, detail(f"the rebuilding process died ({last})"))


def _one_threaded(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which numpy keeps no memory for threads."""
    return {**environment, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
