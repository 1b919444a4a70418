"""The embedded broker's own life."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.brokers import a_mosquitto, free_port
from wherry_controller.broker import PortTaken, start_broker

pytestmark = pytest.mark.system


def test_a_stopped_broker_frees_its_port(tmp_path: Path) -> None:
    port = free_port()
    start_broker(tmp_path, port).stop()
    start_broker(tmp_path, port).stop()


def test_a_port_that_is_taken_is_said_so(tmp_path: Path) -> None:
    with a_mosquitto(tmp_path) as other, pytest.raises(PortTaken, match="free one"):
        start_broker(tmp_path, other.port)
