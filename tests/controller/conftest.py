"""What the tests of the API and of the command line share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.controller.served import Served, a_served_controller


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with a_served_controller(tmp_path) as controller:
        yield controller
