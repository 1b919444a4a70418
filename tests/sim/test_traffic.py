"""A local program asks evenly, whatever came before."""

from __future__ import annotations

import pytest

from wherry_sim.demo.plan import STEADY_RATE
from wherry_sim.demo.traffic import CONNECTIONS, LARGEST_ARREARS_S, next_due

PACE_S = CONNECTIONS / STEADY_RATE


@pytest.mark.parametrize(
    ("due_s", "now_s", "next_s"),
    [
        (10.0, 10.001, 10.0 + PACE_S),  # In time.
        (10.0, 50.0, 50.0 - LARGEST_ARREARS_S),  # After a long wait it does not ask all at once.
        (110.0, 50.0, 50.0 + PACE_S),  # After a burst it does not fall silent.
    ],
)
def test_the_next_request_is_neither_in_arrears_nor_ahead(
    due_s: float, now_s: float, next_s: float
) -> None:
    assert next_due(due_s, now_s) == pytest.approx(next_s)
