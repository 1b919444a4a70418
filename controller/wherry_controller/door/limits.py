"""What a stranger may send to a door: so often, so much, in so much time; asked before all else."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from wherry_controller.api.door import bounded
from wherry_controller.api.problems import problem_of, respond
from wherry_controller.core.bucket import (
    MOST_ADDRESSES,
    Bucket,
    Rate,
    TooManyRequests,
    network_of,
    take,
)

BODY_S = 10.0


class Limited:
    """ASGI middleware; it forgets the address that asked longest ago."""

    def __init__(
        self, app: ASGIApp, *, rate: Rate, largest_bytes: int, clock: Callable[[], float]
    ) -> None:
        self._app = app
        self._rate = rate
        self._largest_bytes = largest_bytes
        self._clock = clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._count(address_of(scope))
        except TooManyRequests as error:
            answer = respond(problem_of(error))
            answer.headers["Retry-After"] = str(math.ceil(error.wait_s))
            await answer(scope, receive, send)
            return
        await self._app(scope, bounded(receive, self._largest_bytes), send)

    def _count(self, address: str) -> None:
        network = network_of(address)
        bucket = take(self._buckets.get(network), self._rate, self._clock())
        self._buckets[network] = bucket
        self._buckets.move_to_end(network)
        if len(self._buckets) > MOST_ADDRESSES:
            self._buckets.popitem(last=False)


def address_of(scope: Scope) -> str:
    """Return the address that a request came from."""
    client = scope.get("client")
    return str(client[0]) if client else ""


async def body_of(request: Request) -> bytes:
    """Return the whole body, if it comes in time."""
    try:
        return await asyncio.wait_for(request.body(), BODY_S)
    except TimeoutError as error:
        raise HTTPException(408, f"the body took longer than {BODY_S:.0f} s") from error
