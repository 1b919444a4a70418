"""A broker in memory that does what a real one does to a publisher."""

from __future__ import annotations

from collections.abc import Sequence

from wherry.topics import BundleTopic, DesiredTopic, MetadataTopic, TimestampTopic, parse_topic
from wherry_controller.services.publisher import Publisher


class MemoryBroker:
    """Retains what is published; acknowledges, grants and reads back when it is told to."""

    def __init__(self) -> None:
        self.retained: dict[str, bytes] = {}
        self.sent: list[str] = []
        self.backlog = 0
        self.requests = 0
        self.reading: Sequence[str] = ()

    def publish(self, topic: str, payload: bytes) -> None:
        self.backlog += 1
        self.sent.append(topic)
        if payload:
            self.retained[topic] = payload
        else:
            self.retained.pop(topic, None)

    def subscribe(self, filters: Sequence[str]) -> int | None:
        self.requests += 1
        self.reading = filters
        return self.requests

    def unsubscribe(self, filters: Sequence[str]) -> None:
        self.reading = ()

    def lose(self, *words: str) -> None:
        """Forget every topic that holds one of the words."""
        for topic in [t for t in self.retained if any(word in t for word in words)]:
            del self.retained[topic]

    def answer(self, publisher: Publisher, now: float) -> float:
        """Grant, read back and acknowledge until nothing is left to do; return the time then."""
        if self.reading:
            publisher.on_subscribed(self.requests, now)
            for topic, payload in list(self.retained.items()):
                parsed = parse_topic(topic)
                if isinstance(parsed, DesiredTopic | BundleTopic | TimestampTopic | MetadataTopic):
                    publisher.on_read_back(parsed, payload, now)
            now += 10.0
            publisher.tick(now)
        while self.backlog:
            self.backlog -= 1
            publisher.on_delivered(now)
        return now
