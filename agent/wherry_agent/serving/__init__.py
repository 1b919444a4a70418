"""The local API's server: the sockets that applications on this device connect to."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from pathlib import Path

from wherry.errors import Unavailable
from wherry_agent.engine import Engine
from wherry_agent.serving.api import Api
from wherry_agent.serving.feedback import Answers
from wherry_agent.serving.http import Connection, HttpLimits
from wherry_agent.telemetry import Recorder

SOCKET_MODE = 0o660
SWEEP_S = 5.0


class CannotListen(Unavailable):
    """An address that the local API cannot have."""

    def __init__(self, address: str, problem: str) -> None:
        super().__init__(address, problem)
        self.address, self.problem = address, problem

    def __str__(self) -> str:
        return (
            f"the local API cannot listen on {self.address}: {self.problem}; "
            "stop what uses that address, or set another one."
        )


@dataclass(frozen=True, slots=True)
class ListenSettings:
    """Where to listen: a Unix socket, and a port on loopback where one is set (0: any free one)."""

    socket_path: Path
    port: int | None = None
    host: str = "127.0.0.1"
    connections: int = 256
    answers_kept: int = 16_384  # For feedback.
    http: HttpLimits = field(default_factory=HttpLimits)


class _Unwelcome(asyncio.Protocol):
    """A connection beyond those that are allowed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class Server:
    def __init__(self, engine: Engine, recorder: Recorder, settings: ListenSettings) -> None:
        self._engine, self._settings = engine, settings
        self._api = Api(engine, recorder, Answers(settings.answers_kept))
        self._servers: list[asyncio.Server] = []
        self._connections: set[Connection] = set()
        self.port: int | None = None

    def start(self) -> None:
        """Listen, on the loop of the engine, which runs; raise `CannotListen`."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._engine.loop).result()

    def close(self) -> None:
        """Close every connection and listen no longer; before the engine is closed."""
        asyncio.run_coroutine_threadsafe(self._close(), self._engine.loop).result()

    async def _listen(self) -> None:
        path = self._settings.socket_path
        try:
            local = _bind(path)
            self._servers.append(
                await self._engine.loop.create_unix_server(self._accept, sock=local)
            )
        except OSError as error:
            raise CannotListen(str(path), str(error)) from error
        if self._settings.port is not None:
            await self._listen_on_loopback(self._settings.port)
        self._engine.loop.call_later(SWEEP_S, self._sweep)

    async def _listen_on_loopback(self, port: int) -> None:
        host = self._settings.host
        try:
            server = await self._engine.loop.create_server(self._accept, host, port)
        except OSError as error:
            raise CannotListen(f"{host}:{port}", str(error)) from error
        self._servers.append(server)
        self.port = server.sockets[0].getsockname()[1]

    def _accept(self) -> asyncio.Protocol:
        if len(self._connections) >= self._settings.connections:
            return _Unwelcome()
        connection = Connection(self._api.handle, self._settings.http, self._connections.discard)
        self._connections.add(connection)
        return connection

    def _sweep(self) -> None:
        now_s = self._engine.loop.time()
        for connection in tuple(self._connections):
            connection.close_if_late(now_s)
        if self._servers:
            self._engine.loop.call_later(SWEEP_S, self._sweep)

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
        for connection in tuple(self._connections):
            connection.abort()
        self._settings.socket_path.unlink(missing_ok=True)


def _bind(path: Path) -> socket.socket:
    """Return a socket bound to `path`, which its user and group may connect to."""
    path.unlink(missing_ok=True)
    local = socket.socket(socket.AF_UNIX)
    try:
        local.bind(str(path))
        path.chmod(SOCKET_MODE)  # Nobody can connect before it listens.
    except OSError:
        local.close()
        raise
    return local
