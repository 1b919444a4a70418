"""The process that rebuilds one blob of a delta: `python -m wherry_agent.rebuilder`.

The supervisor loads no numpy and trusts no delta, so this child does the work, at low priority
and within its memory, and ends. Status 0: the blob stands whole at its path; 1: a line of JSON on
stdout says why there is none, and nothing is left there.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from wherry import codec, files
from wherry.delta import DeltaRefused, Expected, rebuild
from wherry.messages import detail
from wherry.names import parse_digest
from wherry.reasons import Reason
from wherry_agent.measuring import memory_bytes
from wherry_agent.rebuild import Fault

NICENESS = 10
ROOM_BYTES = 32 << 20  # Over what the imports took; measured: it needs a tenth of that.
PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> int:
    """Rebuild what the arguments say; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m wherry_agent.rebuilder")
    parser.add_argument("base", type=Path)
    parser.add_argument("delta", type=Path)
    parser.add_argument("blob", type=Path)
    parser.add_argument("--base", dest="base_digest", type=parse_digest, required=True)
    parser.add_argument("--blob", dest="blob_digest", type=parse_digest, required=True)
    parser.add_argument("--size", type=int, required=True)
    options = parser.parse_args(arguments)
    expected = Expected(
        options.base_digest, options.base.stat().st_size, options.blob_digest, options.size
    )
    _settle_down()
    fault = write(options.base, options.delta, options.blob, expected)
    if fault is None:
        return 0
    sys.stdout.buffer.write(codec.encode(fault))
    return 1


def write(base: Path, delta: Path, blob: Path, expected: Expected) -> Fault | None:
    """Write the blob whole, or nothing and return why."""
    try:
        files.write_parts(blob, _pieces(base, delta, expected))
    except DeltaRefused as error:
        return Fault(error.reason, detail(str(error)))
    except MemoryError:
        return Fault(Reason.DELTA_OVERSIZED, "it takes more memory than a delta may")
    return None


def _pieces(base: Path, delta: Path, expected: Expected) -> Iterator[bytes]:
    # Read and not mapped: mapped pages would count as this process's memory.
    with base.open("rb") as old, delta.open("rb") as told:
        yield from rebuild(
            told.read, lambda at, length: os.pread(old.fileno(), length, at), expected
        )


def _settle_down() -> None:
    """Give way to what serves, take little memory, and end with the supervisor."""
    os.nice(NICENESS)
    limit_bytes = memory_bytes("VmData") + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
