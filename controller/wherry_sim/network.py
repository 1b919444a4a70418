"""A broker in memory behind a bad network: retained topics, losses, duplicates and delays.

What a QoS 1 publisher or broker does not see acknowledged it sends again, so a loss is a late
delivery while the connection lives, and the end of the message when it breaks. Messages of one
topic keep their order on one connection, duplicates and messages of other topics do not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from wherry.topics import Topic
from wherry_sim.timeline import Action, Timeline

FASTEST_S = 0.01
RESEND_S = 5.0
SUBSCRIPTIONS = "subscriptions"  # They keep their order among themselves, and come once.


@dataclass(frozen=True, slots=True)
class Faults:
    """Shares from 0 to 1 of the messages that are lost or come twice on one leg of the way."""

    loss: float = 0.0
    duplicates: float = 0.0
    slowest_s: float = 0.5


@dataclass(slots=True, eq=False)
class Link:
    """One client's connection; `kinds` are the kinds of topics that it has subscribed whole."""

    deliver: Callable[[Topic, bytes], None]
    lost: Action
    is_up: bool = True
    topics: set[Topic] = field(default_factory=set)
    kinds: tuple[type[Topic], ...] = ()
    _last_s: dict[Topic | str, float] = field(default_factory=dict)

    def not_before(self, lane: Topic | str, at_s: float) -> float:
        """Return the time of arrival that keeps the order of one topic or of subscriptions."""
        self._last_s[lane] = max(at_s, self._last_s.get(lane, 0.0))
        return self._last_s[lane]


@dataclass(slots=True)
class Broker:
    timeline: Timeline
    chance: Random
    faults: Faults = Faults()
    retained: dict[Topic, bytes] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    lost: int = 0
    repeated: int = 0

    def connect(self, deliver: Callable[[Topic, bytes], None], lost: Action) -> Link:
        """Return a connection; `lost` is called when it breaks and not when it is closed."""
        link = Link(deliver, lost)
        self.links.append(link)
        return link

    def close(self, link: Link) -> None:
        if link.is_up:
            link.is_up = False
            self.links.remove(link)

    def cut(self, link: Link) -> None:
        """Break a connection from the outside."""
        if link.is_up:
            self.close(link)
            link.lost()

    def restart(self) -> None:
        """Come up anew with nothing: no retained message, no connection."""
        self.retained.clear()
        for link in tuple(self.links):
            self.cut(link)

    def subscribe(self, link: Link, *topics: Topic) -> None:
        """Subscribe; only a new subscription brings what is retained, as on iotcore."""

        def take() -> None:
            for topic in topics:
                if topic in self.retained and topic not in link.topics:
                    self._send(link, topic, self.retained[topic])
            link.topics.update(topics)

        self._carry(link, SUBSCRIPTIONS, take)

    def subscribe_kinds(self, link: Link, *kinds: type[Topic]) -> None:
        def take() -> None:
            link.kinds = kinds
            for topic, payload in self.retained.items():
                if type(topic) in kinds:
                    self._send(link, topic, payload)

        self._carry(link, SUBSCRIPTIONS, take)

    def unsubscribe(self, link: Link, *topics: Topic) -> None:
        self._carry(link, SUBSCRIPTIONS, lambda: link.topics.difference_update(topics))

    def publish(self, link: Link, topic: Topic, payload: bytes) -> None:
        self._carry(link, topic, lambda: self._spread(topic, payload))

    def publish_retained(self, link: Link, topic: Topic, payload: bytes) -> None:
        def take() -> None:
            self.retained[topic] = payload
            self._spread(topic, payload)

        self._carry(link, topic, take)

    def _spread(self, topic: Topic, payload: bytes) -> None:
        for link in tuple(self.links):
            if topic in link.topics or type(topic) in link.kinds:
                self._send(link, topic, payload)

    def _send(self, link: Link, topic: Topic, payload: bytes) -> None:
        self._carry(link, topic, lambda: link.deliver(topic, payload))

    def _carry(self, link: Link, lane: Topic | str, arrive: Action) -> None:
        def arrive_if_up() -> None:
            if link.is_up:
                arrive()

        wait = self._delay_s()
        while self.chance.random() < self.faults.loss:
            self.lost += 1
            wait += RESEND_S
        at_s = link.not_before(lane, self.timeline.now_s + wait)
        self.timeline.after(at_s - self.timeline.now_s, arrive_if_up)
        if lane != SUBSCRIPTIONS and self.chance.random() < self.faults.duplicates:
            self.repeated += 1
            self.timeline.after(at_s - self.timeline.now_s + self._delay_s(), arrive_if_up)

    def _delay_s(self) -> float:
        return self.chance.uniform(FASTEST_S, self.faults.slowest_s)
