"""What devices measured, as the API tells it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from msgspec.structs import replace

from tests.builders import a_histogram, a_telemetry
from tests.controller.seen import LIKE, UNLIKE, a_look, a_referenced_bundle, keep, tell
from tests.controller.served import Served
from tests.controller.stores import add_devices
from wherry.measures import ClassCounts, Feedback, HostFacts, ShadowCounts
from wherry.messages import Telemetry
from wherry.names import parse_device_id
from wherry_controller.services.telemetry import window_of
from wherry_controller.store import telemetry

ONE, TWO = parse_device_id("pi-1"), parse_device_id("pi-2")


@pytest.fixture
def api(served: Served) -> Iterator[httpx.Client]:
    with served.store.transaction() as tx:
        add_devices(tx, ONE, TWO)
    with served.client() as client:
        yield client


def take(served: Served, *said: Telemetry) -> None:
    with served.store.transaction() as tx:
        windows = [
            window_of(ONE, replace(one, seq=seq), 900.0 + seq) for seq, one in enumerate(said)
        ]
        telemetry.add_windows(tx, windows)


def summary(api: httpx.Client) -> dict[str, object]:
    (found,) = api.get("/devices/pi-1/telemetry").json()["summaries"]
    assert isinstance(found, dict)
    return found


def test_errors_memory_and_restarts_are_told(api: httpx.Client, served: Served) -> None:
    host = HostFacts(throttled=True)
    said = a_telemetry(errors={"timed_out": 2}, host=host)
    said = replace(said, restarts=1, dropped_windows=4)
    take(served, replace(said, worker_bytes=5), replace(said, worker_bytes=7), said)
    told = summary(api)
    assert api.get("/devices/pi-1/telemetry").json()["host"]["throttled"] is True
    assert (told["errors"], told["error_classes"]) == (6, {"timed_out": 6})
    assert (told["worker_bytes"], told["restarts"]) == (7, 3)
    assert api.get("/devices/pi-1/telemetry").json()["dropped_windows"] == 4


def test_classes_give_f1_and_numbers_give_errors(api: httpx.Client, served: Served) -> None:
    classes = {"0": ClassCounts(4, 3, 3), "1": ClassCounts(2, 3, 1)}
    take(
        served,
        a_telemetry(feedback=Feedback(6, 4, classes)),
        a_telemetry(feedback=Feedback(values=4, absolute_error=2.0, squared_error=4.0)),
    )
    told = summary(api)
    assert told["f1"] == pytest.approx((6 / 7 + 2 / 5) / 2)
    assert told["accuracy"] == pytest.approx(4 / 6)
    assert (told["mean_absolute_error"], told["root_mean_squared_error"]) == (0.5, 1.0)


def test_a_candidates_shadow_stands_beside_the_incumbent(api: httpx.Client, served: Served) -> None:
    shadow = ShadowCounts(
        requests=2,
        rows=4,
        agreed=3,
        distance=1.0,
        largest_distance=0.75,
        compute=a_histogram(8),
        incumbent_compute=a_histogram(2),
        skipped={"busy": 1},
    )
    take(served, replace(a_telemetry(), shadow=shadow), replace(a_telemetry(), shadow=shadow))
    told = summary(api)["shadow"]
    assert isinstance(told, dict)
    assert (told["requests"], told["rows"], told["agreement"]) == (4, 8, 0.75)
    assert (told["distance"], told["largest_distance"]) == (0.25, 0.75)
    assert told["compute_p50_ms"] > told["incumbent_compute_p50_ms"]
    assert told["skipped"] == {"busy": 2}


def test_a_device_that_shadows_nothing_and_saw_nothing_says_so(
    api: httpx.Client, served: Served
) -> None:
    take(served, a_telemetry())
    told = summary(api)
    assert (told["shadow"], told["drift"], told["inputs"]) == (None, None, [])


def test_a_devices_drift_is_against_its_bundles_reference(
    api: httpx.Client, served: Served
) -> None:
    bundle = a_referenced_bundle()
    with served.store.transaction() as tx:
        keep(tx, served.blobs, bundle)
    take(served, replace(a_telemetry(bundle=bundle.digest), inputs=(a_look(UNLIKE),)))
    told = summary(api)
    assert told["drift"] == "drifted"
    assert isinstance(told["inputs"], list)
    (image,) = told["inputs"]
    assert (image["tensor"], image["rows"], image["level"]) == ("image", 1000, "drifted")
    assert image["psi"] > 1 > image["noise"]


def test_what_was_seen_of_an_unknown_bundle_is_no_drift(api: httpx.Client, served: Served) -> None:
    take(served, replace(a_telemetry(), inputs=(a_look(UNLIKE),)))
    assert summary(api)["drift"] is None


def test_the_fleets_drift_is_told_by_profile(api: httpx.Client, served: Served) -> None:
    bundle, other = a_referenced_bundle("pi"), a_referenced_bundle("nano")
    with served.store.transaction() as tx:
        keep(tx, served.blobs, bundle, other)
        tell(tx, bundle, {ONE: LIKE, TWO: UNLIKE}, at=990.0)
        tell(tx, other, {ONE: LIKE}, at=991.0)
    (found,) = api.get("/drift", params={"profile": "pi"}).json()
    assert (found["profile"], found["bundle"], found["drift"]) == ("pi", bundle.digest, "drifted")
    assert [(one["device"], one["level"]) for one in found["devices"]] == [
        ("pi-2", "drifted"),
        ("pi-1", "stable"),
    ]
    assert len(api.get("/drift").json()) == 2
    assert api.get("/drift", params={"hours": 0.001}).json() == []
    assert api.get("/drift", params={"hours": 0}).status_code == 422
