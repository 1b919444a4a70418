"""Calls of the local API as bytes on a socket, and servers of other settings beside a bench's."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPResponse
from pathlib import Path

from tests.agent.benches import PATIENCE_S, Bench
from wherry_agent.serving import ListenSettings, Server


@dataclass(frozen=True)
class Called:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        """Return the JSON of the answer, without the tensors that follow it."""
        size = self.headers.get("inference-header-content-length")
        value = json.loads(self.body[: int(size)] if size else self.body)
        assert isinstance(value, dict)
        return value

    @property
    def error(self) -> str:
        return str(self.json["error"])


@dataclass(frozen=True)
class Caller:
    """Makes each call on a connection of its own."""

    path: Path
    headers: Mapping[str, str] = field(default_factory=dict)

    def call(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Called:
        lines = {
            "host": "test",
            "content-length": str(len(body)),
            **self.headers,
            **(headers or {}),
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        with socket.socket(socket.AF_UNIX) as wire:
            wire.settimeout(PATIENCE_S)
            wire.connect(str(self.path))
            wire.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
            response = HTTPResponse(wire)
            response.begin()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Called(response.status, names, response.read())

    def get(self, path: str) -> Called:
        return self.call("GET", path)

    def post(
        self, path: str, value: object = None, headers: Mapping[str, str] | None = None
    ) -> Called:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self.call("POST", path, b"" if value is None else body, headers)


@contextmanager
def a_server(bench: Bench, settings: ListenSettings) -> Iterator[Server]:
    """Run another server on the bench's engine until the end of the block."""
    server = Server(bench.engine, bench.recorder, settings)
    server.start()
    try:
        yield server
    finally:
        server.close()
