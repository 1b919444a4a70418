"""How a part of the bench tells what it found: one line of JSON, the last that it says."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

OUTPUT = Path(__file__).resolve().parents[3] / "build" / "bench"
SCRATCH = OUTPUT / "agent-scratch"

Part = dict[str, float]


def is_quick() -> bool:
    """Say whether the bench is only to be tried: a tenth of the rounds, or fewer."""
    return "--quick" in sys.argv


def say(found: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Say how far it is, to people."""
    sys.stderr.write(f"  {text}\n")
    sys.stderr.flush()
