"""The door where strangers become devices, and devices renew what they are.

Whoever asks here has no certificate yet, or one that has ended: a token, an approval or the proof
of an old key lets in. The CA is public; a device compares it with the fingerprint it was given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.types import Lifespan

from wherry import codec
from wherry.enrolment import (
    CA_PATH,
    ENROL_PATH,
    LARGEST_REQUEST_BYTES,
    RENEW_PATH,
    Enrolled,
    EnrolRequest,
    Renewal,
    RenewRequest,
    Waiting,
)
from wherry_controller.api import problems
from wherry_controller.authority import read_request
from wherry_controller.core.bucket import Rate
from wherry_controller.door.limits import Limited, address_of, body_of
from wherry_controller.services.admission import Asked
from wherry_controller.services.identity import Identities

T = TypeVar("T")

JSON = "application/json"
PEM = "application/x-pem-file"


class Publishes(Protocol):
    """Tells devices their orders."""

    def publish(self, now: float) -> None: ...


class Desk(Protocol):
    """Where identities are decided; only the one thread that decides is at it."""

    @property
    def fleet(self) -> Publishes: ...

    @property
    def identities(self) -> Identities: ...


class Decide(Protocol):
    """Has the deciding thread do a piece of work, and returns or raises what came of it."""

    def __call__(self, work: Callable[[Desk], T], /) -> T: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorContext:
    """What the door has at hand."""

    decide: Decide
    clock: Callable[[], float]
    ca_pem: bytes
    rate: Rate


def make_door(context: DoorContext, *, lifespan: Lifespan[FastAPI] | None = None) -> FastAPI:
    """Return the application behind the door."""
    app = FastAPI(openapi_url=None, lifespan=lifespan)
    problems.install(app)
    app.add_middleware(
        Limited, rate=context.rate, largest_bytes=LARGEST_REQUEST_BYTES, clock=context.clock
    )

    @app.get(CA_PATH)
    def ca() -> Response:
        return Response(context.ca_pem, media_type=PEM)

    @app.post(ENROL_PATH)
    async def enrol(request: Request) -> Response:
        body, address = await body_of(request), address_of(request.scope)
        return await run_in_threadpool(_enrol, context, body, address)

    @app.post(RENEW_PATH)
    async def renew(request: Request) -> Response:
        return await run_in_threadpool(_renew, context, await body_of(request))

    return app


def _enrol(context: DoorContext, body: bytes, address: str) -> Response:
    wishes = codec.decode(EnrolRequest, body, limit_bytes=LARGEST_REQUEST_BYTES)
    asked = Asked(wishes, read_request(wishes.csr), address)
    now = context.clock()

    def work(desk: Desk) -> Enrolled | Waiting:
        answer = desk.identities.enrol(asked, now=now)
        if isinstance(answer, Enrolled) and answer.epoch > 1:
            desk.fleet.publish(now)  # The orders that it had are for an identity of the past.
        return answer

    answer = context.decide(work)
    status = 202 if isinstance(answer, Waiting) else 200
    return Response(codec.encode(answer), status_code=status, media_type=JSON)


def _renew(context: DoorContext, body: bytes) -> Response:
    proved = codec.decode(RenewRequest, body, limit_bytes=LARGEST_REQUEST_BYTES)
    data = bytes(proved.renewal)
    renewal = codec.decode(Renewal, data)
    request = read_request(renewal.csr)
    now = context.clock()
    answer = context.decide(
        lambda desk: desk.identities.renew(renewal, data, proved.signature, request, now=now)
    )
    return Response(codec.encode(answer), media_type=JSON)
