"""A window is told once it is over, and again until the broker has it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import pytest
from msgspec.structs import replace

from tests.agent.stores import a_full_disk
from tests.builders import a_digest, a_store_id, an_alias
from wherry import codec
from wherry.measures import ClassCounts, Feedback, HostFacts, Seen, Traffic
from wherry.messages import Telemetry
from wherry.names import AliasName, Digest, ProfileName
from wherry.reasons import Reason
from wherry_agent.outbox import Outbox
from wherry_agent.settings import TelemetrySettings
from wherry_agent.store import Store
from wherry_agent.telemetry import Recorder
from wherry_agent.telling import Teller
from wherry_agent.windows import LARGEST_IN_FLIGHT, LARGEST_WINDOW_BYTES, MOST_WAITING, Windows

TELLER = Teller(store_id=a_store_id(), profile=ProfileName("pi"), simulated=False, versions={})
NO_TRAFFIC = Traffic()

Workers: TypeAlias = Mapping[tuple[AliasName, Digest], int]


@dataclass
class Told:
    """A broker that takes what is published, until it is `deaf`."""

    numbers: list[int] = field(default_factory=list)
    deaf: bool = False

    def publish(self, body: bytes) -> int | None:
        if self.deaf:
            return None
        self.numbers.append(codec.decode(Telemetry, body).seq)
        return len(self.numbers)


class Counted:
    """Windows over a recorder in which each window has one request that failed."""

    def __init__(self, store: Store, settings: TelemetrySettings | None = None) -> None:
        self.store = store
        self.outbox = Outbox(store.database, keep_windows=100)
        self.recorder = Recorder()
        self.windows = Windows(
            self.recorder,
            TELLER,
            store=store,
            outbox=self.outbox,
            settings=settings or TelemetrySettings(),
        )
        self.now_s = time.monotonic()

    def idle(self, seconds: float, workers: Workers) -> None:
        self.now_s += seconds
        assert self.windows.end(self.now_s, HostFacts(), NO_TRAFFIC, workers) == ()

    def close(self) -> None:
        self.windows.close(self.now_s, HostFacts(), NO_TRAFFIC, {})

    def end(
        self, count: int = 1, traffic: Traffic = NO_TRAFFIC, bundle: Digest | None = None
    ) -> None:
        for _ in range(count):
            self.recorder.failed(an_alias(), bundle or a_digest(), "timed_out")
            self.now_s += 10.0
            (window,) = self.windows.end(self.now_s, HostFacts(), traffic, {})
            assert window.errors == {"timed_out": 1}

    def told(self) -> list[Telemetry]:
        return [codec.decode(Telemetry, body) for _, body in self.outbox.telemetry(0, 1000)]

    def fault(self) -> Reason | None:
        return self.windows.fault

    def waiting(self) -> list[int]:
        return [seq for seq, _ in self.outbox.telemetry(0, 1000)]

    def told_traffic(self) -> list[int]:
        bodies = [body for _, body in self.outbox.telemetry(0, 1000)]
        return [codec.decode(Telemetry, body).traffic.received_bytes for body in bodies]


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[Counted]:
    store = Store(tmp_path)
    yield Counted(store)
    store.close()


def test_a_window_is_over_after_its_length(counted: Counted) -> None:
    assert not counted.windows.is_over(counted.now_s + 9.0)
    assert counted.windows.is_over(counted.now_s + 10.1)
    counted.end()
    assert not counted.windows.is_over(counted.now_s + 9.9)
    (body,) = (body for _, body in counted.outbox.telemetry(0, 1))
    assert codec.decode(Telemetry, body).window_s == pytest.approx(10.0, abs=0.5)


def test_a_window_is_sent_once_and_kept_until_the_broker_has_it(counted: Counted) -> None:
    told = Told()
    counted.end(2)
    for _ in range(2):
        counted.windows.send(told.publish)
    assert told.numbers == [1, 2]
    assert counted.waiting() == [1, 2]
    counted.windows.acknowledge(2)
    counted.windows.acknowledge(2)
    counted.windows.acknowledge(77)
    assert counted.waiting() == [1]


def test_what_was_not_acknowledged_is_sent_again_at_the_next_connect(counted: Counted) -> None:
    told = Told()
    counted.end(3)
    counted.windows.send(told.publish)
    counted.windows.acknowledge(2)
    counted.windows.disconnect()
    counted.windows.acknowledge(1)  # Its id is of the connection before.
    counted.windows.send(told.publish)
    assert told.numbers == [1, 2, 3, 1, 3]


def test_what_could_not_be_handed_over_is_sent_next_time(counted: Counted) -> None:
    told = Told(deaf=True)
    counted.end(2)
    counted.windows.send(told.publish)
    told.deaf = False
    counted.windows.send(told.publish)
    assert told.numbers == [1, 2]


def test_bytes_are_counted_on_by_the_next_process(tmp_path: Path) -> None:
    for process in (Traffic(received_bytes=100), Traffic(received_bytes=20)):
        with closing(Store(tmp_path)) as store:
            counted = Counted(store)
            counted.end(traffic=Traffic(received_bytes=7))
            counted.end(traffic=process)
    with closing(Store(tmp_path)) as store:
        assert Counted(store).told_traffic() == [7, 100, 107, 120]
        assert store.traffic() == Traffic(received_bytes=120)


def test_a_window_and_the_bytes_that_it_tells_are_one_write(counted: Counted) -> None:
    counted.end(traffic=Traffic(sent_bytes=3))
    counted.store.database.execute(
        "CREATE TEMP TRIGGER full BEFORE INSERT ON telemetry BEGIN SELECT RAISE(ABORT, 'full'); END"
    )
    with pytest.raises(sqlite3.IntegrityError, match="full"):
        counted.end(traffic=Traffic(sent_bytes=9))
    assert counted.store.traffic() == Traffic(sent_bytes=3)
    assert counted.waiting() == [1]


def test_a_window_in_which_nobody_asked_is_not_told(counted: Counted) -> None:
    assert counted.windows.end(counted.now_s, HostFacts(), Traffic(sent_bytes=1), {}) == ()
    assert counted.waiting() == []
    assert counted.store.traffic() == Traffic()


def test_no_more_is_in_flight_than_the_broker_keeps_up_with(counted: Counted) -> None:
    told = Told()
    counted.end(LARGEST_IN_FLIGHT + 5)
    for _ in range(2):
        counted.windows.send(told.publish)
    assert told.numbers == list(range(1, LARGEST_IN_FLIGHT + 1))
    counted.windows.acknowledge(1)
    counted.windows.send(told.publish)
    assert told.numbers[-1] == LARGEST_IN_FLIGHT + 1


# What a window tells


def test_a_window_tells_the_workers_memory_and_its_restarts(counted: Counted) -> None:
    counted.recorder.restarted(an_alias(), a_digest())
    counted.now_s += 10.0
    workers = {(an_alias(), a_digest()): 7 << 20}
    (window,) = counted.windows.end(counted.now_s, HostFacts(), NO_TRAFFIC, workers)
    assert (window.worker_bytes, window.restarts) == (7 << 20, 1)
    (told,) = counted.told()
    assert (told.worker_bytes, told.restarts) == (7 << 20, 1)


def test_a_window_that_is_too_long_leaves_out_what_was_seen_and_then_the_classes(
    counted: Counted,
) -> None:
    seen = Seen(name="x", rows=1, values=1, counts=(1,) * 64, zeros=0, not_finite=0)
    many = tuple(replace(seen, name=f"x{number}") for number in range(400))
    counted.recorder.saw(an_alias(), a_digest(), many, ())
    counted.end()
    counted.recorder.saw(an_alias(), a_digest(), many[:3], ())
    classes = {f"{number:0100}": ClassCounts(1, 1, 1) for number in range(1000)}
    counted.recorder.labelled(an_alias(), a_digest(), Feedback(1000, 1000, classes))
    counted.end()
    counted.recorder.saw(an_alias(), a_digest(), many[:3], ())
    counted.end()
    first, second, third = counted.told()
    assert (first.inputs, second.inputs, third.inputs) == ((), (), many[:3])
    assert (second.feedback, third.feedback) == (Feedback(1000, 1000), Feedback())
    assert all(len(codec.encode(one)) <= LARGEST_WINDOW_BYTES for one in counted.told())


# Nobody asks


def test_a_device_that_nobody_asks_tells_of_itself_once_in_the_longest_length(
    counted: Counted,
) -> None:
    workers = {(an_alias(), a_digest()): 5}
    counted.idle(3000.0, workers)
    assert counted.told() == []
    counted.idle(601.0, workers)
    counted.idle(3000.0, workers)
    (told,) = counted.told()
    assert (told.requests, told.worker_bytes, told.bundle) == (0, 5, a_digest())
    assert told.window_s == pytest.approx(3601.0, abs=1.0)


def test_a_window_after_an_idle_hour_is_no_longer_than_itself(counted: Counted) -> None:
    counted.idle(600.0, {})
    counted.end()
    (told,) = counted.told()
    assert told.window_s == pytest.approx(10.0)


# What cannot be told yet


@pytest.fixture
def frugal(tmp_path: Path) -> Iterator[Counted]:
    store = Store(tmp_path)
    yield Counted(store, TelemetrySettings(max_bytes_per_day=10_000, longest_window_s=600.0))
    store.close()


def test_windows_that_cost_too_many_bytes_are_longer_and_lose_no_count(frugal: Counted) -> None:
    frugal.end(200)
    told = frugal.told()
    assert 2 <= len(told) <= 6
    assert told[1].window_s == pytest.approx(600.0)
    assert told[1].errors == {"timed_out": 60}
    frugal.end(3600 * 6 // 10)
    sizes = [len(body) for _, body in frugal.outbox.telemetry(0, 1000)]
    assert sum(sizes) <= 10_000
    assert sum(one.requests for one in frugal.told()) > 5 * len(sizes)


def test_the_days_bytes_are_remembered_by_the_next_process(tmp_path: Path) -> None:
    settings = TelemetrySettings(max_bytes_per_day=1200)
    for _ in range(5):
        with closing(Store(tmp_path)) as store:
            counted = Counted(store, settings)
            counted.end()
            sizes = [len(body) for _, body in counted.outbox.telemetry(0, 100)]
    assert 0 < sum(sizes) <= 1200


def test_what_the_days_bytes_do_not_allow_at_the_end_is_lost_and_counted(tmp_path: Path) -> None:
    settings = TelemetrySettings(max_bytes_per_day=10)
    with closing(Store(tmp_path)) as store:
        counted = Counted(store, settings)
        counted.end()
        counted.end(bundle=a_digest("another"))
        counted.close()
    with closing(Store(tmp_path)) as store:
        assert Counted(store, settings).outbox.dropped_windows() == 2


def test_a_disk_that_is_full_at_the_end_stops_nothing(counted: Counted) -> None:
    with a_full_disk():
        counted.end()
        counted.close()
    assert counted.fault() is Reason.DISK_FULL


def test_all_that_was_counted_is_kept_at_the_end(frugal: Counted) -> None:
    frugal.end(5)
    frugal.recorder.failed(an_alias(), a_digest(), "timed_out")
    frugal.close()
    assert sum(one.requests for one in frugal.told()) == 6
    frugal.close()
    assert len(frugal.told()) == 2


def test_what_a_full_disk_refuses_is_told_when_there_is_room_again(counted: Counted) -> None:
    counted.end()
    with a_full_disk():
        counted.end(2)
        assert counted.fault() is Reason.DISK_FULL
        counted.windows.acknowledge(1)
    assert [one.requests for one in counted.told()] == [1]
    counted.end()
    assert counted.fault() is None
    assert [(one.requests, round(one.window_s)) for one in counted.told()] == [(1, 10), (3, 30)]


def test_a_window_whose_acknowledgement_finds_no_room_is_sent_again(counted: Counted) -> None:
    told = Told()
    counted.end()
    counted.windows.send(told.publish)
    with a_full_disk():
        counted.windows.acknowledge(1)
    assert counted.waiting() == [1]
    counted.windows.disconnect()
    counted.windows.send(told.publish)
    assert told.numbers == [1, 1]


def test_counts_of_more_bundles_than_can_wait_are_lost_and_counted(counted: Counted) -> None:
    with a_full_disk():
        for number in range(MOST_WAITING + 3):
            counted.end(bundle=a_digest(str(number)))
    counted.end(bundle=a_digest("0"))
    assert len(counted.told()) == MOST_WAITING
    assert counted.told()[-1].dropped_windows == 4
    assert counted.outbox.dropped_windows() == counted.windows.dropped == 4
    counted.end()
    assert counted.windows.dropped == 4
    again = Counted(counted.store)
    assert again.windows.dropped == 4
