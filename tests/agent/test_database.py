"""The device's database on disks that take no writes, or no more of them."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from tests.agent.mounts import apart
from tests.agent.stores import a_full_disk
from tests.builders import a_digest, an_alias
from wherry.reasons import Reason
from wherry_agent.core.agent import Saved
from wherry_agent.core.install import Idle
from wherry_agent.database import CannotSave, copy_to_memory, is_read_only, open_database, saving
from wherry_agent.store import REPORTS_IN_ADVANCE, Store

# What runs where the folder is mounted read-only: a namespace of its own, which needs no root.
ON_READ_ONLY_DISK = """
import json, sys
from pathlib import Path
from wherry_agent.store import Store, look
from wherry_agent.core.agent import Saved

seen = look(Path(sys.argv[1]))
store = Store(Path(sys.argv[1]))
known, id, seq = store.load(), store.store_id, store.next_report_seq()
with store.transaction():
    store.save(Saved())
store.keep([], [])
print(json.dumps({
    "fault": store.fault,
    "known": list(known.aliases),
    "seen": list(seen.saved.aliases),
    "id": id,
    "seq": seq,
    "after": list(store.load().aliases),
}))
store.close()
"""


# What runs where the folder is a small disk of its own, which is full at the second start.
ON_FULL_DISK = """
import json, sys
from pathlib import Path
from tests.builders import a_digest, an_alias
from wherry_agent.store import Store
from wherry_agent.core.agent import Saved
from wherry_agent.core.install import Idle

folder = Path(sys.argv[1])
store = Store(folder)
with store.transaction():
    store.save(Saved(aliases={an_alias(): Idle((a_digest(),))}))
store.put_manifest(a_digest(), b"kept")
own = store.store_id
store.close()
try:
    with (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
except OSError:
    pass
full = Store(folder)
with full.transaction():
    full.save(Saved())
full.keep([], [])
found = {"fault": full.fault, "is_another": full.store_id != own, "seq": full.next_report_seq()}
full.close()
(folder / "filler").unlink()
again = Store(folder)
found |= {
    "known": list(again.load().aliases),
    "is_the_same": again.store_id == own,
    "has_manifest": again.has_manifest(a_digest()),
    "fault_after": again.fault,
}
again.close()
print(json.dumps(found))
"""


def on_read_only_disk(folder: Path) -> dict[str, object]:
    mounted = f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}"
    return in_a_namespace(mounted, ON_READ_ONLY_DISK, folder)


def on_full_disk(folder: Path) -> dict[str, object]:
    return in_a_namespace(f"mount -t tmpfs -o size=1m tmpfs {folder}", ON_FULL_DISK, folder)


def in_a_namespace(mounted: str, program: str, folder: Path) -> dict[str, object]:
    """Return what a program prints that runs on `folder` where `mounted` was done before."""
    command = [sys.executable, "-c", program, str(folder)]
    done = subprocess.run(apart(mounted, command), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout, type=dict[str, object])


def test_a_store_on_a_read_only_disk_knows_everything_and_keeps_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    saved = Saved(aliases={an_alias(): Idle((a_digest(),))})
    with store.transaction():
        store.save(saved)
    own, given = store.store_id, store.next_report_seq()
    store.close()
    found = on_read_only_disk(tmp_path)
    assert found["fault"] == "disk_read_only"
    assert found["known"] == found["seen"] == [an_alias()]
    assert found["after"] == []
    assert found["id"] != own
    assert isinstance(found["seq"], int) and found["seq"] > given
    again = Store(tmp_path)
    assert (again.load(), again.store_id, again.fault) == (saved, own, None)
    again.close()


def test_a_store_that_comes_up_on_a_full_disk_knows_everything_and_keeps_nothing(
    tmp_path: Path,
) -> None:
    found = on_full_disk(tmp_path)
    assert found == {
        "fault": "disk_full",
        "is_another": True,
        "seq": REPORTS_IN_ADVANCE + 1,
        "known": [an_alias()],
        "is_the_same": True,
        "has_manifest": True,
        "fault_after": None,
    }


def test_a_copy_holds_what_only_the_log_has(tmp_path: Path) -> None:
    with closing(open_database(tmp_path)) as database:
        with saving(database, tmp_path):
            database.execute("INSERT INTO fact VALUES ('a', x'01')")
        assert (tmp_path / "agent.db-wal").stat().st_size
        with closing(copy_to_memory(tmp_path)) as copy:
            assert copy.execute("SELECT value FROM fact").fetchall() == [(b"\x01",)]


def test_a_write_that_finds_no_room_is_undone_and_says_so(tmp_path: Path) -> None:
    with closing(open_database(tmp_path)) as database:
        with (
            a_full_disk(),
            pytest.raises(CannotSave, match="make room there") as caught,
            saving(database, tmp_path),
        ):
            database.execute("INSERT INTO fact VALUES ('a', zeroblob(100000))")
        assert caught.value.reason is Reason.DISK_FULL
        assert database.execute("SELECT count(*) FROM fact").fetchone() == (0,)
        with saving(database, tmp_path):
            database.execute("INSERT INTO fact VALUES ('a', x'01')")


def test_a_disk_that_turns_read_only_is_told_from_a_full_one(tmp_path: Path) -> None:
    open_database(tmp_path).close()
    place = f"{(tmp_path / 'agent.db').absolute().as_uri()}?mode=ro"
    with (
        closing(sqlite3.connect(place, uri=True)) as database,
        pytest.raises(CannotSave) as caught,
        saving(database, tmp_path),
    ):
        database.execute("INSERT INTO fact VALUES ('a', x'01')")
    assert caught.value.reason is Reason.DISK_READ_ONLY


def test_a_mistake_in_a_statement_is_no_fault_of_the_disk(tmp_path: Path) -> None:
    with (
        closing(open_database(tmp_path)) as database,
        pytest.raises(sqlite3.OperationalError, match="no such table"),
        saving(database, tmp_path),
    ):
        database.execute("INSERT INTO absent VALUES (1)")


def test_a_folder_that_can_be_written_is_not_read_only(tmp_path: Path) -> None:
    assert not is_read_only(tmp_path)
    assert not is_read_only(tmp_path / "missing")
