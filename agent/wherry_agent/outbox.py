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
from wherry_agent.core.budget import Spent


class Outbox:
    """The outbox's tables in the store's database; used by the deciding thread only."""

    def __init__(
        self, database: sqlite3.Connection, *, keep_windows: int, keep_bytes: int = 32 << 20
    ) -> None:
        self._database = database
        self._keep_windows, self._keep_bytes = keep_windows, keep_bytes

    def add_event(self, event: Event) -> int:
        """Write an event within the caller's transaction; return the number it was given."""
        seq, _ = self._add("event", lambda seq: msgspec.structs.replace(event, seq=seq))
        return seq

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
        """Delete the events up to a number within the caller's transaction."""
        self._database.execute("DELETE FROM event WHERE seq <= ?", (until,))

    def add_telemetry(self, window: Telemetry) -> int:
        """Write a window within the caller's transaction, with how many were lost before it.

        The oldest go where too many wait, or too many bytes; returns how many that were.
        """
        lost = self.dropped_windows()
        seq, size_bytes = self._add(
            "telemetry",
            lambda seq: msgspec.structs.replace(window, seq=seq, dropped_windows=lost),
        )
        waiting = self._waiting_bytes(but=seq) + size_bytes
        gone = self._drop_oldest(seq, waiting - self._keep_bytes)
        self._set_number("telemetry_bytes", waiting - sum(gone))
        self.count_dropped(len(gone))
        return len(gone)

    def telemetry(self, after: int, most: int) -> list[tuple[int, bytes]]:
        """Return the number and bytes of at most `most` windows after `after`, oldest first."""
        rows = self._database.execute(
            "SELECT seq, body FROM telemetry WHERE seq > ? ORDER BY seq LIMIT ?", (after, most)
        )
        return [(seq, bytes(body)) for seq, body in rows.fetchall()]

    def forget_telemetry(self, seq: int) -> None:
        """Delete a window within the caller's transaction."""
        waiting = self._waiting_bytes()
        row = self._database.execute(
            "SELECT length(body) FROM telemetry WHERE seq = ?", (seq,)
        ).fetchone()
        if row:
            self._database.execute("DELETE FROM telemetry WHERE seq = ?", (seq,))
            self._set_number("telemetry_bytes", waiting - row[0])

    def dropped_windows(self) -> int:
        """Return how many windows were lost since the store was made."""
        return self._number("dropped_windows") or 0

    def count_dropped(self, windows: int) -> None:
        """Count, within the caller's transaction, windows that were lost on their way here."""
        if windows:
            self._set_number("dropped_windows", self.dropped_windows() + windows)

    def told(self) -> Spent:
        """Return the bytes of the windows that were written in the last hours."""
        row = self._fact("told")
        return msgspec.json.decode(row, type=codec.learned(Spent)) if row else Spent()

    def save_told(self, told: Spent) -> None:
        """Write within the caller's transaction."""
        self._set_fact("told", codec.encode(told))

    def _drop_oldest(self, newest: int, beyond_bytes: int) -> list[int]:
        """Delete what is beyond the bounds, `newest` never; return the lengths in bytes."""
        rows = self._database.execute(
            "SELECT seq, length(body) FROM telemetry WHERE seq < ? ORDER BY seq", (newest,)
        )
        gone: list[int] = []
        last = 0
        for seq, size_bytes in rows:
            if beyond_bytes <= 0 and seq > newest - self._keep_windows:
                break
            gone.append(size_bytes)
            beyond_bytes -= size_bytes
            last = seq
        if gone:
            self._database.execute("DELETE FROM telemetry WHERE seq <= ?", (last,))
        return gone

    def _waiting_bytes(self, *, but: int = 0) -> int:
        """Return the bytes of all windows; counted once, in a store that has no number yet."""
        known = self._number("telemetry_bytes")
        if known is not None:
            return known
        statement = "SELECT coalesce(sum(length(body)), 0) FROM telemetry WHERE seq != ?"
        counted: int = self._database.execute(statement, (but,)).fetchone()[0]
        return counted

    def _add(self, table: str, numbered: Callable[[int], msgspec.Struct]) -> tuple[int, int]:
        """Return the number that a row was given, and its length in bytes."""
        seq = self._last_given(table) + 1
        body = codec.encode(numbered(seq))
        self._database.execute(_INSERT[table], (seq, body))
        return seq, len(body)

    def _last_given(self, table: str) -> int:
        row = self._database.execute(
            "SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)
        ).fetchone()
        return row[0] if row else 0

    def _number(self, name: str) -> int | None:
        row = self._fact(name)
        return int(row) if row else None

    def _set_number(self, name: str, value: int) -> None:
        self._set_fact(name, str(value).encode())

    def _fact(self, name: str) -> bytes | None:
        row = self._database.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
        return bytes(row[0]) if row else None

    def _set_fact(self, name: str, value: bytes) -> None:
        self._database.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (name, value))


_INSERT = {
    "event": "INSERT INTO event (seq, body) VALUES (?, ?)",
    "telemetry": "INSERT INTO telemetry (seq, body) VALUES (?, ?)",
}
