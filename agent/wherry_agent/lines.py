"""The device's two lines to the broker, and what the deciding thread sees of them.

On the control line orders and trust come and everything is told; the fetch line is for bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from wherry import topics
from wherry.measures import Traffic
from wherry.names import DeviceId, parse_role_name
from wherry_agent.core.dates import Dates, Verdict
from wherry_agent.fetch import Fetch
from wherry_agent.mqtt import Callbacks, Connection, Will
from wherry_agent.settings import Settings, fetch_url, parse_broker
from wherry_agent.tls import Secured, context_of

PRESENCE_DELAY_S = 5
CONTROL_WINDOW = 20


@dataclass(frozen=True, slots=True)
class ControlUp:
    pass


@dataclass(frozen=True, slots=True)
class ControlDown:
    pass


@dataclass(frozen=True, slots=True)
class FetchLink:
    online: bool


@dataclass(frozen=True, slots=True)
class BrokerShown:
    """The dates of the certificate that the broker showed, and what they are worth here."""

    dates: Dates
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Message:
    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Puback:
    mid: int


OnLine: TypeAlias = ControlUp | ControlDown | FetchLink | BrokerShown | Message | Puback
Put: TypeAlias = Callable[[OnLine], None]


class Control:
    """The control line of one device; `gone` is what the broker says when it broke."""

    def __init__(self, settings: Settings, put: Put, *, gone: bytes, secured: Secured) -> None:
        self._device: DeviceId = settings.id
        callbacks = Callbacks(
            on_up=lambda: put(ControlUp()),
            on_down=lambda: put(ControlDown()),
            on_message=lambda topic, payload: put(Message(topic, payload)),
            on_puback=lambda mid: put(Puback(mid)),
        )
        presence = topics.text(topics.PresenceTopic(self._device))
        self._connection = Connection(
            parse_broker(settings.broker),
            self._device,
            callbacks,
            window=CONTROL_WINDOW,
            will=Will(presence, gone, PRESENCE_DELAY_S),
            secured=secured,
        )

    def connect(self) -> None:
        self._connection.connect()

    def leave(self) -> None:
        self._connection.leave()

    def traffic(self) -> Traffic:
        return self._connection.traffic()

    def listen(self) -> None:
        """Have the broker send what is for this device, and the fleet's timestamp."""
        device = self._device
        own = (topics.TimestampTopic(), topics.DesiredTopic(device), topics.AcksTopic(device))
        self._connection.subscribe([topics.text(topic) for topic in own])

    def ask(self, pieces: Iterable[str]) -> None:
        """Have the broker send pieces of metadata."""
        self._connection.subscribe([_topic_of(piece) for piece in pieces])

    def drop(self, pieces: Iterable[str]) -> None:
        self._connection.unsubscribe([_topic_of(piece) for piece in pieces])

    def publish(self, topic: topics.Topic, payload: bytes, *, retain: bool = False) -> int | None:
        """Hand a message over; return its id, or None where there is no connection."""
        return self._connection.publish(topics.text(topic), payload, retain=retain)


def fetch_line(settings: Settings, put: Put, secured: Secured) -> Fetch:
    return Fetch(
        parse_broker(fetch_url(settings)),
        f"{settings.id}:fetch",
        on_link=lambda online: put(FetchLink(online)),
        on_message=lambda topic, payload: put(Message(topic, payload)),
        secured=secured,
    )


def securing(home: Path, put: Put, floor: Callable[[], float]) -> Secured:
    """Return how the lines of `home` are secured; `floor` is the latest time that is proved."""
    return Secured(
        context=lambda: context_of(home),
        floor=floor,
        on_peer=lambda dates, verdict: put(BrokerShown(dates, verdict)),
    )


def _topic_of(piece: str) -> str:
    role, version = piece.split("/")
    return topics.text(topics.MetadataTopic(parse_role_name(role), int(version)))
