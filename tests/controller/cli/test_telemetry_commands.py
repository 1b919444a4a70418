"""`wherry device telemetry` and `wherry device drift`, as a person reads them."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.builders import a_telemetry
from tests.controller.cli.conftest import Wherry
from tests.controller.seen import LIKE, UNLIKE, a_look, a_referenced_bundle, keep, tell
from tests.controller.served import Served
from tests.controller.stores import add_devices
from wherry.measures import HostFacts, ShadowCounts
from wherry.names import parse_device_id
from wherry_controller.services.telemetry import window_of
from wherry_controller.store import telemetry

ONE, TWO = parse_device_id("pi-1"), parse_device_id("pi-2")


@pytest.fixture
def fleet(online: Wherry, served: Served) -> Wherry:
    with served.store.transaction() as tx:
        add_devices(tx, ONE, TWO)
    return online


def test_a_devices_telemetry_is_shown_with_its_drift(fleet: Wherry, served: Served) -> None:
    bundle = a_referenced_bundle()
    said = replace(
        a_telemetry(bundle=bundle.digest, errors={"timed_out": 2}),
        host=HostFacts(temperature_c=48.5, memory_total_bytes=4_000_000_000, throttled=True),
        inputs=(a_look(UNLIKE),),
        shadow=ShadowCounts(requests=5, rows=5, agreed=4, skipped={"busy": 1}),
        dropped_windows=3,
    )
    with served.store.transaction() as tx:
        keep(tx, served.blobs, bundle)
        telemetry.add_windows(tx, [window_of(ONE, said, 900.0)])
    shown = fleet("device", "telemetry", "pi-1")
    assert shown.status == 0
    for word in ("2 failed (timed_out 2)", "agreement 0.8000", "skipped: busy 1", "drifted"):
        assert word in shown.out
    for word in (
        "throttled           ",
        "yes",
        "temperature_c",
        "48.5",
        "4000.00 MB",
        "windows lost  ",
        "image",
    ):
        assert word in shown.out
    assert fleet("device", "telemetry", "pi-1", "--json").json["dropped_windows"] == 3


def test_a_device_that_told_nothing_says_so(fleet: Wherry) -> None:
    assert "pi-1 has told nothing yet" in fleet("device", "telemetry", "pi-1").out


def test_the_fleets_drift_is_a_table_for_each_bundle(fleet: Wherry, served: Served) -> None:
    bundle = a_referenced_bundle("pi")
    with served.store.transaction() as tx:
        keep(tx, served.blobs, bundle)
        tell(tx, bundle, {ONE: LIKE, TWO: UNLIKE}, at=990.0)
    shown = fleet("device", "drift", "--profile", "pi")
    assert f"digits:v1 on pi ({bundle.digest[:12]})" in shown.out
    assert "pi-2    drifted  1000" in shown.out
    (found,) = fleet("device", "drift", "--json").listed
    assert found["profile"] == "pi"


def test_without_a_look_the_drift_says_why(fleet: Wherry) -> None:
    assert "no device looked at anything in 24 h" in fleet("device", "drift").out
