"""What comes from the broker is believed only as far as it is asked for, signed and whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.machines import some_facts
from tests.agent.stores import a_full_disk, chunks_of
from tests.builders import a_bundle_of, a_device_id, a_profile, a_store_id, an_ack
from wherry import codec
from wherry.bundle import Bundle
from wherry.names import DeviceId, RoleName
from wherry.reasons import Reason
from wherry.topics import (
    AcksTopic,
    BlobTopic,
    BundleTopic,
    DesiredTopic,
    MetadataTopic,
    PresenceTopic,
    TimestampTopic,
    Topic,
    text,
)
from wherry_agent.core import acceptance, download, session
from wherry_agent.core import agent as machine
from wherry_agent.core.suitability import Machine
from wherry_agent.inbox import Inbox, News, Refused
from wherry_agent.shelf import Shelf
from wherry_agent.store import Store

ME: DeviceId = a_device_id("pi-1")
PROFILE = a_profile()
BUNDLE = a_bundle_of(b"model" * 1000, profile=PROFILE)
CHUNKS = chunks_of(BUNDLE)
CHUNK, DATA = next((c, d) for c, d in CHUNKS.items() if len(d) == 1024)
RUNTIMES = {PROFILE.runtime.value: PROFILE.runtime_floor}
THIS = Machine(profile=PROFILE.name, facts=some_facts(PROFILE), runtimes=RUNTIMES)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.close()


@pytest.fixture
def inbox(store: Store) -> Inbox:
    return Inbox(store, Shelf(store, THIS))


def read(
    inbox: Inbox, topic: Topic, payload: bytes, *, fetching: Bundle | None = None
) -> list[News]:
    """Return what a message says to a device that fetches a bundle or none."""
    missing = {chunk: len(data) for chunk, data in CHUNKS.items()}
    current = download.Download(bundle=fetching.digest, missing=missing) if fetching else None
    return list(inbox.read(text(topic), payload, current))


@pytest.mark.parametrize(
    ("topic", "news"),
    [
        (DesiredTopic(ME), acceptance.DesiredCame(b"bytes")),
        (TimestampTopic(), acceptance.TimestampCame(b"bytes")),
        (MetadataTopic(RoleName("snapshot"), 12), acceptance.PieceCame("snapshot/12", b"bytes")),
        (MetadataTopic(RoleName("bins-0f"), 3), acceptance.PieceCame("bins-0f/3", b"bytes")),
    ],
)
def test_orders_and_metadata_are_handed_on_as_they_came(
    inbox: Inbox, topic: Topic, news: News
) -> None:
    assert read(inbox, topic, b"bytes") == [news]


def test_an_ack_counts_for_this_store_only(inbox: Inbox, store: Store) -> None:
    ours = codec.encode(an_ack(5, store_id=store.store_id))
    (news,) = read(inbox, AcksTopic(ME), ours)
    assert isinstance(news, session.Acked)
    assert news.seq == 5
    theirs = codec.encode(an_ack(5, store_id=a_store_id(9)))
    assert read(inbox, AcksTopic(ME), theirs) == []
    assert read(inbox, AcksTopic(ME), b"no ack") == []


def test_a_manifest_and_a_chunk_are_taken_when_they_are_asked_for(
    inbox: Inbox, store: Store
) -> None:
    (accepted,) = read(inbox, BundleTopic(BUNDLE.digest), BUNDLE.envelope, fetching=BUNDLE)
    assert isinstance(accepted, machine.ManifestAccepted)
    (came,) = read(inbox, BlobTopic(CHUNK), DATA, fetching=BUNDLE)
    assert isinstance(came, download.ChunkCame)
    assert CHUNK not in store.missing_chunks(BUNDLE.manifest)


@pytest.mark.parametrize("fetching", [None, a_bundle_of(b"other", profile=PROFILE)])
def test_a_manifest_that_nobody_asked_for_is_left(
    inbox: Inbox, store: Store, fetching: Bundle | None
) -> None:
    topic = BundleTopic(BUNDLE.digest)
    assert read(inbox, topic, BUNDLE.envelope, fetching=fetching) == []
    assert store.manifest_envelope(BUNDLE.digest) is None


def test_a_chunk_that_nobody_asked_for_is_left(inbox: Inbox, store: Store) -> None:
    assert read(inbox, BlobTopic(CHUNK), DATA) == []
    assert CHUNK in store.missing_chunks(BUNDLE.manifest)


def test_an_altered_chunk_is_refused_and_wanted_anew(inbox: Inbox) -> None:
    refused, spoiled = read(inbox, BlobTopic(CHUNK), b"altered", fetching=BUNDLE)
    assert isinstance(refused, Refused)
    assert refused.reason is Reason.WRONG_BYTES
    assert isinstance(spoiled, download.ChunkSpoiled)
    assert spoiled.chunk == CHUNK


def test_a_chunk_that_finds_no_room_ends_the_download_with_its_reason(inbox: Inbox) -> None:
    with a_full_disk():
        (refused,) = read(inbox, BlobTopic(CHUNK), DATA, fetching=BUNDLE)
    assert isinstance(refused, machine.BundleRefused)
    assert (refused.bundle, refused.reason) == (BUNDLE.digest, Reason.DISK_FULL)


@pytest.mark.parametrize(
    "topic",
    [
        DesiredTopic(ME),
        TimestampTopic(),
        MetadataTopic(RoleName("root"), 2),
        AcksTopic(ME),
        BundleTopic(BUNDLE.digest),
        BlobTopic(CHUNK),
    ],
)
def test_a_topic_that_was_cleared_says_nothing(inbox: Inbox, topic: Topic) -> None:
    assert read(inbox, topic, b"", fetching=BUNDLE) == []


def test_what_a_device_never_listens_to_says_nothing(inbox: Inbox) -> None:
    assert read(inbox, PresenceTopic(ME), b"{}") == []
    for topic in ("", "wherry/v1/none", "wherry/v1/blobs/short", "other/topic"):
        assert list(inbox.read(topic, b"bytes", None)) == []
