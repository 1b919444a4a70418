"""Requests and responses as the local API sees them, and the bytes of a response."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import TypeAlias

import msgspec

from wherry_agent.asking import Berth
from wherry_agent.serving.coding import SMALLEST_BYTES, Coding, compress

JSON = "application/json"
BINARY = "application/octet-stream"

JSON_BYTES = "inference-header-content-length"  # So many bytes of a body are JSON, then tensors.
KEY = "wherry-key"
READ_HEADERS = frozenset((JSON_BYTES, KEY, "content-encoding", "accept-encoding", "host", "origin"))
JOINED_BYTES = 16 << 10  # Up to here one write is cheaper than two.

Bytes: TypeAlias = bytes | bytearray | memoryview


class Request(msgspec.Struct, frozen=True):
    """`received_ns` is when its last byte came, by the performance counter.

    `headers` holds those of `READ_HEADERS` that came, `user` tells whose the connection is (None
    where nobody knows). `hold` takes room for more bytes until the response, or raises `NoRoom`.
    `berth` is where the body stands, where that is in the memory that a runner asks from.
    """

    method: str
    path: str
    body: Bytes
    received_ns: int
    headers: Mapping[str, str]
    user: Callable[[], int | None]
    hold: Callable[[int], None]
    berth: Berth | None = None


class Response(msgspec.Struct, frozen=True):
    """`tensors` come after a `body` of JSON, as they are."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    retry_after_s: int | None = None
    tensors: tuple[Bytes, ...] = ()
    content_type: str = JSON


Respond: TypeAlias = Callable[[Response], None]
Handler: TypeAlias = Callable[[Request, Respond], None]
# Where so many bytes of a body may arrive, by path and headers.
FindBerth: TypeAlias = Callable[[str, Mapping[str, str], int], Berth | None]


@lru_cache(maxsize=128)
def key_of(name: bytes) -> str:
    """Return a header's name in lower case; the same few come again and again."""
    return name.lower().decode("latin-1")


@lru_cache(maxsize=64)
def _status_line(status: HTTPStatus) -> str:
    return f"HTTP/1.1 {status.value} {status.phrase}"


def refusal(status: HTTPStatus, sentence: str, retry_after_s: int | None = None) -> Response:
    """Return the error response of the Open Inference Protocol."""
    return Response(msgspec.json.encode({"error": sentence}), status, retry_after_s)


def encode(response: Response, coding: Coding | None, *, connection: str) -> list[Bytes]:
    """Return head and body as pieces to write one after the other."""
    parts: list[Bytes] = [response.body, *response.tensors]
    size_bytes = sum(map(len, parts))
    lines = [
        _status_line(response.status),
        f"content-type: {BINARY if response.tensors else response.content_type}",
        f"connection: {connection}",
    ]
    if response.tensors:
        lines.append(f"{JSON_BYTES}: {len(response.body)}")
    if response.retry_after_s:
        lines.append(f"retry-after: {response.retry_after_s}")
    if response.status is HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
        lines.append("accept-encoding: gzip, deflate")  # RFC 9110, section 15.5.16
    if coding is not None and size_bytes >= SMALLEST_BYTES:
        parts = [compress(parts, coding)]
        size_bytes = len(parts[0])
        lines.append(f"content-encoding: {coding.value}")
    lines += [f"content-length: {size_bytes}", "\r\n"]
    head = "\r\n".join(lines).encode("ascii")
    return [b"".join((head, *parts))] if size_bytes <= JOINED_BYTES else [head, *parts]
