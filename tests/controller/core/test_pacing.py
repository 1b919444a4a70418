"""A site's rate and budget are shared by its devices that fetch, and never exceeded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.builders import a_device_id
from tests.laws import tried
from wherry.messages import Pace
from wherry_controller.core.pacing import LONGEST_SPREAD_S, count_sites, divisor, pace_of, spread_of

SITE = Pace(bytes_per_s=1000.0, bytes_per_day=1_000_000)


@tried
@given(st.integers(1, 5000))
def test_the_shares_of_a_site_together_are_never_more_than_its_own(fetching: int) -> None:
    share = pace_of(Pace(), SITE, fetching)
    assert share.bytes_per_s is not None and share.bytes_per_s * fetching <= 1000.0
    assert share.bytes_per_day is not None and share.bytes_per_day * fetching <= 1_000_000
    assert share.bytes_per_s * fetching * 2 > 1000.0


def test_shares_change_only_when_their_number_has_doubled_or_halved() -> None:
    assert [divisor(number) for number in (0, 1, 2, 3, 4, 5, 8, 9)] == [1, 1, 2, 4, 4, 8, 8, 16]


def test_the_tighter_of_a_device_s_own_limit_and_its_share_holds() -> None:
    assert pace_of(Pace(bytes_per_s=100.0), SITE, 2).bytes_per_s == 100.0
    assert pace_of(Pace(bytes_per_s=900.0), SITE, 2).bytes_per_s == 500.0
    assert pace_of(Pace(bytes_per_day=5), Pace(), 9) == Pace(bytes_per_day=5)


def test_devices_are_counted_by_their_tag() -> None:
    tags = {a_device_id("a"): {"site": "s"}, a_device_id("b"): {"site": "s"}, a_device_id("c"): {}}
    assert count_sites(tags) == {"s": 2}


@tried
@given(st.integers(101, 8_000_000))
def test_a_fleet_comes_back_no_faster_than_the_broker_takes_it(devices: int) -> None:
    spread_s = spread_of(devices, 100.0)
    assert devices / 100.0 <= spread_s < 2 * (devices / 100.0 + 1) or spread_s == LONGEST_SPREAD_S


def test_the_spread_grows_with_the_fleet_and_in_leaps() -> None:
    spreads = [spread_of(devices, 100.0) for devices in (0, 1, 100, 101, 300, 301, 10_000, 10**9)]
    assert spreads == [0.0, 0.0, 0.0, 2.0, 4.0, 4.0, 128.0, LONGEST_SPREAD_S]
