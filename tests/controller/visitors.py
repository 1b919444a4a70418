"""Whoever dials a broker with a certificate, and hears each of its answers as MQTT spells it."""

from __future__ import annotations

import queue
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

PATIENCE_S = 20.0


class Visitor:
    """One connection; each method returns what the broker said to it."""

    def __init__(
        self, port: int, context: ssl.SSLContext, *, name: str = "any", will: str | None = None
    ) -> None:
        self._said: queue.Queue[str] = queue.Queue()
        self._heard: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._port = port
        self._client = client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=name,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
        )
        client.tls_set_context(context)
        if will is not None:
            client.will_set(will, b"a will", qos=1, retain=True)
        client.on_connect = lambda _c, _d, _f, code, _p: self._said.put(f"connect: {code}")
        client.on_disconnect = lambda _c, _d, _f, code, _p: self._said.put(f"end: {code}")
        client.on_publish = lambda _c, _d, _m, code, _p: self._said.put(f"publish: {code}")
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message

    def connect(self) -> str:
        """Dial; return `connect: Success`, or how it ended."""
        try:
            self._client.connect("127.0.0.1", self._port)
        except OSError as error:
            return f"end: {error}"
        self._client.loop_start()
        return self.next()

    def next(self) -> str:
        return self._said.get(timeout=PATIENCE_S)

    def subscribe(self, topic: str) -> str:
        self._client.subscribe([(topic, SubscribeOptions(qos=1))])
        return self.next()

    def publish(self, topic: str, payload: bytes = b"x", *, retain: bool = False) -> str:
        self._client.publish(topic, payload, qos=1, retain=retain)
        return self.next()

    def hear(self) -> tuple[str, bytes]:
        return self._heard.get(timeout=PATIENCE_S)

    def hears_nothing(self) -> bool:
        """Say whether nothing came before the broker's next answer."""
        self.subscribe("nothing/of/anybody")
        return self._heard.empty()

    def vanish(self) -> None:
        """Break the connection without a word, so that the broker says the will."""
        link = self._client.socket()
        assert isinstance(link, ssl.SSLSocket)
        link.shutdown(2)

    def leave(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_subscribe(
        self, _: Client, __: object, ___: int, codes: list[ReasonCode], ____: object
    ) -> None:
        self._said.put(f"subscribe: {codes[0]}")

    def _on_message(self, _: Client, __: object, message: MQTTMessage) -> None:
        self._heard.put((message.topic, bytes(message.payload)))


@contextmanager
def a_visitor(
    port: int, context: ssl.SSLContext, *, name: str = "any", will: str | None = None
) -> Iterator[Visitor]:
    """Yield someone who has connected."""
    visitor = Visitor(port, context, name=name, will=will)
    assert visitor.connect() == "connect: Success"
    try:
        yield visitor
    finally:
        visitor.leave()
