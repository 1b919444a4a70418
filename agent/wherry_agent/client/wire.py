"""HTTP/1.1 as the client speaks it: one kept connection, parsed by httptools.

A connection that the agent has closed meanwhile is made anew once, and only for a request of which
nothing was answered. What is longer than `LARGEST_BYTES` is not read.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import httptools

from wherry.errors import Unavailable

LARGEST_BYTES = 512 << 20
READ_BYTES = 1 << 18

Part = bytes | memoryview


class NotReachable(Unavailable):
    """No agent answers at the address."""

    def __init__(self, address: str, problem: str) -> None:
        super().__init__(address, problem)
        self.address, self.problem = address, problem

    def __str__(self) -> str:
        return (
            f"no agent answers at {self.address}: {self.problem}; "
            "start it with `wherry-agent run`, or give the address it listens on."
        )


@dataclass(slots=True)
class Reply:
    """A response; header names are in small letters."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""


class _Gone(Exception):
    """The other side closed the connection before it answered anything."""


class Wire:
    """`address` is the path of a Unix socket, or `http://host:port`."""

    def __init__(self, address: str, timeout_s: float) -> None:
        self.address, self._timeout_s = address, timeout_s
        self._socket: socket.socket | None = None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def exchange(
        self,
        method: str,
        path: str,
        parts: Sequence[Part] = (),
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send a request whose body is `parts`; return the reply, or raise `NotReachable`."""
        size_bytes = sum(len(part) for part in parts)
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n{lines}"
            f"content-length: {size_bytes}\r\n\r\n"
        ).encode("ascii")
        fresh = self._socket is None
        try:
            try:
                return self._try(head, parts)
            except (_Gone, BrokenPipeError, ConnectionResetError):
                self.close()
                if fresh:
                    raise
                return self._try(head, parts)
        except (_Gone, OSError, httptools.HttpParserError) as error:
            self.close()
            raise NotReachable(self.address, str(error) or type(error).__name__) from error

    def _try(self, head: bytes, parts: Sequence[Part]) -> Reply:
        link = self._socket or self._connect()
        if sum(len(part) for part in parts) <= READ_BYTES:
            link.sendall(b"".join((head, *parts)))
        else:
            for part in (head, *parts):
                link.sendall(part)
        reading = _Reading()
        parser = httptools.HttpResponseParser(reading)
        while not reading.complete:
            data = link.recv(READ_BYTES)
            if not data:
                raise _Gone("it closed the connection")
            parser.feed_data(data)
        reply = reading.reply
        reply.status = parser.get_status_code()
        reply.body = reading.body[0] if len(reading.body) == 1 else b"".join(reading.body)
        if not parser.should_keep_alive():
            self.close()
        return reply

    def _connect(self) -> socket.socket:
        if self.address.startswith("http://"):
            host, _, port = self.address.removeprefix("http://").rstrip("/").rpartition(":")
            link = socket.create_connection((host, int(port)), self._timeout_s)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            link = socket.socket(socket.AF_UNIX)
            try:
                link.settimeout(self._timeout_s)
                link.connect(self.address)
            except OSError:
                link.close()
                raise
        self._socket = link
        return link


class _Reading:
    """What httptools tells of one response."""

    def __init__(self) -> None:
        self.reply = Reply()
        self.body: list[bytes] = []
        self.complete = False
        self._size_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self.reply.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._size_bytes += len(body)
        if self._size_bytes > LARGEST_BYTES:
            raise OSError(f"its answer has more than {LARGEST_BYTES} bytes")
        self.body.append(body)

    def on_message_complete(self) -> None:
        self.complete = True
