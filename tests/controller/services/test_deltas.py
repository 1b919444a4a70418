"""Deltas on demand: one child a pair, whoever asks, and nothing offered that saves nothing."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.builders import a_bundle_of, a_digest
from tests.controller.deltas.files import a_model, some_weights, tuned
from tests.controller.stores import a_store
from tests.deltas import as_blob, expected, rebuilt
from wherry import codec
from wherry.blobs import digest_of
from wherry.bundle import Bundle
from wherry.messages import Delta, DeltaIndex
from wherry_controller.services.delta_maker import ChildMaker, NotMade
from wherry_controller.services.deltas import SMALLEST_BLOB_BYTES, Deltas
from wherry_controller.store import models
from wherry_controller.store.blobs import BlobFolder, LostBlob
from wherry_controller.store.database import Store

BASE = a_model(some_weights(dtype="float16"))
BLOB = a_model(tuned(some_weights(dtype="float16")))
OTHER = a_model(some_weights(3, dtype="float16"))


class Later(Executor):
    """Runs nothing until it is told to."""

    def __init__(self) -> None:
        self.work: list[Callable[[], object]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: ANN401
        self.work.append(lambda: fn(*args, **kwargs))
        return Future()

    def run(self) -> int:
        """Do what waits; return how much that was."""
        done, self.work = self.work, []
        for work in done:
            work()
        return len(done)


@dataclass
class Writing:
    """A maker that writes so many bytes, or fails, and counts."""

    size_bytes: int = 1000
    problem: str = ""
    made: list[tuple[str, str]] = field(default_factory=list)

    def make(self, base: Path, blob: Path, delta: Path) -> None:
        self.made.append((base.name, blob.name))
        if self.problem:
            raise NotMade(self.problem)
        delta.write_bytes(b"d" * self.size_bytes)

    def stop(self) -> None: ...


@dataclass
class Bench:
    """The service over a real database and folder."""

    folder: Path
    maker: Writing | ChildMaker = field(default_factory=Writing)
    executor: Later = field(default_factory=Later)
    told: int = 0

    def __post_init__(self) -> None:
        self.store: Store = a_store(self.folder)
        self.blobs = BlobFolder(self.folder / "blobs")
        self.open()

    def open(self) -> None:
        """Begin as a controller does."""
        self.deltas = Deltas(
            self.store,
            self.blobs,
            self.executor,
            maker=self.maker,
            clock=lambda: 5.0,
            on_made=self._tell,
        )

    def add(self, data: bytes) -> Bundle:
        bundle = a_bundle_of(data)
        for blob in bundle.blobs.values():
            self.blobs.put(blob)
        with self.store.transaction() as tx:
            models.save_bundle(tx, bundle.digest, bundle.envelope)
        return bundle

    def _tell(self) -> None:
        self.told += 1


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def awaited(base: bytes, blob: bytes) -> Delta:
    return Delta(base=digest_of(base), blob=digest_of(blob))


def test_a_delta_is_awaited_until_it_is_made_and_then_named_by_its_index(bench: Bench) -> None:
    base, new = bench.add(BASE), bench.add(BLOB)
    assert bench.deltas.offers([base.digest], new.digest) == (awaited(BASE, BLOB),)
    assert bench.deltas.chunks_of(awaited(BASE, BLOB)) is None
    assert bench.executor.run() == 1
    assert bench.told == 1
    (delta,) = bench.deltas.offers([base.digest], new.digest)
    assert delta.index is not None
    index = codec.decode(DeltaIndex, bench.blobs.get(delta.index))
    assert (index.base, index.blob) == (digest_of(BASE), digest_of(BLOB))
    assert bench.blobs.get(index.delta.digest) == b"d" * 1000


def test_a_real_child_makes_what_a_device_can_rebuild(bench: Bench) -> None:
    bench.maker = ChildMaker()
    bench.open()
    base, new = bench.add(BASE), bench.add(BLOB)
    bench.deltas.offers([base.digest], new.digest)
    bench.executor.run()
    (delta,) = bench.deltas.offers([base.digest], new.digest)
    shelved = bench.deltas.chunks_of(delta)
    assert shelved is not None
    assert delta.index in shelved.chunks
    index = codec.decode(DeltaIndex, shelved.envelope)
    parts = [shelved.chunks[chunk] for chunk in index.delta.chunks]
    data = b"".join(bench.blobs.part(part.blob, part.start, part.end) for part in parts)
    assert len(data) < 0.2 * len(BLOB)
    assert rebuilt(data, BASE, expected(BASE, BLOB)) == BLOB


def test_many_devices_that_ask_for_one_pair_have_it_made_once(bench: Bench) -> None:
    base, new = bench.add(BASE), bench.add(BLOB)
    for _ in range(10):
        bench.deltas.offers([base.digest], new.digest)
    assert bench.executor.run() == 1
    bench.deltas.offers([base.digest], new.digest)
    assert bench.executor.run() == 0


def test_a_made_delta_outlives_the_controller(bench: Bench) -> None:
    base, new = bench.add(BASE), bench.add(BLOB)
    bench.deltas.offers([base.digest], new.digest)
    bench.executor.run()
    made = bench.deltas.offers([base.digest], new.digest)
    bench.open()
    assert bench.deltas.offers([base.digest], new.digest) == made
    assert bench.executor.run() == 0


def test_a_delta_whose_index_the_folder_lost_is_made_again(bench: Bench) -> None:
    base, new = bench.add(BASE), bench.add(BLOB)
    bench.deltas.offers([base.digest], new.digest)
    bench.executor.run()
    (delta,) = bench.deltas.offers([base.digest], new.digest)
    assert delta.index is not None
    bench.blobs.path(delta.index).unlink()
    with pytest.raises(LostBlob):
        bench.deltas.chunks_of(delta)
    bench.open()
    assert bench.deltas.offers([base.digest], new.digest) == (awaited(BASE, BLOB),)


def test_a_delta_that_saves_little_is_never_offered_nor_made_again(bench: Bench) -> None:
    bench.maker = Writing(size_bytes=len(OTHER) - 100)
    bench.open()
    base, new = bench.add(BASE), bench.add(OTHER)
    bench.deltas.offers([base.digest], new.digest)
    bench.executor.run()
    assert bench.deltas.offers([base.digest], new.digest) == ()
    bench.open()
    assert bench.deltas.offers([base.digest], new.digest) == ()
    assert bench.executor.run() == 0


def test_a_delta_that_failed_is_tried_again_after_the_next_start(bench: Bench) -> None:
    bench.maker = Writing(problem="out of memory")
    bench.open()
    base, new = bench.add(BASE), bench.add(BLOB)
    bench.deltas.offers([base.digest], new.digest)
    bench.executor.run()
    assert bench.deltas.offers([base.digest], new.digest) == ()
    assert bench.executor.run() == 0
    assert bench.told == 1
    bench.open()
    assert bench.deltas.offers([base.digest], new.digest) == (awaited(BASE, BLOB),)


def test_the_shortest_of_the_deltas_that_are_made_is_offered(bench: Bench) -> None:
    bases, new = [bench.add(BASE), bench.add(OTHER)], bench.add(BLOB)
    for base, size_bytes in zip(bases, (2000, 1000), strict=True):
        bench.maker = Writing(size_bytes=size_bytes)
        bench.open()
        bench.deltas.offers([base.digest], new.digest)
        bench.executor.run()
    (delta,) = bench.deltas.offers([base.digest for base in bases], new.digest)
    assert delta.base == digest_of(OTHER)


def test_where_the_first_base_is_of_no_use_the_next_is_tried(bench: Bench) -> None:
    bench.maker = Writing(size_bytes=len(BLOB))
    bench.open()
    far, near, new = bench.add(OTHER), bench.add(BASE), bench.add(BLOB)
    bench.deltas.offers([far.digest, near.digest], new.digest)
    bench.executor.run()
    offered = bench.deltas.offers([far.digest, near.digest], new.digest)
    assert offered == (awaited(BASE, BLOB),)


def test_what_needs_no_delta_gets_none(bench: Bench) -> None:
    base, small = bench.add(BASE), bench.add(BLOB[: SMALLEST_BLOB_BYTES - 1])
    assert bench.deltas.offers([base.digest], base.digest) == ()
    assert bench.deltas.offers([base.digest], small.digest) == ()
    assert bench.deltas.offers([], base.digest) == ()
    assert bench.deltas.offers([a_digest("unknown")], base.digest) == ()
    assert bench.deltas.offers([base.digest], a_digest("unknown")) == ()
    assert bench.executor.run() == 0


def test_offers_may_be_asked_for_within_a_transaction(bench: Bench) -> None:
    base, new = bench.add(BASE), bench.add(BLOB)
    with bench.store.transaction():
        assert bench.deltas.offers([base.digest], new.digest) == (awaited(BASE, BLOB),)


def test_a_child_that_dies_says_its_last_line(tmp_path: Path) -> None:
    maker = ChildMaker(command=(sys.executable, "-c", "raise SystemExit('no room')"))
    with pytest.raises(NotMade, match="no room"):
        maker.make(tmp_path / "a", tmp_path / "b", tmp_path / "delta")


def test_a_child_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "import signal; signal.pause()")
    with pytest.raises(NotMade, match="took longer than"):
        ChildMaker(command=command, deadline_s=0.3).make(tmp_path, tmp_path, tmp_path / "delta")


def test_a_stop_ends_the_child_and_lets_no_other_begin(tmp_path: Path) -> None:
    script = f"open({str(tmp_path / 'on')!r}, 'w').close(); import signal; signal.pause()"
    maker = ChildMaker(command=(sys.executable, "-c", script))
    ended: list[str] = []

    def make() -> None:
        with pytest.raises(NotMade) as caught:
            maker.make(tmp_path, tmp_path, tmp_path / "delta")
        ended.append(caught.value.problem)

    thread = threading.Thread(target=make)
    thread.start()
    while not (tmp_path / "on").exists():
        thread.join(0.01)
    maker.stop()
    thread.join(10)
    make()
    assert ended == ["exit status -9", "the controller is stopping"]


def test_a_rotten_base_makes_no_delta(tmp_path: Path) -> None:
    base = as_blob(tmp_path, BASE)
    base.write_bytes(OTHER)
    with pytest.raises(NotMade, match="WrongBytes"):
        ChildMaker().make(base, as_blob(tmp_path, BLOB), tmp_path / "delta")
    assert not (tmp_path / "delta").exists()
