"""One connection of the local API in memory: what a client sends, and what is written to it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping

from wherry_agent.serving.arriving import HttpLimits
from wherry_agent.serving.http import Connection
from wherry_agent.serving.message import Request, Respond, Response
from wherry_agent.serving.room import Room

LIMITS = HttpLimits(body_bytes=1000, head_bytes=500, pipelined=4, request_s=30, idle_s=60)


class Pipe(asyncio.Transport):
    """The other end of a connection, in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.open, self.half_closed, self.reads = True, False, True

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert self.open
        assert not self.half_closed
        self.written += data

    def write_eof(self) -> None:
        self.half_closed = True

    def close(self) -> None:
        self.open = False

    def abort(self) -> None:
        self.open = False

    def is_closing(self) -> bool:
        return not self.open

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


class Berthed:
    """A place for a body, which counts how often it was left."""

    def __init__(self, size_bytes: int) -> None:
        self.memory, self.left = memoryview(bytearray(size_bytes)), 0

    def leave(self) -> None:
        self.left += 1


class Peer:
    """A connection to a server that echoes bodies, or leaves requests open until it is told."""

    def __init__(
        self, *, answers: bool = True, limits: HttpLimits = LIMITS, room: Room | None = None
    ) -> None:
        self.pipe, self.asked, self.gone = Pipe(), list[tuple[Request, Respond]](), False
        self.answers = answers
        self.berths: list[Berthed] = []
        self.connection = Connection(
            self._handle, limits, self._end, room, find_berth=self._find_berth
        )
        self.connection.connection_made(self.pipe)

    def send(self, data: bytes) -> None:
        left = memoryview(data)
        while left and self.pipe.open:
            buffer = self.connection.get_buffer(-1)
            size = min(len(left), len(buffer))
            buffer[:size] = left[:size]
            self.connection.buffer_updated(size)
            left = left[size:]

    def answer(self, index: int) -> None:
        request, respond = self.asked[index]
        respond(Response(bytes(request.body)))

    @property
    def statuses(self) -> list[int]:
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", self.pipe.written)]

    def _find_berth(self, path: str, headers: Mapping[str, str], size_bytes: int) -> Berthed:
        self.berths.append(Berthed(size_bytes))
        return self.berths[-1]

    def _handle(self, request: Request, respond: Respond) -> None:
        self.asked.append((request, respond))
        if self.answers:
            respond(Response(bytes(request.body)))

    def _end(self, connection: Connection) -> None:
        self.gone = True


def on_a_loop(story: Callable[[], None]) -> None:
    async def run() -> None:
        story()

    asyncio.run(run())
