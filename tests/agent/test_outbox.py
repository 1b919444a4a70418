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

    def __init__(self, folder: Path, *, keep_windows: int = 1000) -> None:
        self._folder, self._keep_windows = folder, keep_windows
        self._open()

    def _open(self) -> None:
        self.store = Store(self._folder)
        self.outbox = Outbox(self.store.database, keep_windows=self._keep_windows)

    def restart(self) -> None:
        self.store.close()
        self._open()

    def add_event(self) -> int:
        with self.store.transaction():
            return self.outbox.add_event(an_event(seq=0))

    def add_window(self) -> int:
        with self.store.transaction():
            return self.outbox.add_telemetry(a_telemetry(seq=0))

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
    kept.outbox.forget_events(2)
    assert kept.outbox.span() == (3, 3)
    kept.outbox.forget_events(3)
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
                kept.outbox.forget_events(max(given_out, default=0))
                for seq in kept.windows():
                    kept.outbox.forget_telemetry(seq)
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
    kept.outbox.forget_telemetry(2)
    assert kept.windows(most=2) == [1, 3]
    assert kept.windows(after=3, most=2) == [4, 5]
    assert kept.windows(most=0) == []
    kept.store.close()
