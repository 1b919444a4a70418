"""Shares and spans of time as people write them: `10%` or `0.1`; `90s`, `5m`, `2h` or `300`."""

from __future__ import annotations

import math

from wherry_controller.cli.outcome import Ended, Exit

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def share_of(text: str) -> float:
    """Return a share from 0 to 1; ends the command where `text` is none."""
    number, is_percent = text.removesuffix("%"), text.endswith("%")
    value = _number(number) / (100 if is_percent else 1)
    if not 0 <= value <= 1:
        raise Ended(Exit.USAGE, f"{text!r} is no share: write it like 10% or 0.1.")
    return value


def seconds_of(text: str) -> float:
    """Return a span of time in seconds; ends the command where `text` is none."""
    unit = SECONDS.get(text[-1:], 0)
    value = _number(text[:-1]) * unit if unit else _number(text)
    if not 0 <= value < math.inf:
        raise Ended(Exit.USAGE, f"{text!r} is no span of time: write it like 90s, 5m or 2h.")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
