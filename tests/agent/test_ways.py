"""The way of each blob: a delta where that is shorter, and else the blob's own chunks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.stores import chunks_of
from tests.builders import a_bundle_of, a_digest
from wherry import codec
from wherry.blobs import Blob, describe, digest_of
from wherry.bundle import Bundle
from wherry.manifest import MODEL_FILE, blobs_of
from wherry.messages import Delta, DeltaIndex
from wherry.names import Digest
from wherry.reasons import Reason
from wherry_agent.store import Store
from wherry_agent.ways import INDEX_BYTES, PATIENCE_S, DeltaRefused, Plan, Rebuild, Ways

OLD = a_bundle_of(b"".join(n.to_bytes(4, "big") for n in range(2560)))
NEW = a_bundle_of(b"".join(n.to_bytes(4, "big") for n in range(5000, 7560)))
BASE, BLOB = (bundle.manifest.files[MODEL_FILE] for bundle in (OLD, NEW))
DELTA_BYTES = b"what makes one of the other" * 50
DELTA = describe(DELTA_BYTES, 1024)
INDEX_BYTES_OF_IT = codec.encode(DeltaIndex(base=BASE.digest, blob=BLOB.digest, delta=DELTA))
INDEX = digest_of(INDEX_BYTES_OF_IT)
HINT = Delta(blob=BLOB.digest, base=BASE.digest, index=INDEX)
UNMADE = Delta(blob=BLOB.digest, base=BASE.digest)
WHOLE = {chunk: len(data) for chunk, data in chunks_of(NEW).items() if chunk in BLOB.chunks}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    put(store, OLD)
    yield store
    store.close()


def put(store: Store, bundle: Bundle) -> None:
    for chunk, data in chunks_of(bundle).items():
        store.put_chunk(chunk, data)
    store.assemble(bundle.manifest)


def a_way(store: Store, *hints: Delta, can_rebuild: bool = True) -> Ways:
    ways = Ways(store, can_rebuild=can_rebuild)
    ways.offer(hints)
    return ways


def plan(ways: Ways, now_s: float = 0.0) -> Plan:
    return ways.plan(NEW.digest, NEW.manifest, now_s)


def put_index(store: Store, data: bytes = INDEX_BYTES_OF_IT) -> Digest:
    digest = digest_of(data)
    store.put_chunk(digest, data)
    return digest


def put_delta(store: Store) -> None:
    for number, chunk in enumerate(DELTA.chunks):
        store.put_chunk(chunk, DELTA_BYTES[number * 1024 : (number + 1) * 1024])


def test_a_delta_is_fetched_index_first_and_then_rebuilt(store: Store) -> None:
    ways = a_way(store, HINT)
    assert plan(ways) == Plan({INDEX: INDEX_BYTES})
    put_index(store)
    assert set(plan(ways).missing) == set(DELTA.chunks)
    put_delta(store)
    rebuild = Rebuild(NEW.digest, BLOB, store.blobs / BASE.digest, DELTA)
    assert plan(ways) == Plan({}, rebuild)


def test_without_a_hint_numpy_or_the_base_a_blob_is_fetched_whole(store: Store) -> None:
    foreign = Delta(blob=BLOB.digest, base=a_digest("elsewhere"), index=INDEX)
    for ways in (a_way(store), a_way(store, HINT, can_rebuild=False), a_way(store, foreign)):
        assert plan(ways) == Plan(WHOLE)


def test_a_delta_that_is_being_made_is_waited_for_a_minute_at_most(store: Store) -> None:
    ways = a_way(store, UNMADE)
    assert plan(ways, 10.0) == Plan({}, None, 10.0 + PATIENCE_S)
    assert plan(ways, 69.0) == Plan({}, None, 10.0 + PATIENCE_S)
    assert plan(ways, 70.0) == Plan(WHOLE)


def test_a_delta_that_was_made_meanwhile_is_taken(store: Store) -> None:
    ways = a_way(store, UNMADE)
    plan(ways)
    assert ways.offer([HINT])
    assert not ways.offer([HINT])
    assert plan(ways) == Plan({INDEX: INDEX_BYTES})


def test_a_delta_that_failed_is_not_tried_again(store: Store) -> None:
    put_index(store)
    put_delta(store)
    ways = a_way(store, HINT)
    ways.refuse(BLOB.digest, DeltaRefused(Reason.DELTA_CORRUPT, "its third window is torn"))
    assert plan(ways) == Plan(WHOLE)
    assert [why.reason for why in ways.refused] == [Reason.DELTA_CORRUPT]


def test_an_index_that_is_none_or_another_s_is_refused_and_the_blob_fetched_whole(
    store: Store,
) -> None:
    other = codec.encode(DeltaIndex(base=a_digest("else"), blob=BLOB.digest, delta=DELTA))
    cases = ((b"no index", Reason.DELTA_CORRUPT), (other, Reason.DELTA_WRONG_BASE))
    for data, reason in cases:
        ways = a_way(store, Delta(blob=BLOB.digest, base=BASE.digest, index=put_index(store, data)))
        assert plan(ways) == Plan(WHOLE)
        assert [why.reason for why in ways.refused] == [reason]


def test_what_is_left_of_the_blob_is_fetched_where_that_is_shorter(store: Store) -> None:
    put_index(store)
    *most, last = (chunk for chunk in chunks_of(NEW) if chunk in WHOLE)
    for chunk in most:
        store.put_chunk(chunk, chunks_of(NEW)[chunk])
    assert plan(a_way(store, HINT)) == Plan({last: WHOLE[last]})


def test_the_parts_of_a_delta_are_kept_while_its_bundle_is(store: Store) -> None:
    ways = a_way(store, HINT)
    assert ways.parts([NEW.manifest]) == {INDEX}
    put_index(store)
    assert ways.parts([NEW.manifest]) == {INDEX, *DELTA.chunks}
    assert ways.parts([OLD.manifest]) == frozenset()


def test_every_chunk_stands_somewhere_in_a_source(store: Store) -> None:
    ways = a_way(store, HINT)
    put_index(store)
    blob = next(blob for blob in blobs_of(NEW.manifest) if blob == BLOB)
    found = ways.locate(NEW.manifest, blob.chunks[2])
    assert found is not None
    assert (found.blob, found.start, found.size_bytes) == (BLOB.digest, 2048, 1024)
    of_delta = ways.locate(NEW.manifest, DELTA.chunks[-1])
    assert of_delta is not None
    assert (of_delta.blob, of_delta.size_bytes) == (DELTA.digest, last_bytes(DELTA))
    index = ways.locate(NEW.manifest, INDEX)
    assert index is not None and (index.blob, index.size_bytes) == (INDEX, None)
    assert ways.locate(NEW.manifest, a_digest("nothing")) is None


def last_bytes(blob: Blob) -> int:
    return blob.size_bytes - blob.chunk_bytes * (len(blob.chunks) - 1)
