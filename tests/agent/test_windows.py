"""A window is told once it is over, and again until the broker has it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.builders import a_digest, a_store_id, an_alias
from wherry import codec
from wherry.measures import HostFacts, Traffic
from wherry.messages import Telemetry
from wherry.names import ProfileName
from wherry_agent.outbox import Outbox
from wherry_agent.settings import TelemetrySettings
from wherry_agent.store import Store
from wherry_agent.telemetry import Recorder
from wherry_agent.telling import Teller
from wherry_agent.windows import LARGEST_IN_FLIGHT, Windows

TELLER = Teller(store_id=a_store_id(), profile=ProfileName("pi"), simulated=False, versions={})
NO_TRAFFIC = Traffic()


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

    def end(self, count: int = 1, traffic: Traffic = NO_TRAFFIC) -> None:
        for _ in range(count):
            self.recorder.failed(an_alias(), a_digest(), "timed_out")
            self.now_s += 10.0
            (window,) = self.windows.end(self.now_s, HostFacts(), traffic, {})
            assert window.errors == {"timed_out": 1}

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
