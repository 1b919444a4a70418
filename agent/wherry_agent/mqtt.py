"""The one place that knows paho: a connection to the broker that its owner drives.

paho's thread only calls the callbacks, and those only put on the owner's queue. There are no
reconnects here: the session decides when to connect again. Bytes are counted at the socket, by
the kernel (`TCP_INFO`), so that they include MQTT's own.
"""

from __future__ import annotations

import socket
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

from wherry_agent.settings import Broker

KEEPALIVE_S = 30
CONNECT_TIMEOUT_S = 5.0
LARGEST_PACKET_BYTES = 2 << 20
# struct tcp_info of linux/tcp.h: tcpi_bytes_acked and tcpi_bytes_received, since Linux 4.1.
_TCP_INFO_BYTES = struct.Struct("=120xQQ")


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
    """One client id at one broker, with clean start and no session that outlives it."""

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        callbacks: Callbacks,
        *,
        window: int,
        will: Will | None,
    ) -> None:
        self._broker = broker
        self._callbacks = callbacks
        self._window = window
        self._done = (0, 0)
        self._client = client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=paho.MQTTv5,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(20)
        client.on_connect = self._connected
        client.on_message = self._message
        client.on_publish = self._published
        client.on_socket_close = self._closing
        if will is not None:
            properties = Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]
            properties.WillDelayInterval = will.delay_s
            client.will_set(will.topic, will.payload, qos=1, retain=True, properties=properties)

    def connect(self) -> None:
        """Try once, in a thread of its own; `on_up` or `on_down` tells."""
        threading.Thread(target=self._live, name="mqtt", daemon=True).start()

    def close(self) -> None:
        self._client.disconnect()

    def subscribe(self, topics: Sequence[str]) -> None:
        if topics:
            self._client.subscribe([(topic, SubscribeOptions(qos=1)) for topic in topics])

    def unsubscribe(self, topics: Sequence[str]) -> None:
        if topics:
            self._client.unsubscribe(list(topics))

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> int | None:
        """Hand a message over at QoS 1; return its id, or None where there is no connection."""
        handed = self._client.publish(topic, payload, qos=1, retain=retain)
        return handed.mid if handed.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def traffic(self) -> tuple[int, int]:
        """Return the bytes sent and received at the socket so far."""
        sent, received = _traffic_of(self._client.socket())
        return self._done[0] + sent, self._done[1] + received

    def _live(self) -> None:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.ReceiveMaximum = self._window
        properties.MaximumPacketSize = LARGEST_PACKET_BYTES
        try:
            self._client.connect(
                self._broker.host,
                self._broker.port,
                KEEPALIVE_S,
                clean_start=True,
                properties=properties,
            )
            self._client.loop_forever()
        except OSError:
            pass  # `on_down` says so; the session tries again.
        self._callbacks.on_down()

    def _connected(
        self, client: paho.Client, _data: object, _flags: object, code: ReasonCode, _p: object
    ) -> None:
        if code.is_failure:
            client.disconnect()
        else:
            self._callbacks.on_up()

    def _message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        self._callbacks.on_message(message.topic, bytes(message.payload))

    def _published(
        self, _client: paho.Client, _data: object, mid: int, _code: object, _p: object
    ) -> None:
        self._callbacks.on_puback(mid)

    def _closing(self, _client: paho.Client, _data: object, link: object) -> None:
        sent, received = _traffic_of(link)
        self._done = (self._done[0] + sent, self._done[1] + received)


def _traffic_of(link: object) -> tuple[int, int]:
    if not isinstance(link, socket.socket):
        return 0, 0
    try:
        info = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES.size)
        sent, received = _TCP_INFO_BYTES.unpack(info)
    except (OSError, struct.error):
        return 0, 0
    return sent, received
