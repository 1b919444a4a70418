"""The controller's connection to the broker: paho with MQTT 5, reconnecting for ever.

Each connection is a fresh client, so nothing of a broken one is sent by itself: the broker is a
cache, and whoever publishes repairs it after every `Connected`. Publications are retained, at
QoS 1, and dropped while there is no connection. The callbacks of paho's thread only put what
came on the inbox. Bytes are counted by the kernel, at the socket.
"""

from __future__ import annotations

import random
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

LARGEST_PACKET_BYTES = 2 << 20
FIRST_BACKOFF_S = 0.5
CONNECT_S = 10.0
# struct tcp_info of Linux since 4.2: u64 tcpi_bytes_acked at 120, u64 tcpi_bytes_received at 128.
_TCP_INFO_BYTES = 136
_TCP_INFO_COUNTERS = 120


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker took the connection; what it retains is not known yet."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    reason: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message; `retained` if the broker kept it from earlier."""

    topic: str
    payload: bytes
    retained: bool


@dataclass(frozen=True, slots=True)
class Delivered:
    """The broker has one publication more."""


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The broker granted what `Link.subscribe` asked under this number."""

    request: int


Inbound: TypeAlias = Connected | Disconnected | Arrived | Delivered | Subscribed


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of TCP payload that the broker acknowledged and that came from it."""

    sent_bytes: int = 0
    received_bytes: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.sent_bytes + other.sent_bytes, self.received_bytes + other.received_bytes
        )


class Link:
    """Keeps one connection to the broker; `inbox` is called on paho's thread.

    `secured` is asked for each connection to a broker with TLS, so that a certificate that was
    renewed is shown from the next one on.
    """

    def __init__(
        self,
        address: tuple[str, int],
        inbox: Callable[[Inbound], None],
        *,
        client_id: str,
        subscriptions: tuple[str, ...],
        inflight: int,
        keepalive_s: int,
        longest_backoff_s: float,
        secured: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        self._address = address
        self._secured = secured
        self._inbox = inbox
        self._client_id = client_id
        self._subscriptions = subscriptions
        self._inflight = inflight
        self._keepalive_s = keepalive_s
        self._longest_backoff_s = longest_backoff_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep_connected, name="mqtt", daemon=True)
        self._client: Client | None = None
        self._published = self._delivered = 0  # Each is written by one thread only.
        self._closed = Traffic()

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the connection, and wait until nothing of it runs."""
        self._stopping.set()
        client = self._client
        if client is not None:
            client.disconnect()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def backlog(self) -> int:
        """How many publications the broker has not acknowledged."""
        return self._published - self._delivered

    def publish(self, topic: str, payload: bytes) -> None:
        """Have the broker retain `payload` under `topic`; empty bytes clear it."""
        client = self._client
        if client is not None:
            self._published += 1
            client.publish(topic, payload, qos=1, retain=True)

    def request(self, topic: str, payload: bytes) -> None:
        """Ask the broker itself for something: it retains nothing of it, and answers elsewhere."""
        client = self._client
        if client is not None:
            self._published += 1
            client.publish(topic, payload, qos=1)

    def subscribe(self, filters: Sequence[str]) -> int | None:
        """Ask for topics until the connection ends or `unsubscribe`; return the request's number.

        None where there is no connection to ask on.
        """
        client = self._client
        return None if client is None else _subscribe(client, filters)

    def unsubscribe(self, filters: Sequence[str]) -> None:
        client = self._client
        if client is not None:
            client.unsubscribe(list(filters))

    def traffic(self) -> Traffic:
        """Return the bytes of all connections so far, that of now included."""
        client = self._client
        return self._closed + (Traffic() if client is None else counted(client.socket()))

    def _keep_connected(self) -> None:
        attempt = 0
        while not self._stopping.is_set():
            attempt = 0 if self._connect_once() else attempt + 1
            bound = min(self._longest_backoff_s, FIRST_BACKOFF_S * 2 ** min(attempt, 16))
            # Full jitter: a fleet or a pair of controllers does not come back in step.
            self._stopping.wait(random.uniform(0, bound))

    def _connect_once(self) -> bool:
        """Hold one connection until it breaks; say whether the broker had taken it."""
        ended = threading.Event()
        was_taken = threading.Event()
        client = self._new_client(was_taken, ended)
        try:
            if self._secured is not None:
                client.tls_set_context(self._secured())
            client.connect(*self._address, keepalive=self._keepalive_s, properties=_properties())
        except OSError as error:
            self._inbox(Disconnected(str(error)))
            return False
        client.loop_start()
        while not ended.wait(CONNECT_S) and was_taken.is_set():
            pass
        self._client = None
        client.disconnect()
        client.loop_stop()
        return was_taken.is_set()

    def _new_client(self, was_taken: threading.Event, ended: threading.Event) -> Client:
        def on_connect(
            client: Client, _: object, __: ConnectFlags, code: ReasonCode, ___: Properties | None
        ) -> None:
            if code.is_failure:
                self._inbox(Disconnected(str(code)))
                return
            self._published = self._delivered = 0
            if self._subscriptions:
                _subscribe(client, self._subscriptions)
            self._client = client
            was_taken.set()
            self._inbox(Connected())
            if self._stopping.is_set():
                client.disconnect()

        def on_disconnect(
            _: Client, __: object, ___: DisconnectFlags, code: ReasonCode, ____: Properties | None
        ) -> None:
            if self._client is not None and not self._stopping.is_set():
                self._inbox(Disconnected(str(code)))
            self._client = None
            ended.set()

        def on_publish(
            _: Client, __: object, ___: int, ____: ReasonCode, _____: Properties
        ) -> None:
            self._delivered += 1
            self._inbox(Delivered())

        def on_subscribe(
            _: Client, __: object, request: int, ___: list[ReasonCode], ____: Properties | None
        ) -> None:
            self._inbox(Subscribed(request))

        def on_message(_: Client, __: object, message: MQTTMessage) -> None:
            self._inbox(Arrived(message.topic, bytes(message.payload), message.retain))

        def on_socket_close(_: Client, __: object, closed: object) -> None:
            self._closed += counted(closed)

        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
        )
        client.max_inflight_messages_set(self._inflight)
        client.connect_timeout = CONNECT_S
        client.on_connect = on_connect
        client.on_disconnect = on_disconnect
        client.on_publish = on_publish
        client.on_message = on_message
        client.on_subscribe = on_subscribe
        client.on_socket_close = on_socket_close
        return client


def context_of(authority: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """Return what the controller dials its broker with; raise `OSError` for files that are none.

    Dates are checked: a controller has a clock.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(authority)
    context.load_cert_chain(certificate, key)
    return context


def counted(connection: object) -> Traffic:
    """Return what the kernel counted on a TCP socket; nothing where it is closed or not Linux."""
    if not isinstance(connection, socket.socket) or not sys.platform.startswith("linux"):
        return Traffic()
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except OSError:
        return Traffic()
    if len(info) < _TCP_INFO_BYTES:
        return Traffic()
    sent, received = struct.unpack_from("=QQ", info, _TCP_INFO_COUNTERS)
    # The kernel counts the SYN as one byte that was acknowledged.
    return Traffic(max(sent - 1, 0), received)


def _subscribe(client: Client, filters: Sequence[str]) -> int | None:
    _, request = client.subscribe([(one, SubscribeOptions(qos=1)) for one in filters])
    return request


def _properties() -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.MaximumPacketSize = LARGEST_PACKET_BYTES
    return properties
