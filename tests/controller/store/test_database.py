"""The schema, its migrations and its transactions, on real SQLite."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine
from sqlalchemy.exc import IntegrityError

from tests.builders import a_store_id
from tests.controller.stores import a_store, add_devices
from wherry.names import DeviceId, parse_group_name
from wherry_controller.store import devices, telemetry
from wherry_controller.store.database import NewerDatabase, NoDatabase, open_store
from wherry_controller.store.records import Desired, EventRecord, Group
from wherry_controller.store.tables import Row


def test_the_migrations_make_the_schema_that_the_tables_describe(tmp_path: Path) -> None:
    a_store(tmp_path).close()
    engine = create_engine(f"sqlite:///{tmp_path / 'wherry.db'}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Row.metadata) == []
    engine.dispose()


def test_a_database_is_opened_again_with_what_stands_in_it(tmp_path: Path) -> None:
    first = a_store(tmp_path)
    with first.transaction() as tx:
        add_devices(tx, "pi-1")
    first.close()
    with a_store(tmp_path).reading() as tx:
        assert [device.id for device in devices.list_devices(tx)] == ["pi-1"]


def test_a_database_of_a_newer_release_is_refused_with_the_next_step(tmp_path: Path) -> None:
    a_store(tmp_path).close()
    with sqlite3.connect(tmp_path / "wherry.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(NewerDatabase, match="install that release"):
        a_store(tmp_path)


def test_a_database_that_does_not_open_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(NoDatabase, match=r"wherry\.toml"):
        open_store(f"sqlite:///{tmp_path / 'missing' / 'wherry.db'}")


def test_a_transaction_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    store = a_store(tmp_path)

    def break_off() -> None:
        with store.transaction() as tx:
            add_devices(tx, "pi-1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    with store.reading() as tx:
        assert devices.list_devices(tx) == []


def test_a_group_holds_only_devices_that_exist(tmp_path: Path) -> None:
    ghost = Group(parse_group_name("canary"), (DeviceId("ghost"),))
    with pytest.raises(IntegrityError), a_store(tmp_path).transaction() as tx:
        devices.save_group(tx, ghost)


def test_a_removed_device_takes_all_its_rows_with_it(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    event = EventRecord(
        device=DeviceId("pi-1"), store_id=a_store_id(), seq=1, body="{}", received_at=0.0
    )
    with store.transaction() as tx:
        (device,) = add_devices(tx, "pi-1")
        devices.save_group(tx, Group(parse_group_name("canary"), (device,)))
        devices.save_desired(tx, Desired(device=device, generation=3))
        telemetry.add_events(tx, [event])
        devices.remove_device(tx, device)
    with store.reading() as tx:
        assert devices.list_devices(tx) == []
        assert devices.list_groups(tx) == [Group(parse_group_name("canary"), ())]
        assert devices.list_desired(tx) == []
        assert telemetry.list_events(tx, device) == []


def test_a_reader_neither_waits_for_a_writer_nor_sees_half_of_its_work(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    seen: list[int] = []

    def look() -> None:
        with store.reading() as tx:
            seen.append(len(devices.list_devices(tx)))

    with store.transaction() as tx:
        add_devices(tx, "pi-1")
        reader = threading.Thread(target=look)
        reader.start()
        reader.join(timeout=5.0)
        assert seen == [0]


def test_two_that_read_first_and_write_later_both_succeed(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    with store.transaction() as tx:
        (device,) = add_devices(tx, "pi-1")

    def raise_generation() -> None:
        for _ in range(20):
            with store.transaction() as tx:
                generation = devices.get_desired(tx, device).generation
                devices.save_desired(tx, Desired(device=device, generation=generation + 1))

    threads = [threading.Thread(target=raise_generation) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.reading() as tx:
        assert devices.get_desired(tx, device).generation == 40


def test_a_database_that_another_process_writes_to_is_waited_for(tmp_path: Path) -> None:
    writer = sqlite3.connect(tmp_path / "w.db", isolation_level=None, check_same_thread=False)
    writer.execute("CREATE TABLE other (name)")
    writer.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, writer.execute, ["COMMIT"])
    release.start()
    open_store(f"sqlite:///{tmp_path / 'w.db'}").close()
    assert not writer.in_transaction
    release.join()
    writer.close()
