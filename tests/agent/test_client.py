"""The client's errors say what to do, and its connection heals."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wherry_agent.client import Client, NotReachable

READY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


@contextmanager
def a_server(path: Path, responses: list[bytes]) -> Iterator[None]:
    """Answer one request on each connection, then close it."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def answer() -> None:
        for response in responses:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(response)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        thread.join(30)
        listener.close()


def test_an_agent_that_is_not_there_is_said_with_its_address(tmp_path: Path) -> None:
    path = tmp_path / "none.sock"
    with Client(path) as client, pytest.raises(NotReachable, match=f"no agent answers at {path}"):
        client.is_ready("default")


def test_a_connection_that_the_agent_closed_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with a_server(path, [READY, READY]), Client(path) as client:
        assert [client.is_ready("default") for _ in range(2)] == [True, True]


@pytest.mark.parametrize(
    "response",
    [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nnonsens"],
    ids=["nothing", "no http", "no json"],
)
def test_what_answers_and_is_no_agent_is_said_to_be_none(tmp_path: Path, response: bytes) -> None:
    path = tmp_path / "api.sock"
    with a_server(path, [response]), Client(path) as client, pytest.raises(NotReachable):
        client.metadata("default")
