"""The simulated network is as bad as it says, and no worse."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from tests.builders import a_device_id, a_digest
from wherry.topics import BlobTopic, DesiredTopic, EventsTopic, Topic
from wherry_sim.network import Broker, Faults, Link
from wherry_sim.timeline import Timeline

EVENTS = EventsTopic(a_device_id())
STORM = Faults(loss=0.5, duplicates=0.5, slowest_s=3.0)


@dataclass
class Client:
    broker: Broker
    came: list[tuple[Topic, bytes]] = field(default_factory=list)
    breaks: int = 0
    link: Link = field(init=False)

    def __post_init__(self) -> None:
        self.link = self.broker.connect(lambda t, p: self.came.append((t, p)), self.lose)

    def lose(self) -> None:
        self.breaks += 1


def a_broker(faults: Faults) -> Broker:
    return Broker(Timeline(), Random(1), faults)


def pass_time(broker: Broker, seconds: float) -> None:
    done: list[bool] = []
    broker.timeline.after(seconds, lambda: done.append(True))
    while not done:
        broker.timeline.advance()


def test_what_is_lost_comes_later_and_in_the_order_of_its_topic() -> None:
    broker = a_broker(Faults(loss=0.5, slowest_s=3.0))
    sender, reader = Client(broker), Client(broker)
    broker.subscribe(reader.link, EVENTS)
    pass_time(broker, 200.0)
    payloads = [bytes([number]) for number in range(50)]
    for payload in payloads:
        broker.publish(sender.link, EVENTS, payload)
    pass_time(broker, 500.0)
    assert [payload for _, payload in reader.came] == payloads
    assert broker.lost > 0


def test_a_duplicate_may_come_late_and_nothing_is_missing() -> None:
    broker = a_broker(STORM)
    sender, reader = Client(broker), Client(broker)
    broker.subscribe_kinds(reader.link, EventsTopic)
    pass_time(broker, 200.0)
    for number in range(50):
        broker.publish(sender.link, EVENTS, bytes([number]))
    pass_time(broker, 500.0)
    assert {payload[0] for _, payload in reader.came} == set(range(50))
    assert len(reader.came) > 50
    assert broker.repeated > 0


def test_a_retained_message_comes_to_whoever_subscribes_after_it() -> None:
    broker = a_broker(Faults())
    sender, reader = Client(broker), Client(broker)
    topic = BlobTopic(a_digest())
    broker.publish_retained(sender.link, topic, b"chunk")
    broker.publish(sender.link, EVENTS, b"event")
    pass_time(broker, 5.0)
    broker.subscribe(reader.link, topic, EVENTS)
    pass_time(broker, 5.0)
    assert reader.came == [(topic, b"chunk")]
    broker.unsubscribe(reader.link, topic)
    pass_time(broker, 5.0)
    broker.publish_retained(sender.link, topic, b"chunk")
    pass_time(broker, 5.0)
    assert reader.came == [(topic, b"chunk")]


def test_a_restart_loses_what_was_retained_and_what_was_under_way() -> None:
    broker = a_broker(Faults())
    sender, reader = Client(broker), Client(broker)
    desired = DesiredTopic(a_device_id())
    broker.subscribe(reader.link, desired)
    broker.publish_retained(sender.link, desired, b"1")
    pass_time(broker, 5.0)
    broker.publish_retained(sender.link, desired, b"2")
    broker.restart()
    pass_time(broker, 60.0)
    assert broker.retained == {}
    assert reader.came == [(desired, b"1")]
    assert (sender.breaks, reader.breaks) == (1, 1)


def test_a_client_that_closes_is_not_told_that_it_lost_its_connection() -> None:
    broker = a_broker(Faults())
    client = Client(broker)
    broker.close(client.link)
    broker.cut(client.link)
    assert client.breaks == 0
