"""Delivery does what the machine orders: deltas become blobs, the day's budget is counted."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from tests.agent.machines import some_facts
from tests.agent.stores import a_full_disk, chunks_of
from tests.agent.test_ways import (
    BASE,
    BLOB,
    DELTA,
    HINT,
    NEW,
    OLD,
    UNMADE,
    WHOLE,
    put,
    put_delta,
    put_index,
)
from tests.builders import a_profile
from tests.mirrors import Manner, a_mirror
from wherry import codec
from wherry.blobs import Blob
from wherry.measures import Traffic
from wherry.messages import Delta, Desired, Pace
from wherry.reasons import Reason
from wherry_agent.core import agent as machine
from wherry_agent.core import download
from wherry_agent.core.download import FLOW_BYTES
from wherry_agent.core.suitability import Machine
from wherry_agent.delivery import Delivery, Rebuilder, Seen
from wherry_agent.fetch import Fetch
from wherry_agent.inbox import News, Refused
from wherry_agent.rebuild import Fault
from wherry_agent.settings import Broker, FetchSettings
from wherry_agent.shelf import Shelf
from wherry_agent.store import Store
from wherry_agent.ways import Ways

PROFILE = a_profile()
PATIENCE_S = 10.0
COMPLETE = download.Download(bundle=NEW.digest, missing={})


def copy_right(blob: Blob, base: Path, delta: Path, out: Path) -> Fault | None:
    """Stand for the child: what it makes is right, and it had what it needs."""
    assert (base.name, blob.digest) == (BASE.digest, BLOB.digest)
    assert delta.stat().st_size == DELTA.size_bytes
    out.write_bytes(NEW.blobs[blob.digest])
    return None


def copy_wrong(blob: Blob, base: Path, delta: Path, out: Path) -> Fault | None:
    out.write_bytes(bytes(blob.size_bytes))
    return None


def fail(blob: Blob, base: Path, delta: Path, out: Path) -> Fault | None:
    return Fault(Reason.DELTA_OVERSIZED, "it would have grown")


@dataclass
class Line:
    """What a socket has counted."""

    traffic: Traffic = field(default_factory=Traffic)


class Bench:
    """A device with a base on its disk."""

    def __init__(
        self, folder: Path, rebuild: Rebuilder = copy_right, settings: FetchSettings | None = None
    ) -> None:
        self.store = Store(folder)
        put(self.store, OLD)
        ways = Ways(self.store, can_rebuild=True)
        this = Machine(
            profile=PROFILE.name,
            facts=some_facts(PROFILE),
            runtimes={PROFILE.runtime.value: PROFILE.runtime_floor},
        )
        self.shelf = Shelf(self.store, this, ways=ways)
        self.queue: queue.SimpleQueue[Seen] = queue.SimpleQueue()
        fetch = Fetch(
            Broker("127.0.0.1", 9),
            "device:fetch",
            on_link=lambda _online: None,
            on_message=lambda _topic, _payload: None,
        )
        self.delivery = Delivery(
            fetch,
            self.store,
            self.shelf,
            ways,
            settings=settings or FetchSettings(),
            put=self.queue.put,
            rebuild=rebuild,
        )

    def advise(
        self, *deltas: Delta, pace: Pace | None = None, sources: tuple[str, ...] = ()
    ) -> list[machine.Event]:
        order = codec.encode({"signed": {}, "signatures": []})
        desired = Desired(
            order=msgspec.Raw(order),
            deltas=deltas,
            pace=pace or Pace(),
            sources=sources,
        )
        return list(self.delivery.advise(desired))

    def assemble(self) -> list[News]:
        return list(self.delivery.perform(machine.Assemble(NEW.digest), COMPLETE))

    def rebuilt(self, current: download.Download | None = COMPLETE) -> list[News]:
        """Wait for the child, and return what follows."""
        return list(self.delivery.read(self.queue.get(timeout=PATIENCE_S), current))

    def put_all_but_the_blob(self) -> None:
        self.shelf.accept(NEW.digest, NEW.envelope)
        for chunk, data in chunks_of(NEW).items():
            if chunk not in WHOLE:
                self.store.put_chunk(chunk, data)
        put_index(self.store)
        put_delta(self.store)

    def close(self) -> None:
        self.delivery.close()
        self.store.close()


Make = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Give a way to make a bench on one disk; the one before is closed then, and at the end."""
    made: list[Bench] = []

    def make(rebuild: Rebuilder = copy_right, settings: FetchSettings | None = None) -> Bench:
        while made:
            made.pop().close()
        made.append(Bench(tmp_path / "state", rebuild, settings))
        return made[0]

    yield make
    while made:
        made.pop().close()


def rebuilding(bench: Bench) -> Bench:
    """Have the bench begin to rebuild."""
    bench.advise(HINT)
    bench.put_all_but_the_blob()
    assert bench.assemble() == []  # A child is at it.
    return bench


def test_a_delta_becomes_its_blob_and_the_bundle_is_whole(make: Make) -> None:
    bench = rebuilding(make(copy_right))
    assert bench.rebuilt() == [machine.Assembled(NEW.digest)]
    assert (bench.store.blobs / BLOB.digest).read_bytes() == NEW.blobs[BLOB.digest]
    assert not list(bench.store.rebuilding.iterdir())


@pytest.mark.parametrize(
    ("rebuild", "reason"), [(copy_wrong, Reason.DELTA_CORRUPT), (fail, Reason.DELTA_OVERSIZED)]
)
def test_what_is_not_the_blob_never_becomes_it_and_it_is_fetched_whole(
    make: Make, rebuild: Rebuilder, reason: Reason
) -> None:
    bench = rebuilding(make(rebuild))
    news = bench.rebuilt()
    assert [one.reason for one in news if isinstance(one, Refused)] == [reason]
    (missing,) = (one for one in news if isinstance(one, download.StillMissing))
    assert missing.missing == WHOLE
    assert not bench.store.has_blob(BLOB.digest)
    assert not list(bench.store.rebuilding.iterdir())


def test_a_bundle_that_is_wanted_no_more_is_told_of_by_nobody(make: Make) -> None:
    bench = rebuilding(make(fail))
    assert bench.rebuilt(current=None) == []
    assert bench.assemble() == []  # Another is begun: nothing was held against the delta.
    assert bench.rebuilt()


def test_one_child_at_a_time_rebuilds(make: Make) -> None:
    may_end = threading.Event()

    def held_up(blob: Blob, base: Path, delta: Path, to: Path) -> Fault | None:
        assert may_end.wait(PATIENCE_S)
        return copy_right(blob, base, delta, to)

    bench = rebuilding(make(held_up))
    assert bench.assemble() == []
    may_end.set()
    assert bench.rebuilt() == [machine.Assembled(NEW.digest)]
    assert bench.queue.empty()


def test_news_of_a_delta_has_the_machine_look_again(make: Make) -> None:
    bench = make()
    assert any(isinstance(one, download.LookAgain) for one in bench.advise(UNMADE))
    assert not any(isinstance(one, download.LookAgain) for one in bench.advise(UNMADE))
    assert any(isinstance(one, download.LookAgain) for one in bench.advise(HINT))


def test_the_tightest_of_the_device_s_and_the_controller_s_limits_holds(make: Make) -> None:
    own = FetchSettings(max_bytes_per_s=500.0, max_bytes_per_day=9000, sources=("http://own",))
    bench = make(settings=own)
    assert list(bench.delivery.tick()) == [download.Advised(500.0, 9000, ("http://own",))]
    assert list(bench.delivery.tick()) == []
    pace = Pace(bytes_per_s=800.0, bytes_per_day=4000)
    advised = bench.advise(pace=pace, sources=("http://theirs",))
    urls = ("http://own", "http://theirs")
    assert download.Advised(500.0, 4000, urls) in advised


def fetch_a_chunk(bench: Bench) -> None:
    """Have the bench fetch 1024 bytes from a mirror, before they are counted."""
    with a_mirror(NEW.blobs, Manner.HONEST) as mirror:
        bench.shelf.accept(NEW.digest, NEW.envelope)
        chunk = BLOB.chunks[0]
        ask = download.AskSource(mirror.url, chunk, 1024, 10.0)
        current = download.Download(bundle=NEW.digest, missing=WHOLE)
        assert not list(bench.delivery.perform(ask, current))
        came = list(bench.delivery.read(bench.queue.get(timeout=PATIENCE_S), current))
        assert isinstance(came[-1], download.ChunkCame)


def left_bytes(bench: Bench) -> int | None:
    (advised,) = bench.delivery.tick()
    assert isinstance(advised, download.Advised)
    return advised.left_bytes


def test_what_was_fetched_counts_for_a_day_whatever_restarts(make: Make) -> None:
    own = FetchSettings(max_bytes_per_day=100_000)
    bench = make(settings=own)
    fetch_a_chunk(bench)
    assert left_bytes(bench) == 100_000 - 1024
    assert left_bytes(make(settings=own)) == 100_000 - 1024


def test_a_full_disk_does_not_keep_the_day_s_bytes_from_being_counted(make: Make) -> None:
    bench = make(settings=FetchSettings(max_bytes_per_day=100_000))
    fetch_a_chunk(bench)
    with a_full_disk():
        assert left_bytes(bench) == 100_000 - 1024


def test_what_flows_is_said_once_it_is_more_than_a_line_without_chunks_carries(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, line = make(), Line()
    monkeypatch.setattr(Fetch, "traffic", lambda _fetch: line.traffic)

    def says_that_it_flows(came_bytes: int) -> bool:
        line.traffic = Traffic(received_bytes=came_bytes)
        return any(isinstance(event, download.Flowing) for event in bench.delivery.tick())

    counts = (100, FLOW_BYTES, FLOW_BYTES + 100, 2 * FLOW_BYTES)
    assert [says_that_it_flows(count) for count in counts] == [False, True, False, True]
