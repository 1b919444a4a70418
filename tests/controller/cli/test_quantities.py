"""Shares and spans of time as people write them."""

from __future__ import annotations

import pytest

from wherry_controller.cli.outcome import Ended, Exit
from wherry_controller.cli.quantities import seconds_of, share_of


@pytest.mark.parametrize(
    ("text", "share"), [("10%", 0.1), ("0.1", 0.1), ("100%", 1.0), ("0", 0.0), ("2.5%", 0.025)]
)
def test_a_share_is_a_number_or_per_cent(text: str, share: float) -> None:
    assert share_of(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "%", "ten", "110%", "1.1", "-1%", "nan", "inf", "1e400%"])
def test_what_is_no_share_is_not_understood(text: str) -> None:
    with pytest.raises(Ended, match="is no share: write it like 10%") as ended:
        share_of(text)
    assert ended.value.code is Exit.USAGE


@pytest.mark.parametrize(
    ("text", "seconds"), [("300", 300), ("90s", 90), ("5m", 300), ("2h", 7200), ("1.5d", 129_600)]
)
def test_a_span_is_a_number_with_its_unit(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "5w", "-5m", "nan", "inf", "1e400s", "5 minutes"])
def test_what_is_no_span_is_not_understood(text: str) -> None:
    with pytest.raises(Ended, match="is no span of time: write it like 90s") as ended:
        seconds_of(text)
    assert ended.value.code is Exit.USAGE
