"""HTTP(S) sources of blobs: one range at a time, in a thread of its own, within a bound of time.

What comes is unverified: whoever asked knows the digest. Never more is read than was asked for,
whatever the source declares, and at the end of its time a request is cut off, however it drips.
"""

from __future__ import annotations

import contextlib
import http.client
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

from wherry.blobs import LARGEST_CHUNK_BYTES
from wherry.names import Digest
from wherry_agent.settings import CA_FILE, CERTIFICATE_FILE, KEY_FILE
from wherry_agent.tls import NO_CHECK_TIME

PIECE_BYTES = 64 * 1024
SOCKET_TIMEOUT_S = 10.0
PORTS = {"http": 80, "https": 443}


class Trouble(Enum):
    """Why a source gave nothing that could be the chunk."""

    FAILED = "failed"
    LACKED = "lacked"
    OVERSIZED = "oversized"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`size_bytes` from `start` of a blob's file; None: the whole file, no longer than a chunk."""

    source: str
    chunk: Digest
    blob: Digest
    start: int
    size_bytes: int | None
    within_s: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What a source gave: bytes, or why there are none."""

    request: Request
    data: bytes | Trouble
    detail: str = ""


Context: TypeAlias = Callable[[str], ssl.SSLContext]


class Sources:
    """A thread that asks sources; `on_answer` is called on it, once for each request."""

    def __init__(
        self,
        on_answer: Callable[[Answer], None],
        context: Context,
    ) -> None:
        self._on_answer, self._context = on_answer, context
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._received_bytes = 0
        self._thread: threading.Thread | None = None

    @property
    def received_bytes(self) -> int:
        """The bytes of answers' bodies so far."""
        return self._received_bytes

    def ask(self, request: Request) -> None:
        """Ask a source; the answer comes to `on_answer`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._live, name="sources", daemon=True)
            self._thread.start()
        self._requests.put(request)

    def close(self) -> None:
        self._requests.put(None)

    def _live(self) -> None:
        while (request := self._requests.get()) is not None:
            answer = get(request, self._context)
            if isinstance(answer.data, bytes):
                self._received_bytes += len(answer.data)
            self._on_answer(answer)


def source_context(home: Path, source: str, *, own: str | None) -> ssl.SSLContext:
    """Return what a device dials a source with.

    Its certificate is shown to its controller's `own` door alone: which other sources there are is
    said by a broker, and signed by nobody. No clock is asked, as there may be none: what comes is
    verified by its digest.
    """
    context = ssl.create_default_context()
    context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
    if own is not None and source.startswith(f"{own.rstrip('/')}/"):
        context.load_verify_locations(home / CA_FILE)
        context.load_cert_chain(home / CERTIFICATE_FILE, home / KEY_FILE)
    return context


def public_context(_source: str) -> ssl.SSLContext:
    """Return what anybody dials a source with."""
    return ssl.create_default_context()


def get(request: Request, context: Context) -> Answer:
    """Ask a source for a range and wait for the answer; nothing is raised."""
    try:
        link = _connect(request.source, context)
    except (ValueError, OSError) as error:
        return Answer(request, Trouble.FAILED, f"{request.source} cannot be asked: {error}")
    with link, _cut_off(link, request.within_s) as was_cut:
        try:
            return _exchange(link, request)
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = f"not within {request.within_s:g} s" if was_cut.is_set() else str(error)
            return Answer(request, Trouble.FAILED, f"{request.source} gave nothing: {why}")


def _exchange(link: socket.socket, request: Request) -> Answer:
    if isinstance(link, ssl.SSLSocket):
        link.do_handshake()
    parts = urlsplit(request.source)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    connection.sock = link
    path = f"{parts.path.rstrip('/')}/{request.blob}"
    headers = {"Accept-Encoding": "identity"}
    if request.size_bytes is not None:
        headers["Range"] = f"bytes={request.start}-{request.start + request.size_bytes - 1}"
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    match response.status:
        case http.client.NOT_FOUND | http.client.GONE:
            return Answer(request, Trouble.LACKED, f"{request.source} has no {request.blob[:12]}")
        case http.client.PARTIAL_CONTENT if request.size_bytes is not None:
            limit = request.size_bytes
        case http.client.OK if request.size_bytes is None:
            limit = LARGEST_CHUNK_BYTES
        case status:
            return Answer(request, Trouble.FAILED, f"{request.source} answered {status}")
    declared = response.length
    if declared is not None and declared > limit:
        why = f"{request.source} declares {declared} bytes where {limit} were asked for"
        return Answer(request, Trouble.OVERSIZED, why)
    data = _read(response, limit)
    if len(data) > limit:
        why = f"{request.source} gives more than the {limit} bytes that were asked for"
        return Answer(request, Trouble.OVERSIZED, why)
    if request.size_bytes is not None and len(data) < request.size_bytes:
        raise http.client.IncompleteRead(data, request.size_bytes - len(data))
    return Answer(request, data)


def _read(response: http.client.HTTPResponse, limit: int) -> bytes:
    """Read a body, at most one byte more than it may have."""
    pieces: list[bytes] = []
    left = limit + 1
    while left and (piece := response.read(min(PIECE_BYTES, left))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _connect(source: str, context: Context) -> socket.socket:
    """Return a socket to a source, its TLS handshake yet to be done: that counts as its time."""
    parts = urlsplit(source)
    if not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError("it is no folder's URL")
    if parts.scheme not in PORTS:
        raise ValueError("write http:// or https://")
    address = (parts.hostname, parts.port or PORTS[parts.scheme])
    link = socket.create_connection(address, timeout=SOCKET_TIMEOUT_S)
    if parts.scheme == "http":
        return link
    return context(source).wrap_socket(
        link, server_hostname=parts.hostname, do_handshake_on_connect=False
    )


@contextlib.contextmanager
def _cut_off(link: socket.socket, within_s: float) -> Iterator[threading.Event]:
    """Shut the connection down at the end of its time, whatever is being read then."""
    was_cut = threading.Event()

    def cut() -> None:
        was_cut.set()
        with contextlib.suppress(OSError):
            link.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(within_s, cut)
    timer.daemon = True
    timer.start()
    try:
        yield was_cut
    finally:
        timer.cancel()
