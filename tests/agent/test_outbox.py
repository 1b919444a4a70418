"""What waits is kept, what is told is forgotten, and no number is used twice."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import a_telemetry, an_event
from tests.laws import tried
from wherry import codec
from wherry.messages import Event, Telemetry
from wherry_agent.outbox import Outbox
from wherry_agent.store import Store


class Kept:
    """An outbox in a store that can be opened again."""

    def __init__(
        self, folder: Path, *, keep_windows: int = 1000, keep_bytes: int = 1 << 30
    ) -> None:
        self._folder, self._keep_windows = folder, keep_windows
        self._keep_bytes = keep_bytes
        self._open()

    def _open(self) -> None:
        self.store = Store(self._folder)
        self.outbox = Outbox(
            self.store.database, keep_windows=self._keep_windows, keep_bytes=self._keep_bytes
        )

    def restart(self) -> None:
        self.store.close()
        self._open()

    def add_event(self) -> int:
        with self.store.transaction():
            return self.outbox.add_event(an_event(seq=0))

    def add_window(self) -> int:
        with self.store.transaction():
            return self.outbox.add_telemetry(a_telemetry(seq=0))

    def fail_to_add_window(self) -> None:
        with self.store.transaction():
            self.outbox.add_telemetry(a_telemetry(seq=0))
            raise OSError

    def forget_window(self, seq: int) -> None:
        with self.store.transaction():
            self.outbox.forget_telemetry(seq)

    def forget_events(self, until: int) -> None:
        with self.store.transaction():
            self.outbox.forget_events(until)

    def waiting_bytes(self) -> int:
        return sum(len(body) for _, body in self.outbox.telemetry(0, 1000))

    def events(self, after: int = 0, until: int = 1 << 40) -> list[int]:
        return [codec.decode(Event, body).seq for body in self.outbox.events(after, until)]

    def windows(self, after: int = 0, most: int = 1 << 40) -> list[int]:
        found = self.outbox.telemetry(after, most)
        assert all(codec.decode(Telemetry, body).seq == seq for seq, body in found)
        return [seq for seq, _ in found]


def test_events_are_numbered_from_one_and_given_back_in_order(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    assert [kept.add_event() for _ in range(4)] == [1, 2, 3, 4]
    assert kept.events() == [1, 2, 3, 4]
    assert kept.events(after=1, until=3) == [2, 3]
    kept.store.close()


def test_an_event_says_all_that_it_said_and_its_number(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    told = an_event(seq=0, detail="why")
    with kept.store.transaction():
        seq = kept.outbox.add_event(told)
    (body,) = kept.outbox.events(0, seq)
    assert codec.decode(Event, body) == msgspec.structs.replace(told, seq=seq)
    kept.store.close()


def test_an_empty_outbox_says_which_number_is_next(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    assert kept.outbox.span() == (1, 0)
    for _ in range(3):
        kept.add_event()
    assert kept.outbox.span() == (1, 3)
    kept.forget_events(2)
    assert kept.outbox.span() == (3, 3)
    kept.forget_events(3)
    assert kept.outbox.span() == (4, 3)
    kept.store.close()


def test_an_event_of_a_write_that_failed_was_never_there(tmp_path: Path) -> None:
    kept = Kept(tmp_path)

    def fail() -> None:
        with kept.store.transaction():
            kept.outbox.add_event(an_event())
            raise OSError

    with pytest.raises(OSError):
        fail()
    assert kept.outbox.span() == (1, 0)
    assert kept.add_event() == 1
    kept.store.close()


@given(st.lists(st.sampled_from(["event", "window", "forget", "restart"]), max_size=25))
@tried
def test_no_number_is_used_twice_whatever_is_forgotten(
    tmp_path_factory: pytest.TempPathFactory, deeds: list[str]
) -> None:
    kept = Kept(tmp_path_factory.mktemp("outbox"))
    given_out: list[int] = []
    windows: list[int] = []
    for deed in deeds:
        match deed:
            case "event":
                given_out.append(kept.add_event())
            case "window":
                kept.add_window()
                windows.append(kept.windows()[-1])
            case "forget":
                kept.forget_events(max(given_out, default=0))
                for seq in kept.windows():
                    kept.forget_window(seq)
            case _:
                kept.restart()
    assert given_out == list(range(1, len(given_out) + 1))
    assert windows == list(range(1, len(windows) + 1))
    kept.store.close()


def test_events_are_never_dropped_and_windows_are_oldest_first_and_counted(tmp_path: Path) -> None:
    kept = Kept(tmp_path, keep_windows=3)
    dropped = [kept.add_window() for _ in range(5)]
    for _ in range(5):
        kept.add_event()
    assert dropped == [0, 0, 0, 1, 1]
    assert kept.windows() == [3, 4, 5]
    assert kept.events() == [1, 2, 3, 4, 5]
    kept.store.close()


def test_windows_are_read_on_from_where_the_last_reading_ended(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    for _ in range(5):
        kept.add_window()
    kept.forget_window(2)
    assert kept.windows(most=2) == [1, 3]
    assert kept.windows(after=3, most=2) == [4, 5]
    assert kept.windows(most=0) == []
    kept.store.close()


def test_no_more_bytes_wait_than_may_and_the_oldest_windows_go_first(tmp_path: Path) -> None:
    size_bytes = len(codec.encode(a_telemetry(seq=1)))
    kept = Kept(tmp_path, keep_bytes=int(3.5 * size_bytes))
    dropped = [kept.add_window() for _ in range(5)]
    assert dropped == [0, 0, 0, 1, 1]
    assert kept.windows() == [3, 4, 5]
    kept.forget_window(4)
    kept.restart()
    assert [kept.add_window() for _ in range(2)] == [0, 1]
    assert kept.windows() == [5, 6, 7]
    kept.store.close()


def test_the_newest_window_is_kept_however_long_it_is(tmp_path: Path) -> None:
    kept = Kept(tmp_path, keep_bytes=10)
    assert [kept.add_window() for _ in range(3)] == [0, 1, 1]
    assert kept.windows() == [3]
    kept.store.close()


def test_windows_of_an_earlier_release_count_as_bytes_too(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    for _ in range(4):
        kept.add_window()
    with kept.store.transaction():
        kept.store.database.execute("DELETE FROM fact WHERE name = 'telemetry_bytes'")
    waiting_bytes = kept.waiting_bytes()
    kept.store.close()
    kept = Kept(tmp_path, keep_bytes=waiting_bytes)
    assert kept.add_window() == 1
    assert kept.windows() == [2, 3, 4, 5]
    kept.store.close()


def test_each_window_says_how_many_were_lost_before_it(tmp_path: Path) -> None:
    kept = Kept(tmp_path, keep_windows=2)
    for _ in range(4):
        kept.add_window()
    kept.restart()
    kept.add_window()
    told = [codec.decode(Telemetry, body) for _, body in kept.outbox.telemetry(0, 10)]
    assert [one.dropped_windows for one in told] == [1, 2]
    assert kept.outbox.dropped_windows() == 3
    kept.store.close()


@given(st.lists(st.sampled_from(["add", "forget", "restart", "fail"]), max_size=30))
@tried
def test_the_bytes_that_wait_are_counted_right_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, deeds: list[str]
) -> None:
    kept = Kept(tmp_path_factory.mktemp("outbox"), keep_windows=4, keep_bytes=3000)
    for deed in deeds:
        waiting = kept.windows()
        match deed:
            case "add":
                kept.add_window()
            case "forget" if waiting:
                kept.forget_window(waiting[len(waiting) // 2])
            case "fail":
                with pytest.raises(OSError):
                    kept.fail_to_add_window()
            case _:
                kept.restart()
        known = kept.store.database.execute(
            "SELECT CAST(value AS TEXT) FROM fact WHERE name = 'telemetry_bytes'"
        ).fetchone()
        assert kept.waiting_bytes() == int(known[0] if known else 0)
        assert kept.waiting_bytes() <= 3000
        assert len(kept.windows()) <= 4
    kept.store.close()
