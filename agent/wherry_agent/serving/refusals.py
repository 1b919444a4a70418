"""Which refusal is told with which HTTP status."""

from __future__ import annotations

from http import HTTPStatus

from wherry.errors import Malformed, Unavailable, Unsuitable
from wherry.names import AliasName, BadName
from wherry_agent.asking import Unanswered
from wherry_agent.frames import Fault
from wherry_agent.serving.feedback import LabelledTwice, UnknownRequest
from wherry_agent.serving.message import Response, refusal
from wherry_agent.serving.regions import TooManyRegions
from wherry_agent.serving.repository import NotOffered
from wherry_agent.serving.room import NoRoom
from wherry_agent.serving.states import StaleStateRefused

RETRY_AFTER_S = 1

_OF_FAULTS = {
    Fault.NOT_FINITE: HTTPStatus.INTERNAL_SERVER_ERROR,
    Fault.RUNTIME_FAILED: HTTPStatus.INTERNAL_SERVER_ERROR,
    Fault.WORKER_DIED: HTTPStatus.SERVICE_UNAVAILABLE,
    Fault.TIMED_OUT: HTTPStatus.GATEWAY_TIMEOUT,
    Fault.OVERLOADED: HTTPStatus.SERVICE_UNAVAILABLE,
}


class UnknownModel(Unavailable):
    """An alias that no bundle was ever ordered for."""

    def __init__(self, alias: AliasName) -> None:
        super().__init__(alias)
        self.alias = alias

    def __str__(self) -> str:
        return f"no model was ever ordered under {self.alias!r}; ask for one that was."


class NothingServes(Unavailable):
    """An alias under which nothing answers now; `detail` ends with what to do."""

    def __init__(self, alias: AliasName, detail: str) -> None:
        super().__init__(alias, detail)
        self.alias, self.detail = alias, detail

    def __str__(self) -> str:
        return self.detail


class UnknownVersion(Unavailable):
    """A version that does not answer under an alias."""

    def __init__(self, alias: AliasName, serving: str) -> None:
        super().__init__(alias, serving)
        self.alias, self.serving = alias, serving

    def __str__(self) -> str:
        return f"{self.alias!r} is served by version {self.serving}; ask for that one, or for none."


def status_of(error: Malformed | Unavailable | Unsuitable) -> HTTPStatus:
    match error:
        case NothingServes() | NoRoom():
            return HTTPStatus.SERVICE_UNAVAILABLE
        case TooManyRegions():
            return HTTPStatus.TOO_MANY_REQUESTS
        case LabelledTwice() | StaleStateRefused():
            return HTTPStatus.CONFLICT
        case NotOffered():
            return HTTPStatus.NOT_IMPLEMENTED
        case BadName() | UnknownRequest() | UnknownModel() | UnknownVersion():
            return HTTPStatus.NOT_FOUND
        case _:
            return HTTPStatus.BAD_REQUEST


def refused(error: Malformed | Unavailable | Unsuitable) -> Response:
    """Return the response to a request that was refused."""
    status = status_of(error)
    again = status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS)
    return refusal(status, str(error), RETRY_AFTER_S if again else None)


def unanswered(outcome: Unanswered) -> Response:
    """Return the response to a request that got no answer."""
    status = _OF_FAULTS[outcome.fault]
    again = status is HTTPStatus.SERVICE_UNAVAILABLE
    return refusal(status, outcome.detail, RETRY_AFTER_S if again else None)
