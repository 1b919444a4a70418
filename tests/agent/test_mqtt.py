"""A connection tells once how each try ended, and brings nothing of an earlier one along."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import MQTTErrorCode

from tests.agent.agents import PATIENCE_S, until
from tests.brokers import Mosquitto, a_mosquitto, free_port
from wherry.measures import Traffic
from wherry_agent.mqtt import Callbacks, Connection, Will
from wherry_agent.settings import Broker

pytestmark = pytest.mark.system


class End:
    """One end of a connection, with what it was told in order."""

    def __init__(self, port: int, name: str, *, will: Will | None = None) -> None:
        self.news: queue.Queue[str] = queue.Queue()
        self.messages: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.pubacks: queue.Queue[int] = queue.Queue()
        callbacks = Callbacks(
            on_up=lambda: self.news.put("up"),
            on_down=lambda: self.news.put("down"),
            on_message=lambda topic, payload: self.messages.put((topic, payload)),
            on_puback=self.pubacks.put,
        )
        self.link = Connection(Broker("127.0.0.1", port), name, callbacks, window=8, will=will)

    def expect(self, news: str) -> None:
        assert self.news.get(timeout=PATIENCE_S) == news

    def come_up(self) -> None:
        self.link.connect()
        self.expect("up")

    def subscribe(self, *topics: str) -> None:
        """Subscribe and wait until the broker knows."""
        self.link.subscribe(topics)
        self.publish("known", b"")

    def message(self) -> tuple[str, bytes]:
        return self.messages.get(timeout=PATIENCE_S)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish and wait until the broker has it."""
        mid = self.link.publish(topic, payload, retain=retain)
        assert self.pubacks.get(timeout=PATIENCE_S) == mid


@contextmanager
def an_end(port: int, name: str, *, will: Will | None = None) -> Iterator[End]:
    end = End(port, name, will=will)
    try:
        yield end
    finally:
        end.link.close()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with a_mosquitto(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


def test_what_one_end_publishes_the_other_hears(broker: Mosquitto) -> None:
    with an_end(broker.port, "one") as one, an_end(broker.port, "other") as other:
        one.come_up()
        other.come_up()
        other.subscribe("talk/a", "talk/b")
        one.publish("talk/a", b"1", retain=True)
        assert other.message() == ("talk/a", b"1")
        other.link.unsubscribe(["talk/a"])
        one.publish("talk/b", b"2")
        assert other.message() == ("talk/b", b"2")
        other.link.subscribe([])
        other.link.unsubscribe([])


def test_threads_that_speak_at_once_mix_nothing_up(broker: Mosquitto) -> None:
    """One publishes while another takes what comes and acknowledges it."""
    with an_end(broker.port, "here") as here, an_end(broker.port, "there") as there:
        for end, topic in ((here, "to/here"), (there, "to/there")):
            end.come_up()
            end.subscribe(topic)
        for end, topic in ((here, "to/there"), (there, "to/here")):
            threading.Thread(target=say_all, args=(end, topic)).start()
        for end in (here, there):
            assert [end.message()[1][:1] for _ in range(256)] == [bytes([n]) for n in range(256)]
            assert end.news.empty()


def say_all(end: End, topic: str) -> None:
    for number in range(256):
        end.link.publish(topic, bytes([number]) + bytes(20_000))


def test_only_the_connections_own_thread_writes(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS takes no two threads at once; beside its own, paho writes on any that publishes."""
    wrote: set[str] = set()

    def traced(client: Client) -> MQTTErrorCode:
        wrote.add(threading.current_thread().name)
        return loop_write(client)

    loop_write = Client.loop_write
    monkeypatch.setattr(Client, "loop_write", traced)
    with an_end(broker.port, "own") as end:
        end.come_up()
        end.subscribe("own")
        end.publish("own", b"1")
        assert end.message() == ("own", b"1")
        end.link.leave()
    assert wrote == {"mqtt"}


def test_an_end_is_told_once_and_at_once_when_it_closes(broker: Mosquitto) -> None:
    with an_end(broker.port, "closing") as end:
        end.come_up()
        end.link.close()
        assert end.news.get_nowait() == "down"
        end.link.close()
        end.come_up()
        assert end.news.empty()


def test_a_second_connect_changes_nothing_while_one_is_under_way(broker: Mosquitto) -> None:
    with an_end(broker.port, "twice") as end:
        end.link.connect()
        end.link.connect()
        end.expect("up")
        end.link.connect()
        end.publish("twice", b"")
        assert end.news.empty()


def test_a_broker_that_is_not_there_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with an_end(free_port(), "nobody") as end:
        end.link.connect()
        end.expect("down")
        assert end.link.publish("any", b"") is None
        assert end.link.traffic() == Traffic()
        assert [record.message for record in caplog.records] == ["broker.unreachable"]


@contextmanager
def a_stranger(*answers: bytes) -> Iterator[int]:
    """Listen on a port, answer each connection with some bytes, and close it; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(answer)

        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(PATIENCE_S)


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes.fromhex("2003008700"), b"\x20\x00"],
    ids=["nothing", "http", "not authorized", "an empty connack"],
)
def test_what_answers_and_is_no_broker_for_us_ends_the_try(answer: bytes) -> None:
    with a_stranger(answer) as port, an_end(port, "lost") as end:
        end.link.connect()
        end.expect("down")
        assert end.news.empty()


def test_what_was_left_unsent_is_not_said_at_the_next_connect(tmp_path: Path) -> None:
    with a_mosquitto(tmp_path) as broker, an_end(broker.port, "fresh") as end:
        end.come_up()
        broker.kill()
        end.link.publish("state", b"old", retain=True)
        end.expect("down")
        end.link.publish("state", b"older", retain=True)
        broker.start()
        with an_end(broker.port, "listener") as listener:
            listener.come_up()
            listener.link.subscribe(["state"])
            end.come_up()
            end.publish("state", b"new", retain=True)
            assert listener.message() == ("state", b"new")
            end.publish("state", b"newer", retain=True)
            assert listener.message() == ("state", b"newer")


def test_a_connection_that_is_cut_leaves_its_will(broker: Mosquitto) -> None:
    will = Will("gone", b"so long", delay_s=0)
    with an_end(broker.port, "heir") as heir, an_end(broker.port, "mortal", will=will) as mortal:
        heir.come_up()
        heir.subscribe("gone")
        mortal.come_up()
        with an_end(broker.port, "mortal") as usurper:  # Two live devices with one identity.
            usurper.come_up()
            mortal.expect("down")
            assert heir.message() == ("gone", b"so long")


def test_whoever_leaves_says_so_behind_all_that_it_said(broker: Mosquitto) -> None:
    will = Will("left", b"bye", delay_s=5)
    with an_end(broker.port, "heir") as heir, an_end(broker.port, "talker", will=will) as talker:
        heir.come_up()
        heir.subscribe("left", "talk")
        talker.come_up()
        for number in range(100):  # More than paho lets be in flight.
            talker.link.publish("talk", b"%d" % number)
        talker.link.leave()
        heard = [heir.message() for _ in range(101)]
        assert heard[-1] == ("left", b"bye")
        assert len(set(heard)) == 101


def test_a_broker_that_takes_nothing_more_is_left_its_word_to_say(tmp_path: Path) -> None:
    will = Will("left", b"bye", delay_s=0)
    with a_mosquitto(tmp_path) as broker, an_end(broker.port, "talker", will=will) as talker:
        talker.come_up()
        broker.pause()
        for _ in range(30):  # Its last word stays behind what is in flight.
            talker.link.publish("talk", b"")
        talker.link.leave()
        talker.expect("down")
        broker.resume()
        with an_end(broker.port, "late") as late:
            late.come_up()
            late.link.subscribe(["left"])
            assert late.message() == ("left", b"bye")


def both(traffic: Traffic) -> tuple[int, int]:
    return traffic.sent_bytes, traffic.received_bytes


def test_bytes_are_counted_over_all_connections(broker: Mosquitto) -> None:
    with an_end(broker.port, "counted") as end:
        end.come_up()
        end.link.subscribe(["loud"])
        end.publish("loud", bytes(10_000))
        end.message()
        until(lambda: min(both(end.link.traffic())) > 10_000)
        end.link.close()
        end.expect("down")
        before = end.link.traffic()
        assert 10_000 < min(both(before)) <= max(both(before)) < 11_000
        end.come_up()
        until(lambda: end.link.traffic().sent_bytes > before.sent_bytes)
        until(lambda: end.link.traffic().received_bytes > before.received_bytes)
