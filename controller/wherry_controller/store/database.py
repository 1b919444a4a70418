"""Opening the database: by URL, at the newest schema, in small transactions.

SQLite by default, in WAL mode with foreign keys enforced; any other URL that SQLAlchemy knows
works if its driver is installed. A database of a newer release is refused, not guessed at.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlmodel import Session

from wherry.errors import Unavailable, Unsuitable

Transaction: TypeAlias = Session

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_S = 10.0
RETRY_S = 0.05
READING = "wherry_reading"


class NewerDatabase(Unsuitable):
    """The database was written by a release that this one does not know."""

    def __init__(self, revision: str) -> None:
        super().__init__(revision)
        self.revision = revision

    def __str__(self) -> str:
        return (
            f"the database has the schema {self.revision!r} of a newer release of Wherry: "
            "install that release, or restore the copy made before it was upgraded."
        )


class NoDatabase(Unavailable):
    """The database does not answer."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(url, problem)
        self.url, self.problem = url, problem

    def __str__(self) -> str:
        return (
            f"the database {self.url} does not open ({self.problem}): "
            "check `database` in wherry.toml."
        )


class Store:
    """An open database at the newest schema; threads may share it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reader = engine.execution_options(**{READING: True})

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Open a transaction: committed at the end of the block, rolled back by an exception.

        One writes at a time; another waits for it, `BUSY_S` at most.
        """
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """Open a transaction that only reads: it waits for no writer and holds up none."""
        with Session(self._reader, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        self._engine.dispose()


def open_store(url: str) -> Store:
    """Open the database at `url`, upgrade its schema and return it.

    Raises `NewerDatabase`, and `NoDatabase` where it cannot be opened.
    """
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    try:
        with engine.begin() as connection:
            upgrade(connection)
    except OperationalError as error:
        raise NoDatabase(engine.url.render_as_string(), str(error.orig)) from error
    return Store(engine)


def upgrade(connection: Connection) -> None:
    """Bring the schema to the newest revision; raise `NewerDatabase` where it is beyond that."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in known:
        raise NewerDatabase(current)
    command.upgrade(config, "head")


def take_turn(tx: Transaction, name: str) -> None:
    """Wait until no other transaction that wrote has this turn; it ends with the transaction.

    SQLite lets one write at a time anyhow, and a transaction that only reads takes no turn there.
    """
    if tx.get_bind().dialect.name == "postgresql":
        tx.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": name})


def _set_up_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # The driver begins nothing by itself: `_begin_sqlite` does.
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_S * 1000)}")
    _switch_to_wal(cursor)
    cursor.execute("PRAGMA synchronous = FULL")  # An acknowledged event outlives a power cut.
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _switch_to_wal(cursor: DBAPICursor) -> None:
    """Switch to WAL, waiting `BUSY_S` for a writer: SQLite's own waiting leaves this case out."""
    deadline_s = time.monotonic() + BUSY_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline_s:
                raise
            time.sleep(RETRY_S)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later fails if another wrote in between, so one
    # that may write takes the lock at once.
    reads = connection.get_execution_options().get(READING, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
