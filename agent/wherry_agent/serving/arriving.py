"""What has come of a request on its way in, and how much may come."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus

from wherry_agent.serving.message import Bytes, Response, refusal
from wherry_agent.serving.room import Taken


@dataclass(frozen=True, slots=True)
class HttpLimits:
    body_bytes: int = 16 << 20
    head_bytes: int = 16 << 10
    pipelined: int = 32  # Requests of one connection that may wait for their answers.
    request_s: float = 30.0  # For a request to arrive, or for an answer to be read.
    idle_s: float = 120.0  # Between requests.
    bodies_bytes: int = 64 << 20  # Of all connections together; one body always finds room.


class RefusedRequest(Exception):
    """Ends the parsing of a connection with a response."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


@dataclass(slots=True)
class Arriving:
    """What has come of the next request.

    A large body of a length that was told stands in `whole` up to `body_bytes`, any other in
    `pieces`; the rest of the whole is received right there once the parser has seen its begin.
    """

    taken: Taken
    path: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    head_bytes: int = 0
    unfinished_bytes: int = 0
    pieces: bytearray = field(default_factory=bytearray)  # No list: a piece may be one byte.
    whole: bytearray | memoryview | None = None
    body_bytes: int = 0
    announced_bytes: int = 0
    expects_continue: bool = False
    in_head: bool = True
    since_s: float | None = None

    @property
    def body(self) -> Bytes:
        return bytes(self.pieces) if self.whole is None else self.whole

    def bound_unfinished(self, more_bytes: int, limits: HttpLimits) -> None:
        """Bound a head without an end, of which the parser tells nothing yet."""
        self.unfinished_bytes += more_bytes
        self.bound_head(max(self.unfinished_bytes - self.head_bytes, 0), limits)

    def bound_head(self, more_bytes: int, limits: HttpLimits) -> None:
        self.head_bytes += more_bytes
        if self.head_bytes > limits.head_bytes:
            sentence = f"the head of a request has at most {limits.head_bytes} bytes here; cut it"
            raise RefusedRequest(refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, sentence))
