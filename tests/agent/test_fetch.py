"""The second connection asks for exactly what the download machine says."""

from __future__ import annotations

import queue
from pathlib import Path

import pytest

from tests.agent.agents import PATIENCE_S, a_controller
from tests.brokers import a_mosquitto
from tests.builders import a_digest
from wherry.topics import BlobTopic, BundleTopic, text
from wherry_agent.core import download
from wherry_agent.fetch import Fetch
from wherry_agent.settings import Broker

pytestmark = pytest.mark.system


def test_asking_is_subscribing_and_dropping_ends_it(tmp_path: Path) -> None:
    links: queue.Queue[bool] = queue.Queue()
    messages: queue.Queue[tuple[str, bytes]] = queue.Queue()
    bundle, one, two = a_digest("bundle"), a_digest("one"), a_digest("two")

    def next_message() -> tuple[str, bytes]:
        return messages.get(timeout=PATIENCE_S)

    with a_mosquitto(tmp_path) as broker, a_controller(broker.port) as controller:
        fetch = Fetch(
            Broker("127.0.0.1", broker.port),
            "device:fetch",
            on_link=links.put,
            on_message=lambda topic, payload: messages.put((topic, payload)),
        )
        fetch.open()
        assert links.get(timeout=PATIENCE_S)
        for topic in (BundleTopic(bundle), BlobTopic(one), BlobTopic(two)):
            controller.publish(topic, b"first")
        fetch.perform(download.AskManifest(bundle))
        assert next_message() == (text(BundleTopic(bundle)), b"first")
        fetch.perform(download.DropManifest(bundle))
        fetch.perform(download.AskChunks((one,)))
        assert next_message() == (text(BlobTopic(one)), b"first")
        fetch.perform(download.DropChunks((one,)))
        fetch.perform(download.AskChunks((two,)))
        assert next_message() == (text(BlobTopic(two)), b"first")
        for topic in (BundleTopic(bundle), BlobTopic(one), BlobTopic(two)):
            controller.publish(topic, b"again")
        assert next_message() == (text(BlobTopic(two)), b"again")
        assert fetch.traffic().sent_bytes > 0
        assert fetch.traffic().received_bytes > 0
        fetch.close()
        assert not links.get(timeout=PATIENCE_S)
        assert messages.empty()
