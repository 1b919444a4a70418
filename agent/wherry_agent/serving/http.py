"""HTTP/1.1 on one connection: bytes to requests, responses to bytes in the order of the requests.

Every length is bounded before anything is kept: the head, the body, the requests that wait for
an answer. What breaks the protocol gets one answer that says so, and the connection closes.
A request must arrive whole within a time, and so must the reading of an answer.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from http import HTTPStatus
from typing import TypeAlias

import httptools
import msgspec

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class HttpLimits:
    body_bytes: int = 16 << 20
    head_bytes: int = 16 << 10
    pipelined: int = 32  # Requests of one connection that may wait for their answers.
    request_s: float = 30.0  # For a request to arrive, or for an answer to be read.
    idle_s: float = 120.0  # Between requests.


@dataclass(frozen=True, slots=True)
class Request:
    """`received_ns` is when its last byte came, by the performance counter."""

    method: str
    path: str
    body: bytes
    received_ns: int


@dataclass(frozen=True, slots=True)
class Response:
    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    retry_after_s: int | None = None


Respond: TypeAlias = Callable[[Response], None]
Handler: TypeAlias = Callable[[Request, Respond], None]


def refusal(status: HTTPStatus, sentence: str, retry_after_s: int | None = None) -> Response:
    """Return the error response of the Open Inference Protocol."""
    return Response(msgspec.json.encode({"error": sentence}), status, retry_after_s)


class _Refused(Exception):
    """Ends the parsing of a connection with a response."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


class _Then(Enum):
    """What becomes of the connection after a response."""

    KEEP_ALIVE = "keep-alive"
    CLOSE = "close"
    LINGER = "linger"  # The client still sends: closing now would lose it the response.


@dataclass(slots=True, eq=False)
class _Exchange:
    """A request that was received, and its response once there is one."""

    then: _Then
    without_body: bool = False
    response: Response | None = None


@dataclass(slots=True)
class _Arriving:
    """What has come of the next request."""

    path: bytes = b""
    head_bytes: int = 0
    unfinished_bytes: int = 0
    body: list[bytes] = field(default_factory=list)
    body_bytes: int = 0
    announced_bytes: int = 0
    expects_continue: bool = False
    in_head: bool = True
    since_s: float | None = None

    def bound_unfinished(self, more_bytes: int, limits: HttpLimits) -> None:
        """Bound a head without an end, of which the parser tells nothing yet."""
        self.unfinished_bytes += more_bytes
        self.bound_head(max(self.unfinished_bytes - self.head_bytes, 0), limits)

    def bound_head(self, more_bytes: int, limits: HttpLimits) -> None:
        self.head_bytes += more_bytes
        if self.head_bytes > limits.head_bytes:
            sentence = f"the head of a request has at most {limits.head_bytes} bytes here; cut it"
            raise _Refused(refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, sentence))


class Connection(asyncio.Protocol):
    """One client; `on_end` is called when it has gone."""

    def __init__(
        self, handler: Handler, limits: HttpLimits, on_end: Callable[[Connection], None]
    ) -> None:
        self._handler, self._limits, self._on_end = handler, limits, on_end
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._arriving = _Arriving()
        self._exchanges: deque[_Exchange] = deque()
        self._transport: asyncio.Transport | None = None
        self._closing = False  # No further request is read; what is owed is answered.
        self._quiet_since_s = self._loop.time()
        self._stuck_since_s: float | None = None

    def close_if_late(self, now_s: float) -> None:
        """Close the connection where the client lets it wait for too long."""
        arriving_s, stuck_s = self._arriving.since_s, self._stuck_since_s
        late = (
            (arriving_s is not None and now_s - arriving_s > self._limits.request_s)
            or (stuck_s is not None and now_s - stuck_s > self._limits.request_s)
            or (not self._exchanges and now_s - self._quiet_since_s > self._limits.idle_s)
        )
        if late:
            self.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        before = self._arriving
        if self._arriving.since_s is None:
            self._arriving.since_s = self._loop.time()
        try:
            self._parser.feed_data(data)
            if before is self._arriving and before.in_head:
                before.bound_unfinished(len(data), self._limits)
        except _Refused as refused:
            self._refuse(refused.response)
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, _Refused):
                raise
            self._refuse(error.__context__.response)
        except httptools.HttpParserError:
            sentence = (
                "this is no HTTP/1.1 request that this server reads; send one as RFC 9112 says"
            )
            self._refuse(refusal(HTTPStatus.BAD_REQUEST, sentence))

    def eof_received(self) -> bool:
        """Keep a half-closed connection for as long as an answer is owed."""
        self._closing = True
        return bool(self._exchanges)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._exchanges.clear()
        self._on_end(self)

    def pause_writing(self) -> None:
        self._stuck_since_s = self._loop.time()
        self._regulate()

    def resume_writing(self) -> None:
        self._stuck_since_s = None
        self._regulate()

    # httptools

    def on_url(self, url: bytes) -> None:
        self._arriving.bound_head(len(url), self._limits)
        self._arriving.path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._arriving.bound_head(len(name) + len(value), self._limits)
        if name.lower() == b"content-length" and value.isdigit():
            self._arriving.announced_bytes = int(value[:20])
        elif name.lower() == b"expect":
            self._arriving.expects_continue = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        arriving = self._arriving
        arriving.in_head = False
        if self._parser.should_upgrade():
            sentence = "this server speaks HTTP/1.1 only; ask without an upgrade"
            raise _Refused(refusal(HTTPStatus.BAD_REQUEST, sentence))
        self._bound_body(arriving.announced_bytes)
        if arriving.expects_continue and not self._exchanges and self._transport:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._arriving.body_bytes += len(body)
        self._bound_body(self._arriving.body_bytes)
        self._arriving.body.append(body)

    def on_message_complete(self) -> None:
        arrived, self._arriving = self._arriving, _Arriving()
        method = self._parser.get_method().decode("ascii", "replace")
        then = _Then.KEEP_ALIVE if self._parser.should_keep_alive() else _Then.CLOSE
        exchange = _Exchange(then, method == "HEAD")
        self._exchanges.append(exchange)
        path = arrived.path.decode("ascii", "replace")
        request = Request(method, path, b"".join(arrived.body), time.perf_counter_ns())
        self._handler(request, partial(self._respond, exchange))
        self._regulate()

    # Bounds

    def _bound_body(self, size_bytes: int) -> None:
        if size_bytes > self._limits.body_bytes:
            sentence = f"a body has at most {self._limits.body_bytes} bytes here; send fewer rows"
            raise _Refused(refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, sentence))

    def _regulate(self) -> None:
        """Read on only while the client reads its answers and does not ask too far ahead."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._stuck_since_s is not None or len(self._exchanges) >= self._limits.pipelined:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # Answers

    def _refuse(self, response: Response) -> None:
        self._closing = True
        exchange = _Exchange(_Then.LINGER)
        self._exchanges.append(exchange)
        self._respond(exchange, response)

    def _respond(self, exchange: _Exchange, response: Response) -> None:
        exchange.response = response
        while self._exchanges and (ready := self._exchanges[0].response) is not None:
            self._write(self._exchanges.popleft(), ready)
        self._regulate()

    def _write(self, exchange: _Exchange, response: Response) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._quiet_since_s = self._loop.time()
        self._transport.write(_encode(exchange, response))
        if exchange.then is _Then.LINGER:
            self._arriving.since_s = self._loop.time()
            self._transport.write_eof()
        elif exchange.then is _Then.CLOSE or (self._closing and not self._exchanges):
            self._exchanges.clear()
            self._transport.close()


def _encode(exchange: _Exchange, response: Response) -> bytes:
    status = response.status
    retry = f"retry-after: {response.retry_after_s}\r\n" if response.retry_after_s else ""
    connection = "keep-alive" if exchange.then is _Then.KEEP_ALIVE else "close"
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: {JSON}\r\n"
        f"content-length: {len(response.body)}\r\nconnection: {connection}\r\n{retry}\r\n"
    )
    return head.encode("ascii") + (b"" if exchange.without_body else response.body)
