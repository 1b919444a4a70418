"""Errors as problem documents (RFC 9457): the one table from kinds of refusal to HTTP statuses.

`reason` is the error's class in words, so a new error needs no entry here, and `detail` is its
sentence, which ends with what to do next. What nobody foresaw is a 500 that says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from wherry.errors import REFUSALS, Malformed, Unavailable, Unsuitable, Untrusted
from wherry_controller.core.bucket import TooManyRequests
from wherry_controller.services.missing import Missing

MEDIA_TYPE = "application/problem+json"


class NotLoggedIn(Untrusted):
    """A request without a token, or with one that this controller did not give."""

    def __str__(self) -> str:
        return (
            "the request carries no valid token: send `Authorization: Bearer TOKEN` with the token "
            "that `wherry init` printed, or run `wherry login`."
        )


STATUS_OF: Mapping[type[Exception], HTTPStatus] = {
    NotLoggedIn: HTTPStatus.UNAUTHORIZED,
    Missing: HTTPStatus.NOT_FOUND,
    TooManyRequests: HTTPStatus.TOO_MANY_REQUESTS,
    Malformed: HTTPStatus.UNPROCESSABLE_ENTITY,
    Untrusted: HTTPStatus.FORBIDDEN,
    Unsuitable: HTTPStatus.CONFLICT,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}

NEXT_STEP: Mapping[int, str] = {
    400: "correct the request as /api/v1/openapi.json describes it.",
    404: "see /api/v1/openapi.json for the addresses that exist.",
    405: "see /api/v1/openapi.json for the methods that this address takes.",
    413: "send less at once.",
}


class FieldProblem(BaseModel):
    field: str = Field(description="Where in the request it stands", examples=["body.members.0"])
    problem: str = Field(examples=["Field required"])


class Problem(BaseModel):
    """What went wrong, for a person (`detail`) and for a program (`status`, `reason`)."""

    type: str = Field(examples=["urn:wherry:problem:unknown_profile"])
    title: str = Field(examples=["Unknown profile"])
    status: int = Field(examples=[404])
    detail: str = Field(
        description="One sentence that ends with what to do next",
        examples=["there is no profile 'tpu': choose one of pi-int8, x86-fp32."],
    )
    reason: str = Field(description="A code that stays the same", examples=["unknown_profile"])
    errors: list[FieldProblem] = Field(default_factory=list)


def status_of(error: Exception) -> HTTPStatus:
    """Return the status of the nearest class of `error` that the table names."""
    for kind in type(error).__mro__:
        if kind in STATUS_OF:
            return STATUS_OF[kind]
    return HTTPStatus.INTERNAL_SERVER_ERROR


def reason_of(error: Exception) -> str:
    """Return the error's class in words: `UnknownProfile` is `unknown_profile`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()


def problem_of(error: Exception) -> Problem:
    return _problem(status_of(error), reason_of(error), str(error))


def respond(problem: Problem) -> JSONResponse:
    headers = {"WWW-Authenticate": "Bearer"} if problem.status == HTTPStatus.UNAUTHORIZED else None
    return JSONResponse(
        problem.model_dump(exclude_defaults=True),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=headers,
    )


def install(app: FastAPI) -> None:
    """Make `app` answer every error with a problem document."""
    for kind in REFUSALS:
        app.add_exception_handler(kind, _on_refusal)
    app.add_exception_handler(RequestValidationError, _on_bad_request)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_surprise)


def _problem(
    status: int, reason: str, detail: str, errors: list[FieldProblem] | None = None
) -> Problem:
    return Problem(
        type=f"urn:wherry:problem:{reason}",
        title=reason.replace("_", " ").capitalize(),
        status=status,
        detail=detail,
        reason=reason,
        errors=errors or [],
    )


async def _on_refusal(_: Request, error: Exception) -> JSONResponse:
    return respond(problem_of(error))


async def _on_bad_request(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    fields = [
        FieldProblem(field=".".join(map(str, fault["loc"])), problem=fault["msg"])
        for fault in error.errors()
    ]
    first = f"{fields[0].field}: {fields[0].problem}" if fields else "it cannot be read"
    detail = f"the request does not fit the schema ({first}): {NEXT_STEP[400]}"
    return respond(_problem(HTTPStatus.UNPROCESSABLE_ENTITY, "bad_request", detail, fields))


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    reason = status.phrase.lower().replace(" ", "_")
    said = f"{request.method} {request.url.path}: {error.detail}".rstrip(".")
    next_step = NEXT_STEP.get(status, "see the controller's log.")
    return respond(_problem(status, reason, f"{said}; {next_step}"))


async def _on_surprise(request: Request, _: Exception) -> JSONResponse:
    detail = (
        f"{request.method} {request.url.path} failed inside the controller: "
        "see the controller's log, and report it if it happens again."
    )
    return respond(_problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", detail))
