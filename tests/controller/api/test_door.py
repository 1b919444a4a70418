"""The door: who comes in, and how much may be brought."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from wherry_controller.api import problems
from wherry_controller.api.door import Door, token_digest

LIMIT_BYTES = 1000


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    problems.install(app)
    app.add_middleware(Door, token_sha256=token_digest("right"), limit_bytes=LIMIT_BYTES)

    @app.post("/length")
    async def length(request: Request) -> int:
        return len(await request.body())

    return TestClient(app)


def test_the_right_token_opens(client: TestClient) -> None:
    answer = client.post("/length", content=b"123", headers={"Authorization": "Bearer right"})
    assert answer.json() == 3


@pytest.mark.parametrize(
    "header",
    [None, "", "right", "Bearer", "Bearer ", "Bearer wrong", "Basic right", "Bearer ríght"],
)
def test_nothing_else_opens(client: TestClient, header: str | None) -> None:
    headers = {} if header is None else {b"Authorization": header.encode()}
    answer = client.post("/length", headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (401, "not_logged_in")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_stranger_learns_of_no_route(client: TestClient) -> None:
    assert client.get("/no/such/route").status_code == 401


@pytest.mark.parametrize("more", [0, 1])
def test_a_body_may_be_as_long_as_the_limit_and_no_longer(client: TestClient, more: int) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"x" * 600
        yield b"x" * (LIMIT_BYTES - 600 + more)

    answer = client.post("/length", content=pieces(), headers={"Authorization": "Bearer right"})
    assert answer.status_code == (413 if more else 200)
