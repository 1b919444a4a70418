"""What a route has at hand, given once when the API is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Protocol, TypeVar

from fastapi import Depends, Request

from wherry.names import Digest
from wherry_controller.mqtt import Traffic
from wherry_controller.services.builds import Builds
from wherry_controller.services.crl import Revocations
from wherry_controller.services.fleet import Fleet
from wherry_controller.services.identity import Identities
from wherry_controller.services.rollouts import Rollouts
from wherry_controller.services.sides import BothSides
from wherry_controller.services.trust import Trust
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.database import Store

T = TypeVar("T")

PREFIX = "/api/v1"


class Desk(Protocol):
    """Where the fleet's course is decided; only the one thread that decides is at it."""

    @property
    def fleet(self) -> Fleet: ...

    @property
    def rollouts(self) -> Rollouts: ...

    @property
    def identities(self) -> Identities: ...


class Decide(Protocol):
    """Has the deciding thread do a piece of work, and returns or raises what came of it."""

    def __call__(self, work: Callable[[Desk], T], /) -> T: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Reads go to the store at once; what changes the fleet's course goes through `decide`."""

    store: Store
    blobs: BlobFolder
    builds: Builds
    trust: Trust
    decide: Decide
    traffic: Callable[[], Traffic]
    clock: Callable[[], float]
    broker_url: str
    door_url: str
    ca: Digest
    revocations: Revocations
    sides: BothSides


def _context_of(request: Request) -> Context:
    context = request.app.state.context
    assert isinstance(context, Context)
    return context


Here = Annotated[Context, Depends(_context_of)]
