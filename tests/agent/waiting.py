"""Waiting in tests for what another process or thread brings about."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

PATIENCE_S = 30.0


def wait_until(is_true: Callable[[], object]) -> None:
    """Look again and again until it is so; fail when that takes too long."""
    end_s = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < end_s
        threading.Event().wait(0.005)
