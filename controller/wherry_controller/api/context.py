"""What a route has at hand, given once when the API is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from wherry_controller.services.builds import Builds
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.database import Store

PREFIX = "/api/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Reads go to the store; what changes the fleet's course is decided by one thread."""

    store: Store
    blobs: BlobFolder
    builds: Builds
    clock: Callable[[], float]


def _context_of(request: Request) -> Context:
    context = request.app.state.context
    assert isinstance(context, Context)
    return context


Here = Annotated[Context, Depends(_context_of)]
