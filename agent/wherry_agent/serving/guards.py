"""Whom the local API answers: users by setting, and over loopback no web pages.

A page in a browser on this machine may send requests to any port here. One that comes from
another origin says so (`Origin`), and one whose name was pointed here to be of the same origin
still asks for that name (`Host`). Programs do neither.
"""

from __future__ import annotations

from collections.abc import Set
from http import HTTPStatus

from wherry_agent.serving.message import Handler, Request, Respond, refusal

HOST, ORIGIN = "host", "origin"
_HERE = ("127.0.0.1", "localhost", "[::1]", "")


def answer_only(users: Set[int], handle: Handler, request: Request, respond: Respond) -> None:
    """Answer connections of these users."""
    user = request.user()
    if user in users:
        handle(request, respond)
    else:
        sentence = f"user {user} is not among the `users` of [api]; ask as one of them"
        respond(refusal(HTTPStatus.FORBIDDEN, sentence))


def answer_programs(handle: Handler, request: Request, respond: Respond) -> None:
    """Answer what no web page sends."""
    name = request.headers.get(HOST, "").rpartition(":")
    host = name[0] if name[2].isdigit() else request.headers.get(HOST, "")
    if ORIGIN in request.headers:
        sentence = "web pages are not answered; ask from a program, without an Origin"
        respond(refusal(HTTPStatus.FORBIDDEN, sentence))
    elif host.lower() not in _HERE:
        sentence = f"{host[:80]!r} is not this machine; ask for 127.0.0.1 or localhost"
        respond(refusal(HTTPStatus.FORBIDDEN, sentence))
    else:
        handle(request, respond)
