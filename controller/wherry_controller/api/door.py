"""The door of the API: a token for every request but the public ones, and a bound on each body.

Both stand before the routes, so a stranger's body is never read and learns of no route.
"""

from __future__ import annotations

import hashlib
import hmac

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wherry_controller.api.context import PREFIX
from wherry_controller.api.problems import NotLoggedIn, problem_of, respond

PUBLIC = frozenset({f"{PREFIX}/health", f"{PREFIX}/openapi.json"})
LARGEST_BODY_BYTES = 4 << 30


class BodyTooLarge(HTTPException):
    """A body longer than any request needs; the framework lets only its own kind through."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(413, f"the body is longer than {limit_bytes} bytes")


class Door:
    """ASGI middleware; `token_sha256` is all that it knows of the token."""

    def __init__(
        self, app: ASGIApp, token_sha256: str, limit_bytes: int = LARGEST_BODY_BYTES
    ) -> None:
        self._app = app
        self._token_sha256 = token_sha256
        self._limit_bytes = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] in PUBLIC or self._knows(bearer_of(scope)):
            await self._app(scope, bounded(receive, self._limit_bytes), send)
        else:
            await respond(problem_of(NotLoggedIn()))(scope, receive, send)

    def _knows(self, token: str) -> bool:
        return hmac.compare_digest(token_digest(token), self._token_sha256)


def token_digest(token: str) -> str:
    """Return the form in which a token is kept: it is random and long, so one sha256 is enough."""
    return hashlib.sha256(token.encode()).hexdigest()


def bearer_of(scope: Scope) -> str:
    """Return the token in the request's headers, or nothing."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    scheme, _, token = b"".join(values[:1]).decode("latin-1").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def bounded(receive: Receive, limit_bytes: int) -> Receive:
    """Return `receive` that raises `BodyTooLarge` once it has given more than the limit."""
    seen_bytes = 0

    async def receive_some() -> Message:
        nonlocal seen_bytes
        message = await receive()
        seen_bytes += len(message.get("body", b""))
        if seen_bytes > limit_bytes:
            raise BodyTooLarge(limit_bytes)
        return message

    return receive_some
