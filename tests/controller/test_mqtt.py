"""The connection to the broker, with real brokers."""

from __future__ import annotations

import queue
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.brokers import a_mosquitto
from tests.controller.brokers import an_embedded_broker
from wherry_controller.mqtt import Arrived, Connected, Delivered, Disconnected, Inbound, Link

PATIENCE_S = 20.0


class Inbox:
    """Keeps what came, and waits for what shall come."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[Inbound] = queue.SimpleQueue()

    def wait_for(self, kind: type[Inbound]) -> Inbound:
        while True:
            one = self.queue.get(timeout=PATIENCE_S)
            if isinstance(one, kind):
                return one

    def message(self, topic: str) -> Arrived:
        while True:
            one = self.queue.get(timeout=PATIENCE_S)
            if isinstance(one, Arrived) and one.topic == topic:
                return one

    def messages(self, topics: Iterable[str]) -> dict[str, bytes]:
        """Wait for one message that is not empty under each topic."""
        missing, came = set(topics), dict[str, bytes]()
        while missing:
            one = self.queue.get(timeout=PATIENCE_S)
            if isinstance(one, Arrived) and one.payload and one.topic in missing:
                came[one.topic] = one.payload
                missing.discard(one.topic)
        return came


@contextmanager
def a_link(
    port: int, *subscriptions: str, client_id: str = "controller"
) -> Iterator[tuple[Link, Inbox]]:
    inbox = Inbox()
    link = Link(
        ("127.0.0.1", port),
        inbox.queue.put,
        client_id=client_id,
        subscriptions=subscriptions,
        inflight=16,
        keepalive_s=30,
        longest_backoff_s=0.2,
    )
    link.start()
    try:
        yield link, inbox
    finally:
        link.close()


@pytest.mark.system
def test_what_is_published_is_retained_for_those_who_come_later(tmp_path: Path) -> None:
    with a_mosquitto(tmp_path) as broker, a_link(broker.port) as (link, inbox):
        inbox.wait_for(Connected)
        link.publish("a/b", b"hello")
        inbox.wait_for(Delivered)
        assert link.backlog == 0
        with a_link(broker.port, "a/+", client_id="later") as (_, late):
            assert late.message("a/b") == Arrived("a/b", b"hello", retained=True)


@pytest.mark.system
def test_the_embedded_broker_retains_what_is_published_and_logs_elsewhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with an_embedded_broker(tmp_path) as port, a_link(port) as (link, inbox):
        inbox.wait_for(Connected)
        chunk = bytes(256 * 1024)
        link.publish("a/b", chunk)
        inbox.wait_for(Delivered)
        with a_link(port, "a/+", client_id="later") as (_, late):
            assert late.message("a/b").payload == chunk
    assert capfd.readouterr().out == ""


@pytest.mark.system
def test_a_link_comes_back_and_subscribes_again_after_its_broker_was_killed(
    tmp_path: Path,
) -> None:
    with a_mosquitto(tmp_path) as broker, a_link(broker.port, "a/+") as (link, inbox):
        inbox.wait_for(Connected)
        broker.kill()
        inbox.wait_for(Disconnected)
        link.publish("a/b", b"lost, for the broker is a cache")
        broker.start()
        inbox.wait_for(Connected)
        link.publish("a/b", b"kept")
        assert inbox.message("a/b").payload == b"kept"


@pytest.mark.system
def test_the_bytes_that_are_counted_are_those_that_the_broker_counts(tmp_path: Path) -> None:
    received, sent = "$SYS/broker/bytes/received", "$SYS/broker/bytes/sent"
    with a_mosquitto(tmp_path) as broker:
        with a_link(broker.port) as (link, inbox):
            inbox.wait_for(Connected)
            for number in range(40):
                link.publish(f"a/{number}", bytes(100_000))
            for _ in range(40):
                inbox.wait_for(Delivered)
        traffic = link.traffic()
        assert 4_000_000 < traffic.sent_bytes < 4_010_000
        with a_link(broker.port, received, sent, client_id="observer") as (_, inbox):
            # The observer's own connection and the port's probe are in the broker's count.
            said: dict[str, int] = {}
            while said.get(received, 0) < traffic.sent_bytes or sent not in said:
                arrived = inbox.wait_for(Arrived)
                assert isinstance(arrived, Arrived)
                said[arrived.topic] = int(arrived.payload)
    assert abs(said[received] - traffic.sent_bytes) < 200
    assert abs(said[sent] - traffic.received_bytes) < 400
