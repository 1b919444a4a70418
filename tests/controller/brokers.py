"""The controller's own broker for tests: the agent's tests run without the controller."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.brokers import free_port
from wherry_controller.broker import start_broker


@contextmanager
def an_embedded_broker(folder: Path) -> Iterator[int]:
    """Run the embedded broker for the length of the block; yields its port."""
    broker = start_broker(folder, free_port())
    try:
        yield broker.port
    finally:
        broker.stop()
