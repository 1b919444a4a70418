"""The store holds old or new, never a part; what it holds was verified; nobody shares it."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.agent.stores import a_full_disk, chunks_of
from tests.builders import a_bundle_of, a_digest, a_histogram, an_alias, an_event
from wherry.blobs import WrongBytes, describe, digest_of
from wherry.bundle import Bundle
from wherry.files import TEMPORARY
from wherry.histogram import Histogram
from wherry.manifest import MODEL_FILE
from wherry.names import AliasName
from wherry.reasons import Reason, Status
from wherry.trust.keeping import Trust
from wherry_agent.core.agent import Saved
from wherry_agent.core.install import Idle, Probation
from wherry_agent.database import SCHEMA_VERSION, BrokenStore, NewerStore, StoreInUse
from wherry_agent.outbox import Outbox
from wherry_agent.store import (
    REPORTS_IN_ADVANCE,
    DiskFull,
    Seen,
    Store,
    look,
)

VECTOR = Path(__file__).parent.parent / "vectors" / "device-store-1.sql"

WRITER = """
import sys
from pathlib import Path
from msgspec.structs import replace
from tests.builders import a_digest, an_alias, an_event
from wherry.trust.device import Trust
from wherry_agent.core.agent import Saved
from wherry_agent.outbox import Outbox
from wherry_agent.store import Store

store = Store(Path(sys.argv[1]))
outbox = Outbox(store.database, keep_windows=1)
known = store.load_trust() or Trust(root="", epoch=1)
while True:
    known = replace(known, generation=known.generation + 1)
    with store.transaction():
        store.save_trust(known)
        store.save(Saved(releases={an_alias(): {a_digest(): known.generation}}))
        outbox.add_event(an_event(seq=0))
    print(store.next_report_seq(), flush=True)
"""


@contextmanager
def a_store(folder: Path) -> Iterator[Store]:
    store = Store(folder)
    try:
        yield store
    finally:
        store.close()


def fill(store: Store, bundle: Bundle) -> None:
    store.put_manifest(bundle.digest, bundle.envelope)
    for chunk, data in chunks_of(bundle).items():
        store.put_chunk(chunk, data)
    store.assemble(bundle.manifest)


def files_in(folder: Path) -> set[str]:
    return {place.name for place in folder.iterdir()}


# The state


def test_what_was_saved_is_there_again(tmp_path: Path) -> None:
    saved = Saved(aliases={an_alias(): Idle((a_digest(),))})
    with a_store(tmp_path) as store:
        assert store.load() == Saved()
        with store.transaction():
            store.save(saved)
        store_id = store.store_id
    with a_store(tmp_path) as store:
        assert store.load() == saved
        assert store.store_id == store_id
    assert look(tmp_path).saved == saved


def test_a_state_may_be_longer_than_any_message(tmp_path: Path) -> None:
    window = a_histogram(*(1.03**power for power in range(400)))
    recent: dict[AliasName, tuple[Histogram, ...]] = {
        an_alias(f"alias-{number}"): (window,) * 60 for number in range(15)
    }
    with a_store(tmp_path) as store:
        with store.transaction():
            store.save(Saved(recent=recent))
        assert store.load().recent == recent
    assert look(tmp_path).saved.recent == recent


@pytest.mark.system
def test_a_kill_at_any_write_leaves_the_state_and_what_is_told_of_it_together(
    tmp_path: Path,
) -> None:
    numbers: list[int] = []
    for round_ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            numbers += [int(writer.stdout.readline()) for _ in range(3 + round_)]
            writer.send_signal(signal.SIGKILL)
            numbers += [int(line) for line in writer.stdout]
        with a_store(tmp_path) as store:
            first, last = Outbox(store.database, keep_windows=1).span()
            trust, saved = store.load_trust(), store.load()
            assert trust is not None
            assert (first, last) == (1, trust.generation)
            assert saved.releases == {an_alias(): {a_digest(): last}}
            assert last >= len(numbers)
    assert len(set(numbers)) == len(numbers)


def test_a_large_blob_is_made_of_its_chunks_in_little_memory(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(8 << 20)
    bundle = a_bundle_of(data, files={MODEL_FILE: describe(data)})
    with a_store(tmp_path) as store:
        store.put_manifest(bundle.digest, bundle.envelope)
        for chunk, data in chunks_of(bundle).items():
            store.put_chunk(chunk, data)
        tracemalloc.start()
        try:
            store.assemble(bundle.manifest)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert not store.missing_chunks(bundle.manifest)
    assert peak_bytes < 2 << 20


def test_numbers_of_reports_never_repeat(tmp_path: Path) -> None:
    with a_store(tmp_path) as store:
        given = [store.next_report_seq() for _ in range(2 * REPORTS_IN_ADVANCE)]
    assert given == list(range(1, 2 * REPORTS_IN_ADVANCE + 1))
    with a_store(tmp_path) as store:
        assert store.next_report_seq() > given[-1]


def test_a_full_disk_can_be_reported(tmp_path: Path) -> None:
    with a_store(tmp_path) as store, a_full_disk():
        assert [store.next_report_seq() for _ in range(3)] == [1, 2, 3]


def test_two_homes_have_two_identities(tmp_path: Path) -> None:
    with a_store(tmp_path / "one") as one, a_store(tmp_path / "two") as two:
        assert one.store_id != two.store_id


# Who may open it


def test_a_second_agent_on_one_home_is_refused_and_disturbs_nothing(tmp_path: Path) -> None:
    with a_store(tmp_path):
        half_written = tmp_path / "chunks" / f"{TEMPORARY}1"
        half_written.write_bytes(b"half")
        with pytest.raises(StoreInUse, match="stop it first"):
            Store(tmp_path)
        assert half_written.exists()
    with a_store(tmp_path):
        assert not half_written.exists()


def test_a_store_of_a_later_release_is_refused_and_left_alone(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "agent.db")
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    database.close()
    for way in (Store, look):
        with pytest.raises(NewerStore, match="install the release that wrote it"):
            way(tmp_path)
    assert Path(tmp_path / "agent.db").stat().st_size


def test_a_file_that_is_no_database_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "agent.db").write_bytes(b"no database, but long enough to be one" * 30)
    for way in (Store, look):
        with pytest.raises(BrokenStore, match="not a database; check its disk"):
            way(tmp_path)
    (tmp_path / "agent.db").unlink()
    with a_store(tmp_path):
        pass  # A refusal keeps no lock.


def test_a_home_without_a_store_has_nothing_saved_and_gets_none_by_looking(tmp_path: Path) -> None:
    assert look(tmp_path) == Seen(Saved(), None)
    assert files_in(tmp_path) == set()


def test_any_path_may_hold_a_store(tmp_path: Path) -> None:
    odd = tmp_path / "50% #1?"
    saved = Saved(releases={an_alias(): {a_digest(): 3}})
    with a_store(odd) as store, store.transaction():
        store.save(saved)
    assert look(odd).saved == saved


def test_the_store_of_the_first_release_is_read_as_it_was_written(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "agent.db")
    database.executescript(VECTOR.read_text())
    database.close()
    with a_store(tmp_path) as store:
        assert store.store_id == "0123456789abcdef" * 2
        saved = store.load()
        default, detector = saved.aliases[an_alias()], saved.aliases[an_alias("detector")]
        assert isinstance(default, Idle)
        assert default.settled is not None
        assert (default.settled.status, default.settled.reason) == (
            Status.SUCCEEDED,
            Reason.CONFIRMED,
        )
        assert isinstance(detector, Probation)
        assert detector.wanted.bundle == a_digest("new")
        assert [h.total for h in saved.recent[an_alias()]] == [3]
        outbox = Outbox(store.database, keep_windows=10)
        assert outbox.span() == (4, 5)
        assert [seq for seq, _ in outbox.telemetry(0, 10)] == [2]
        with store.transaction():
            assert outbox.add_event(an_event(seq=0)) == 6
        assert store.next_report_seq() == 10


def test_what_is_trusted_is_kept_also_for_who_only_looks(tmp_path: Path) -> None:
    trust = Trust(root="{}", epoch=2, generation=5, floors={"root": 7.0})
    with a_store(tmp_path) as store:
        assert store.load_trust() is None
        for known in (Trust(root="{}", epoch=1), trust):
            with store.transaction():
                store.save_trust(known)
        assert store.load_trust() == trust
    assert look(tmp_path).trust == trust


def test_who_only_looks_sees_a_store_of_an_earlier_release_as_it_is(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "agent.db")
    database.executescript(VECTOR.read_text())
    database.close()
    assert look(tmp_path).trust is None
    assert look(tmp_path).saved.aliases.keys() == {an_alias(), an_alias("detector")}


# Bundles


def test_a_chunk_that_is_not_what_its_name_says_never_lands(tmp_path: Path) -> None:
    bundle = a_bundle_of(bytes(3000))
    chunk = next(iter(chunks_of(bundle)))
    with a_store(tmp_path) as store:
        with pytest.raises(WrongBytes):
            store.put_chunk(chunk, b"altered")
        assert files_in(tmp_path / "chunks") == set()
        assert chunk in store.missing_chunks(bundle.manifest)


def test_a_chunk_on_disk_is_missed_no_more(tmp_path: Path) -> None:
    bundle = a_bundle_of(bytes(range(250)) * 10)
    parts = chunks_of(bundle)
    with a_store(tmp_path) as store:
        assert store.missing_chunks(bundle.manifest) == {c: len(d) for c, d in parts.items()}
        for chunk, data in parts.items():
            before = store.needed_bytes(bundle.manifest)
            store.put_chunk(chunk, data)
            assert chunk not in store.missing_chunks(bundle.manifest)
            assert store.needed_bytes(bundle.manifest) == before - len(data)


def test_a_blob_is_whole_and_right_or_not_there(tmp_path: Path) -> None:
    bundle = a_bundle_of(bytes(range(250)) * 10)
    model = bundle.manifest.files[MODEL_FILE]
    with a_store(tmp_path) as store:
        for chunk, data in chunks_of(bundle).items():
            store.put_chunk(chunk, data)
        damaged = tmp_path / "chunks" / model.chunks[1]
        sound = damaged.read_bytes()
        damaged.write_bytes(bytes(len(sound)))
        with pytest.raises(WrongBytes):
            store.assemble(bundle.manifest)
        assert model.digest not in files_in(store.blobs)
        damaged.write_bytes(sound)
        store.assemble(bundle.manifest)
        assert {d: (store.blobs / d).read_bytes() for d in bundle.blobs} == bundle.blobs
        assert files_in(tmp_path / "chunks") == set()
        assert store.missing_chunks(bundle.manifest) == {}
        assert store.needed_bytes(bundle.manifest) == 0


def test_assembling_leaves_the_chunks_of_other_bundles(tmp_path: Path) -> None:
    one, other = a_bundle_of(b"one" * 1000), a_bundle_of(b"two" * 1000)
    theirs = next(chunk for chunk in chunks_of(other) if chunk not in chunks_of(one))
    with a_store(tmp_path) as store:
        store.put_chunk(theirs, chunks_of(other)[theirs])
        fill(store, one)
        assert files_in(tmp_path / "chunks") == {theirs}


def test_keeping_deletes_exactly_what_nothing_needs(tmp_path: Path) -> None:
    kept, gone, coming = (a_bundle_of(text * 1000) for text in (b"kept", b"gone", b"come"))
    arrived, data = next(iter(chunks_of(coming).items()))
    with a_store(tmp_path) as store:
        fill(store, kept)
        fill(store, gone)
        store.put_manifest(coming.digest, coming.envelope)
        store.put_chunk(arrived, data)
        store.put_chunk(digest_of(b"stray"), b"stray")
        store.keep([kept.manifest, coming.manifest], [kept.digest, coming.digest])
        assert files_in(tmp_path / "manifests") == {kept.digest, coming.digest}
        assert files_in(store.blobs) == set(kept.blobs)
        assert files_in(tmp_path / "chunks") == {arrived}
        assert store.manifest_envelope(gone.digest) is None
        assert store.manifest_envelope(kept.digest) == kept.envelope


def test_a_full_disk_is_said_and_leaves_nothing_behind(tmp_path: Path) -> None:
    data = bytes(1024)
    with a_store(tmp_path) as store:
        with (
            a_full_disk(),
            pytest.raises(DiskFull, match=r"takes no more \(File too large\): make room"),
        ):
            store.put_chunk(digest_of(data), data)
        assert files_in(tmp_path / "chunks") == set()
        store.put_chunk(digest_of(data), data)
