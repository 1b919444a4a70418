"""The outbox: what the device has to tell, kept on disk until it is told.

Events wait for the controller's ack, since a PUBACK only says that the broker has them.
Telemetry waits for the PUBACK; when the broker is away for long, the oldest windows go first
and are counted. Numbers are never used twice, also not after everything was forgotten.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator

import msgspec

from wherry import codec
from wherry.messages import Event, Telemetry


class Outbox:
    """The outbox's tables in the store's database; used by the deciding thread only."""

    def __init__(self, database: sqlite3.Connection, *, keep_windows: int) -> None:
        self._database = database
        self._keep_windows = keep_windows

    def add_event(self, event: Event) -> int:
        """Write an event within the caller's transaction; return the number it was given."""
        return self._add("event", lambda seq: msgspec.structs.replace(event, seq=seq))

    def span(self) -> tuple[int, int]:
        """Return the first and last number of the events that wait; first > last: none does."""
        first, last = self._database.execute("SELECT min(seq), max(seq) FROM event").fetchone()
        if first is not None:
            return first, last
        last = self._last_given("event")
        return last + 1, last

    def events(self, after: int, until: int) -> Iterator[bytes]:
        rows = self._database.execute(
            "SELECT body FROM event WHERE seq > ? AND seq <= ? ORDER BY seq", (after, until)
        )
        return (bytes(body) for (body,) in rows.fetchall())

    def forget_events(self, until: int) -> None:
        with self._database:
            self._database.execute("DELETE FROM event WHERE seq <= ?", (until,))

    def add_telemetry(self, window: Telemetry) -> int:
        """Write a window within the caller's transaction.

        The oldest go where too many wait; returns how many that were.
        """
        seq = self._add("telemetry", lambda seq: msgspec.structs.replace(window, seq=seq))
        oldest = seq - self._keep_windows
        gone = self._database.execute("DELETE FROM telemetry WHERE seq <= ?", (oldest,))
        return gone.rowcount

    def telemetry(self, after: int, most: int) -> list[tuple[int, bytes]]:
        """Return the number and bytes of at most `most` windows after `after`, oldest first."""
        rows = self._database.execute(
            "SELECT seq, body FROM telemetry WHERE seq > ? ORDER BY seq LIMIT ?", (after, most)
        )
        return [(seq, bytes(body)) for seq, body in rows.fetchall()]

    def forget_telemetry(self, seq: int) -> None:
        with self._database:
            self._database.execute("DELETE FROM telemetry WHERE seq = ?", (seq,))

    def _add(self, table: str, numbered: Callable[[int], msgspec.Struct]) -> int:
        seq = self._last_given(table) + 1
        body = codec.encode(numbered(seq))
        self._database.execute(_INSERT[table], (seq, body))
        return seq

    def _last_given(self, table: str) -> int:
        row = self._database.execute(
            "SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)
        ).fetchone()
        return row[0] if row else 0


_INSERT = {
    "event": "INSERT INTO event (seq, body) VALUES (?, ?)",
    "telemetry": "INSERT INTO telemetry (seq, body) VALUES (?, ?)",
}
