"""A proxy that stands on the devices' loopback for the controller's ports, and delays every byte.

    python -m tests.machines.badnet_delay HOST DELAY_MS PORT...

It holds little, so that a slow link looks slow to both sides, and hands resets and ends on.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import Sequence
from contextlib import suppress

DIAL_S = 20.0
PIECE_BYTES = 4096
PIECES = 16  # On their way at once, in one direction of a connection.


async def stand_in(host: str, delay_s: float, ports: Sequence[int]) -> None:
    """Listen on the same ports of loopback until cancelled."""

    async def accept(near: StreamReader, near_out: StreamWriter) -> None:
        port = near_out.get_extra_info("sockname")[1]
        with suppress(OSError, asyncio.TimeoutError):
            far, far_out = await asyncio.wait_for(asyncio.open_connection(host, port), DIAL_S)
            ways = [_carry(near, far_out, delay_s), _carry(far, near_out, delay_s)]
            await _until_one_ends([asyncio.ensure_future(way) for way in ways])
            far_out.transport.abort()
        near_out.transport.abort()

    servers = [await asyncio.start_server(accept, "127.0.0.1", port) for port in ports]
    await asyncio.gather(*(server.serve_forever() for server in servers))


async def _until_one_ends(ways: Sequence[asyncio.Future[None]]) -> None:
    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    for way in ways:
        way.cancel()
    await asyncio.gather(*ways, return_exceptions=True)


async def _carry(source: StreamReader, sink: StreamWriter, delay_s: float) -> None:
    """Hand on what comes from the source, each piece so much later, until either side ends."""
    loop = asyncio.get_running_loop()
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(PIECES)
    hand_on = asyncio.ensure_future(_hand_on(under_way, sink))
    try:
        while (piece := await source.read(PIECE_BYTES)) and not hand_on.done():
            await under_way.put((loop.time() + delay_s, piece))
        await under_way.put((loop.time() + delay_s, b""))
        await hand_on
    finally:
        hand_on.cancel()


async def _hand_on(under_way: asyncio.Queue[tuple[float, bytes]], sink: StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due_s, piece = await under_way.get()
        await asyncio.sleep(due_s - loop.time())
        if not piece:
            sink.close()
            await sink.wait_closed()
            return
        sink.write(piece)
        await sink.drain()


def main(words: Sequence[str]) -> None:
    host, delay_ms, *ports = words
    with suppress(KeyboardInterrupt):
        asyncio.run(stand_in(host, float(delay_ms) / 1000, [int(port) for port in ports]))


if __name__ == "__main__":
    main(sys.argv[1:])
