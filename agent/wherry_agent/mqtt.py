"""The one place that knows paho: a connection to the broker that its owner drives.

One thread reads and writes a socket, whoever publishes. It calls the callbacks, and those only put
on the owner's queue. There are no reconnects here: the session decides when to connect again.
Bytes are counted at the socket, by the kernel (`TCP_INFO`), so that they include MQTT's own.
"""

from __future__ import annotations

import logging
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from wherry.errors import Untrusted
from wherry.measures import Traffic
from wherry_agent.settings import Broker
from wherry_agent.tls import Secured

KEEPALIVE_S = 30
CONNECT_TIMEOUT_S = 5.0
LEAVE_TIMEOUT_S = 1.0
LARGEST_PACKET_BYTES = 2 << 20
# struct tcp_info of linux/tcp.h: tcpi_bytes_acked and tcpi_bytes_received, since Linux 4.1.
_TCP_INFO_BYTES = struct.Struct("=120xQQ")

log = logging.getLogger("wherry_agent")


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes, retained, when this connection is gone for `delay_s`."""

    topic: str
    payload: bytes
    delay_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Callbacks:
    """Called on paho's thread; `on_down` once for each `connect`, whatever became of it."""

    on_up: Callable[[], None]
    on_down: Callable[[], None]
    on_message: Callable[[str, bytes], None]
    on_puback: Callable[[int], None]


class Connection:
    """One client id at one broker, with clean start and no session that outlives it.

    `secured` is for a broker with TLS, which makes the client id of the certificate that it sees.
    """

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        callbacks: Callbacks,
        *,
        window: int,
        will: Will | None,
        secured: Secured | None = None,
    ) -> None:
        assert secured is not None or not broker.tls, "a broker with TLS needs what secures it"
        self._broker, self._client_id = broker, client_id
        self._secured = secured if broker.tls else None
        self._callbacks = callbacks
        self._window, self._will = window, will
        self._done = Traffic()
        self._lock = threading.Lock()
        self._client: paho.Client | None = None  # From `connect` until `on_down`.
        self._thread: threading.Thread | None = None  # Of the latest try.

    def connect(self) -> None:
        """Try once, in a thread of its own; `on_up` or `on_down` tells.

        Nothing where a try or a connection is under way.
        """
        if self._client is None:
            # A client of its own for each try: paho keeps what an earlier one left unsent, and
            # would say it after what is said anew.
            self._client = self._new_client()
            self._thread = threading.Thread(
                target=self._live, args=(self._client,), name="mqtt", daemon=True
            )
            self._thread.start()

    def leave(self) -> None:
        """Say the will and close; what a busy broker does not take in time, it says by itself."""
        if (client := self._client) and self._will is not None:
            said = client.publish(self._will.topic, self._will.payload, qos=1, retain=True)
            if not _was_taken(said):
                # MQTT 5, 3.14.2.1: disconnect with will message.
                client.disconnect(ReasonCode(PacketTypes.DISCONNECT, identifier=0x04))
        self.close()

    def close(self) -> None:
        client, thread = self._client, self._thread
        if client is not None and thread is not None:
            client.disconnect()
            self._end(client)
            thread.join(LEAVE_TIMEOUT_S)  # It says goodbye, unless it is still dialling.

    def subscribe(self, topics: Sequence[str]) -> None:
        if topics and (client := self._client):
            client.subscribe([(topic, SubscribeOptions(qos=1)) for topic in topics])

    def unsubscribe(self, topics: Sequence[str]) -> None:
        if topics and (client := self._client):
            client.unsubscribe(list(topics))

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int | None:
        """Hand a message over at QoS 1; return its id, or None where there is no connection."""
        if (client := self._client) is None:
            return None
        handed = client.publish(topic, payload, qos=1, retain=retain)
        return handed.mid if handed.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def traffic(self) -> Traffic:
        """Return the bytes at the sockets of all its connections so far."""
        client = self._client
        return self._done + _traffic_of(client.socket() if client else None)

    def _new_client(self) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=paho.MQTTv5,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(20)
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_message = self._message
        client.on_publish = self._published
        client.on_socket_open = self._opened
        client.on_socket_close = self._closing
        # Without it, paho writes on the thread of whoever publishes, beside its own: packets were
        # mixed up, and TLS takes no two threads at once. Each write wakes its thread anyway.
        client.on_socket_register_write = _leave_to_its_thread
        if self._will is not None:
            properties = Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]
            properties.WillDelayInterval = self._will.delay_s
            client.will_set(
                self._will.topic, self._will.payload, qos=1, retain=True, properties=properties
            )
        return client

    def _live(self, client: paho.Client) -> None:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.ReceiveMaximum = self._window
        properties.MaximumPacketSize = LARGEST_PACKET_BYTES
        try:
            if self._secured is not None:
                client.tls_set_context(self._secured.context())
            client.connect(
                self._broker.host,
                self._broker.port,
                KEEPALIVE_S,
                clean_start=True,
                properties=properties,
            )
            # `loop_forever` would not be woken by what others give it to write.
            while client.loop() == MQTTErrorCode.MQTT_ERR_SUCCESS:
                pass
        except (OSError, Untrusted) as error:
            self._warn(str(error))
        finally:  # Whatever a broker sends, its owner hears of the end and tries again.
            self._end(client)

    def _end(self, client: paho.Client) -> None:
        with self._lock:
            if self._client is not client:
                return
            self._client = None
        self._callbacks.on_down()

    def _warn(self, why: str) -> None:
        fields = {"client": self._client_id, "host": self._broker.host, "port": self._broker.port}
        log.warning("broker.unreachable", extra={**fields, "why": why})

    def _connected(
        self, client: paho.Client, _data: object, _flags: object, code: ReasonCode, _p: object
    ) -> None:
        if code.is_failure:
            self._warn(str(code))
            client.disconnect()
        elif self._client is client:
            self._callbacks.on_up()
        else:
            client.disconnect()

    def _disconnected(
        self, _client: paho.Client, _data: object, _flags: object, code: ReasonCode, _p: object
    ) -> None:
        """Say that a line was cut; with TLS 1.3 a broker refuses a certificate only then."""
        if code.is_failure:
            log.warning("broker.lost", extra={"client": self._client_id, "why": str(code)})

    def _message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        self._callbacks.on_message(message.topic, bytes(message.payload))

    def _published(
        self, _client: paho.Client, _data: object, mid: int, _code: object, _p: object
    ) -> None:
        self._callbacks.on_puback(mid)

    def _opened(self, _client: paho.Client, _data: object, link: object) -> None:
        """Judge the peer before anything is said to it; paho raises on what this raises."""
        if self._secured is None or not isinstance(link, ssl.SSLSocket):
            return
        try:
            self._secured.check(link)
        except Untrusted:
            link.close()
            raise

    def _closing(self, _client: paho.Client, _data: object, link: object) -> None:
        self._done += _traffic_of(link)


def _leave_to_its_thread(_client: paho.Client, _data: object, _link: object) -> None:
    pass


def _was_taken(said: paho.MQTTMessageInfo) -> bool:
    """Wait for the broker's PUBACK, within a bound; say whether it came."""
    if said.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
        return False
    try:
        said.wait_for_publish(LEAVE_TIMEOUT_S)
    except RuntimeError:  # The connection broke meanwhile.
        return False
    return said.is_published()


def _traffic_of(link: object) -> Traffic:
    if not isinstance(link, socket.socket):
        return Traffic()
    try:
        info = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES.size)
        sent, received = _TCP_INFO_BYTES.unpack(info)
    except (OSError, struct.error):
        return Traffic()
    return Traffic(sent_bytes=sent, received_bytes=received)
