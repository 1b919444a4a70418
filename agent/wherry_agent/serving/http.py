"""HTTP/1.1 on one connection: bytes to requests, responses to bytes in the order of the requests.

Every length is bounded before anything is kept: the head, the body, the bodies of all connections
together, the requests that wait for an answer. What breaks the protocol gets one answer that says
so, and the connection closes. A request must arrive whole within a time, and so must the reading
of an answer. A large body is received where it stays: the parser sees its first bytes only.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from http import HTTPStatus
from typing import TypeAlias

import httptools

from wherry_agent.serving.arriving import Arriving, HttpLimits, RefusedRequest
from wherry_agent.serving.coding import (
    BadCoding,
    Coding,
    TooLarge,
    UnknownCoding,
    asked_for,
    coding_of,
    inflate,
)
from wherry_agent.serving.message import (
    READ_HEADERS,
    Bytes,
    FindBerth,
    Handler,
    Request,
    Response,
    encode,
    key_of,
    refusal,
)
from wherry_agent.serving.room import NoRoom, Room, Taken

RETRY_AFTER_S = 1
SCRATCH_BYTES = 16 << 10


class _Then(Enum):
    """What becomes of the connection after a response."""

    KEEP_ALIVE = "keep-alive"
    CLOSE = "close"
    LINGER = "linger"  # The client still sends: closing now would lose it the response.


@dataclass(slots=True, eq=False)
class _Exchange:
    """A request that was received, and its response once there is one."""

    then: _Then
    taken: Taken
    without_body: bool = False
    coding: Coding | None = None
    response: Response | None = None


UserOf: TypeAlias = Callable[[asyncio.BaseTransport], Callable[[], int | None]]


def _nobody(transport: asyncio.BaseTransport) -> Callable[[], int | None]:
    return lambda: None


def _nowhere(path: str, headers: Mapping[str, str], size_bytes: int) -> None:
    return None


class Connection(asyncio.BufferedProtocol):
    """One client; `on_end` is called when it has gone, `user_of` returns what tells whose it is."""

    def __init__(
        self,
        handler: Handler,
        limits: HttpLimits,
        on_end: Callable[[Connection], None],
        room: Room | None = None,
        user_of: UserOf = _nobody,
        find_berth: FindBerth = _nowhere,
    ) -> None:
        self._handler, self._limits, self._on_end = handler, limits, on_end
        self._room = room or Room(max(limits.bodies_bytes, limits.body_bytes))
        self._user_of, self._find_berth = user_of, find_berth
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._arriving = Arriving(Taken(self._room))
        self._exchanges: deque[_Exchange] = deque()
        self._transport: asyncio.Transport | None = None
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        self.has_asked = False
        self._asks_once = False  # The first request is the last one.
        self._closing = False  # No further request is read; what is owed is answered.
        self._has_ended = False  # The client sends no more.
        self._quiet_since_s = self._loop.time()
        self._stuck_since_s: float | None = None

    def close_if_late(self, now_s: float) -> None:
        """Close the connection where the client lets it wait for too long."""
        arriving_s, stuck_s = self._arriving.since_s, self._stuck_since_s
        late = arriving_s is not None and now_s - arriving_s > self._limits.request_s
        stuck = stuck_s is not None and now_s - stuck_s > self._limits.request_s
        idle = not self._exchanges and now_s - self._quiet_since_s > self._limits.idle_s
        if late and not (self._closing or stuck):
            sentence = f"a request arrives within {self._limits.request_s:g} s here; send it faster"
            self._refuse(refusal(HTTPStatus.REQUEST_TIMEOUT, sentence))
        elif late or stuck or idle:
            self.abort()

    def finish(self) -> None:
        """Read no further request, and close once what is owed is answered."""
        self._closing = True
        self._forget_arriving()
        if self._transport is not None and not self._exchanges:
            self._transport.close()

    def finish_after_one(self) -> None:
        """Read the first request and no further one, and close once it is answered."""
        self._asks_once = True

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        connection = transport.get_extra_info("socket")
        self._descriptor = connection.fileno() if connection else None
        self._user = self._user_of(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        whole = self._arriving.whole
        if whole is None:
            return self._scratch
        return memoryview(whole)[self._arriving.body_bytes :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._closing:
            return
        try:
            self._take_in(nbytes)
            self._read_on()
        except RefusedRequest as refused:
            self._refuse(refused.response)
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, RefusedRequest):
                raise
            self._refuse(error.__context__.response)
        except httptools.HttpParserError:
            sentence = (
                "this is no HTTP/1.1 request that this server reads; send one as RFC 9112 says"
            )
            self._refuse(refusal(HTTPStatus.BAD_REQUEST, sentence))

    def eof_received(self) -> bool:
        """Keep a half-closed connection for as long as an answer is owed."""
        self._closing = self._has_ended = True
        return bool(self._exchanges)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._exchanges.clear()
        self._forget_arriving()
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
        key = key_of(name)
        if key == "content-length" and value.isdigit():
            self._arriving.announced_bytes = int(value[:20])
        elif key == "expect":
            self._arriving.expects_continue = value.lower() == b"100-continue"
        elif key in READ_HEADERS:
            self._arriving.headers[key] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        arriving = self._arriving
        arriving.in_head = False
        if self._parser.should_upgrade():
            sentence = "this server speaks HTTP/1.1 only; ask without an upgrade"
            raise RefusedRequest(refusal(HTTPStatus.BAD_REQUEST, sentence))
        self._bound_body(arriving.announced_bytes)
        if arriving.announced_bytes > SCRATCH_BYTES:
            self._hold(arriving.announced_bytes)
            arriving.whole = self._place_of(arriving)
        if arriving.expects_continue and not self._exchanges and self._transport:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        arriving = self._arriving
        start, arriving.body_bytes = arriving.body_bytes, arriving.body_bytes + len(body)
        if arriving.whole is not None:
            arriving.whole[start : arriving.body_bytes] = body
            return
        self._bound_body(arriving.body_bytes)
        self._hold(len(body))
        arriving.pieces += body

    def on_message_complete(self) -> None:
        arrived, self._arriving = self._arriving, Arriving(Taken(self._room))
        self.has_asked, self._closing = True, self._closing or self._asks_once
        method = self._parser.get_method().decode("ascii", "replace")
        then = _Then.KEEP_ALIVE if self._parser.should_keep_alive() else _Then.CLOSE
        coding = asked_for(arrived.headers.get("accept-encoding", ""))
        exchange = _Exchange(then, arrived.taken, method == "HEAD", coding)
        self._exchanges.append(exchange)
        respond = partial(self._respond, exchange)
        received_ns = time.perf_counter_ns()
        try:
            body = self._decoded(arrived)
        except (TooLarge, BadCoding, UnknownCoding, NoRoom) as error:
            respond(_body_refusal(error))
            return
        path = arrived.path.decode("ascii", "replace")
        hold = arrived.taken.take
        self._handler(
            Request(
                method,
                path,
                body,
                received_ns,
                arrived.headers,
                self._user,
                hold,
                arrived.taken.berth,
            ),
            respond,
        )
        self._regulate()

    # Bytes

    def _take_in(self, nbytes: int) -> None:
        before = self._arriving
        if before.since_s is None:
            before.since_s = self._loop.time()
        if before.whole is not None:
            self._fill(before, nbytes)
            return
        self._parser.feed_data(self._scratch[:nbytes])
        if before is self._arriving and before.in_head:
            before.bound_unfinished(nbytes, self._limits)

    def _read_on(self) -> None:
        """Receive what stands ready of a large body: a turn of the loop for each piece costs."""
        arriving, descriptor = self._arriving, self._descriptor
        if arriving.whole is None or descriptor is None:
            return
        while arriving is self._arriving and not self._closing:
            try:
                nbytes = os.readv(descriptor, [self.get_buffer(-1)])
            except OSError:
                return  # Nothing now; what broke off is told by the loop.
            if not nbytes:
                return
            self._fill(arriving, nbytes)

    def _fill(self, arriving: Arriving, nbytes: int) -> None:
        arriving.body_bytes += nbytes
        if arriving.body_bytes == arriving.announced_bytes:
            self.on_message_complete()
            # The old one waits for a body that it will not see.
            self._parser = httptools.HttpRequestParser(self)

    def _place_of(self, arriving: Arriving) -> bytearray | memoryview:
        """Return where a large body arrives, best where it will be asked from."""
        path, size_bytes = arriving.path.decode("ascii", "replace"), arriving.announced_bytes
        berth = arriving.taken.berth = self._find_berth(path, arriving.headers, size_bytes)
        return bytearray(size_bytes) if berth is None else berth.memory

    def _decoded(self, arrived: Arriving) -> Bytes:
        coding = coding_of(arrived.headers.get("content-encoding", ""))
        if coding is None:
            return arrived.body
        body = inflate(arrived.body, coding, self._limits.body_bytes)
        arrived.taken.take(len(body))
        return body

    # Bounds

    def _bound_body(self, size_bytes: int) -> None:
        if size_bytes > self._limits.body_bytes:
            sentence = str(TooLarge(self._limits.body_bytes))
            raise RefusedRequest(refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, sentence))

    def _hold(self, size_bytes: int) -> None:
        try:
            self._arriving.taken.take(size_bytes)
        except NoRoom as error:
            raise RefusedRequest(_body_refusal(error)) from error

    def _forget_arriving(self) -> None:
        self._arriving.taken.give_back()
        self._arriving = Arriving(Taken(self._room))

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
        self._forget_arriving()
        exchange = _Exchange(_Then.LINGER, Taken(self._room))
        self._exchanges.append(exchange)
        self._respond(exchange, response)

    def _respond(self, exchange: _Exchange, response: Response) -> None:
        exchange.response = response
        exchange.taken.give_back()
        while self._exchanges and (ready := self._exchanges[0].response) is not None:
            self._write(self._exchanges.popleft(), ready)
        self._regulate()

    def _write(self, exchange: _Exchange, response: Response) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._quiet_since_s = self._loop.time()
        connection = "keep-alive" if exchange.then is _Then.KEEP_ALIVE else "close"
        pieces = encode(response, exchange.coding, connection=connection)
        if exchange.without_body:
            head, end, _ = bytes(pieces[0]).partition(b"\r\n\r\n")
            pieces = [head + end]
        for piece in pieces:
            self._transport.write(piece)
        if exchange.then is _Then.LINGER and not self._has_ended:
            self._arriving.since_s = self._loop.time()
            self._transport.write_eof()
        elif exchange.then is not _Then.KEEP_ALIVE or (self._closing and not self._exchanges):
            self._exchanges.clear()
            self._transport.close()


def _body_refusal(error: TooLarge | BadCoding | UnknownCoding | NoRoom) -> Response:
    match error:
        case NoRoom():
            return refusal(HTTPStatus.SERVICE_UNAVAILABLE, str(error), RETRY_AFTER_S)
        case TooLarge():
            return refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error))
        case UnknownCoding():
            return refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, str(error))
        case BadCoding():
            return refusal(HTTPStatus.BAD_REQUEST, str(error))
