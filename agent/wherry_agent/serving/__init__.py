"""The local API's server: the sockets that applications on this device connect to."""

from __future__ import annotations

import asyncio
import grp
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from http import HTTPStatus
from pathlib import Path

from wherry.errors import Unavailable, Unsuitable
from wherry_agent.engine import Engine
from wherry_agent.serving.api import Api
from wherry_agent.serving.arriving import HttpLimits
from wherry_agent.serving.feedback import Answers
from wherry_agent.serving.guards import answer_only, answer_programs
from wherry_agent.serving.http import Connection
from wherry_agent.serving.inference import Inference
from wherry_agent.serving.message import Handler, encode, refusal
from wherry_agent.serving.peers import UnknownUser, peer_of, user_id_of
from wherry_agent.serving.refusals import RETRY_AFTER_S
from wherry_agent.serving.regions import SHARED_MEMORY, Regions
from wherry_agent.serving.room import Room
from wherry_agent.serving.statistics import Statistics
from wherry_agent.settings import Settings, StaleState, socket_of
from wherry_agent.telemetry import Recorder

SWEEP_S = 5.0
UNWELCOME_S = 1.0
FIRST_REQUEST_S = 0.5  # Who has just connected could not know that the server ends.


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


class NoGrpc(Unsuitable):
    """A port for gRPC on a device that has not what it takes."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return (
            f"gRPC cannot be spoken here ({self.problem}): install the extra "
            "`wherry-agent[grpc]`, or take `grpc_port` out of [api]."
        )


@dataclass(frozen=True, slots=True)
class Bound:
    """Sockets that were bound before the start, by systemd, and go on when this process ends."""

    local: socket.socket | None = None
    http: socket.socket | None = None


UNBOUND = Bound()


@dataclass(frozen=True, slots=True)
class ListenSettings:
    """Where to listen: a Unix socket, and ports on loopback where they are set (0: any free one).

    The file mode and `group` say who may connect to the socket, `users` who of them is answered
    (none given: everybody), on both. The agent's own user always is. What stands in `bound` is
    listened on as it is.
    """

    socket_path: Path
    port: int | None = None
    grpc_port: int | None = None
    host: str = "127.0.0.1"
    mode: int = 0o660
    group: str | None = None
    users: tuple[str, ...] = ()
    connections: int = 256
    answers_kept: int = 8192  # For feedback.
    http: HttpLimits = field(default_factory=HttpLimits)
    shared_memory: bool = True
    shared_folder: Path = SHARED_MEMORY
    bound: Bound = UNBOUND
    stale_state: StaleState = StaleState.REFUSE


def listen_settings(home: Path, settings: Settings, bound: Bound = UNBOUND) -> ListenSettings:
    """Return where and how the agent of `home` listens."""
    api = settings.api
    return ListenSettings(
        socket_path=socket_of(home, settings),
        port=api.port,
        grpc_port=api.grpc_port,
        mode=int(api.mode, 8),
        group=api.group,
        users=api.users,
        connections=api.connections,
        http=HttpLimits(body_bytes=api.body_bytes),
        shared_memory=api.shared_memory,
        bound=bound,
        stale_state=settings.serving.stale_state,
    )


class _Unwelcome(asyncio.Protocol):
    """A connection beyond those that are allowed: it is told so, and left once it has asked."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        sentence = "too many connections are open; close some, or ask again in a moment"
        response = refusal(HTTPStatus.SERVICE_UNAVAILABLE, sentence, RETRY_AFTER_S)
        transport.writelines(encode(response, None, connection="close"))
        # Closed at once, it would break the pipe of a client that still asks.
        asyncio.get_running_loop().call_later(UNWELCOME_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.close()


class Server:
    """`metrics` writes what `/metrics` shows; None: nothing is there."""

    def __init__(
        self,
        engine: Engine,
        recorder: Recorder,
        settings: ListenSettings,
        metrics: Callable[[], str] | None = None,
    ) -> None:
        self._engine, self._settings = engine, settings
        self._regions = Regions(settings.shared_folder)
        inference = Inference(
            engine=engine,
            recorder=recorder,
            answers=Answers(settings.answers_kept),
            regions=self._regions,
            statistics=Statistics(),
            stale=settings.stale_state,
            largest_bytes=settings.http.body_bytes,
        )
        self._api = Api(inference, shared_memory=settings.shared_memory, show_metrics=metrics)
        self._handle: Handler = self._api.handle
        self._room = Room(max(settings.http.bodies_bytes, settings.http.body_bytes))
        self._servers: list[asyncio.Server] = []
        self._connections: set[Connection] = set()
        self._all_gone = asyncio.Event()
        self.port: int | None = None
        self.grpc_port: int | None = None
        self._end_grpc: Callable[[float], Awaitable[None]] | None = None

    def start(self) -> None:
        """Listen, on the loop of the engine, which runs; raise `CannotListen`."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._engine.loop).result()

    def close(self, drain_s: float = 0.0) -> None:
        """Listen no longer, and close every connection; before the engine is closed.

        What was asked is answered for up to `drain_s`.
        """
        asyncio.run_coroutine_threadsafe(self._close(drain_s), self._engine.loop).result()

    async def _listen(self) -> None:
        path = self._settings.socket_path
        try:
            if self._settings.users:
                users = {os.geteuid(), *map(user_id_of, self._settings.users)}
                self._handle = partial(answer_only, users, self._handle)
            local = self._settings.bound.local or _bind(path, self._settings)
            accept = partial(self._accept, self._handle)
            self._servers.append(await self._engine.loop.create_unix_server(accept, sock=local))
        except (OSError, UnknownUser) as error:
            raise CannotListen(str(path), str(error)) from error
        if self._settings.port is not None or self._settings.bound.http is not None:
            await self._listen_on_loopback(self._settings.port)
        if self._settings.grpc_port is not None:
            await self._listen_for_grpc(self._settings.grpc_port)
        self._engine.loop.call_later(SWEEP_S, self._sweep)

    async def _listen_on_loopback(self, port: int | None) -> None:
        host, bound = self._settings.host, self._settings.bound.http
        accept = partial(self._accept, partial(answer_programs, self._handle))
        try:
            if bound is not None:
                server = await self._engine.loop.create_server(accept, sock=bound)
            else:
                server = await self._engine.loop.create_server(accept, host, port)
        except OSError as error:
            raise CannotListen(f"{host}:{port}", str(error)) from error
        self._servers.append(server)
        self.port = server.sockets[0].getsockname()[1]

    async def _listen_for_grpc(self, port: int) -> None:
        try:
            from wherry_agent.serving import grpc_api  # An extra, which takes 22 MB.
        except ImportError as error:
            raise NoGrpc(str(error)) from error
        address = f"{self._settings.host}:{port}"
        try:
            self._end_grpc, self.grpc_port = await grpc_api.serve(
                self._handle,
                address,
                room=self._room,
                largest_bytes=self._settings.http.body_bytes,
                most_calls=self._settings.connections,
            )
        except OSError as error:
            raise CannotListen(address, str(error)) from error

    def _accept(self, handle: Handler) -> asyncio.BaseProtocol:
        if len(self._connections) >= self._settings.connections:
            return _Unwelcome()
        connection = Connection(
            handle, self._settings.http, self._leave, self._room, _user_of, self._api.berth
        )
        self._connections.add(connection)
        return connection

    def _sweep(self) -> None:
        now_s = self._engine.loop.time()
        for connection in tuple(self._connections):
            connection.close_if_late(now_s)
        self._regions.forget_unused(now_s)
        if self._servers:
            self._engine.loop.call_later(SWEEP_S, self._sweep)

    async def _close(self, drain_s: float) -> None:
        await self._stop_accepting()
        if self._settings.bound.local is None:
            self._settings.socket_path.unlink(missing_ok=True)
        for connection in tuple(self._connections):
            if connection.has_asked:
                connection.finish()
            else:
                connection.finish_after_one()
                self._engine.loop.call_later(FIRST_REQUEST_S, connection.finish)
        if self._end_grpc is not None:
            await self._end_grpc(drain_s)
        if self._connections and drain_s:
            with suppress(TimeoutError, asyncio.TimeoutError):  # One and the same from 3.11 on.
                await asyncio.wait_for(self._all_gone.wait(), drain_s)
        for connection in tuple(self._connections):
            connection.abort()
        self._regions.close()

    async def _stop_accepting(self) -> None:
        """Leave who connects from now on to the process that listens next, where sockets go on."""
        for listener in (one for server in self._servers for one in server.sockets):
            self._engine.loop.remove_reader(listener.fileno())
        # Those that were accepted just now have their transports before their server is closed.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for server in self._servers:
            server.close()
        self._servers.clear()

    def _leave(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections and not self._servers:
            self._all_gone.set()


def _user_of(transport: asyncio.BaseTransport) -> Callable[[], int | None]:
    """Return what tells whose a connection is; it asks the kernel once, when it is asked."""
    connection: socket.socket = transport.get_extra_info("socket")
    return cache(partial(peer_of, connection))


def _bind(path: Path, settings: ListenSettings) -> socket.socket:
    """Return a socket bound to `path`, which its user and group may connect to."""
    path.unlink(missing_ok=True)
    local = socket.socket(socket.AF_UNIX)
    try:
        local.bind(str(path))
        if settings.group is not None:
            os.chown(path, -1, _group_id(settings.group))
        path.chmod(settings.mode)  # Nobody can connect before it listens.
    except OSError:
        local.close()
        raise
    return local


def _group_id(name: str) -> int:
    if name.isascii() and name.isdigit():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise OSError(f"there is no group {name!r}") from error
